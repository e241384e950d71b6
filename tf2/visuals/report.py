"""The report of a run as one HTML page, which needs no network and fits a phone.

Its content is passed in; every text is escaped, since file and class names are the user's.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import os
from collections.abc import Iterable, Mapping, Sequence

from tf2 import files, intervals
from tf2.visuals import page_style, style, tables

FILE_NAME = "report.html"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure: the bytes of a PNG, and what it shows."""

    png: bytes
    caption: str


@dataclasses.dataclass(frozen=True)
class Example:
    """An image with its prediction.

    Attributes:
        image: the bytes of a JPEG or PNG.
        path: its name.
        predicted: the predicted class.
        probability: of that class, a fraction.
        true_class: None if unknown.
    """

    image: bytes
    path: str
    predicted: str
    probability: float
    true_class: str | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report shows; empty parts are left out.

    Attributes:
        title: of the page.
        found: sentences on the images; see `listing.Listing.describe`.
        decided: (setting, value, reason) of each setting that was chosen for the user.
        rows: of the results table; see `tables.write_results`.
        result: the method whose network is the result.
        notes: sentences on the results.
        warnings: sentences on what went wrong; see `tf2.sanity`.
        curves: a figure of losses and accuracies per stage.
        feature_maps: maps of the features.
        confusion: confusion matrix and accuracies per class.
        examples_of: what the images of the examples are, in words.
        most_certain: predictions with the highest probabilities.
        least_certain: those with the lowest.
        files: (path, what it is, bytes).
        next_steps: text; lines that begin with two spaces are commands.
    """

    title: str
    found: Sequence[str] = ()
    decided: Sequence[tuple[str, str, str]] = ()
    rows: Sequence[Mapping] = ()
    result: str = ""
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    curves: Sequence[Figure] = ()
    feature_maps: Sequence[Figure] = ()
    confusion: Sequence[Figure] = ()
    examples_of: str = ""
    most_certain: Sequence[Example] = ()
    least_certain: Sequence[Example] = ()
    files: Sequence[tuple[str, str, int]] = ()
    next_steps: str = ""


def write(report: Report, directory: str) -> str:
    """Writes report.html; returns its path."""
    path = os.path.join(directory, FILE_NAME)
    files.make_directory(directory)
    # A file name that is no text has lone surrogates, which UTF-8 cannot hold.
    files.write_bytes(path, render(report).encode("utf-8", "replace"))
    return path


def render(report: Report) -> str:
    """Returns the page."""
    title = html.escape(report.title)
    sections = [
        _section("Results", _results(report)),
        _section("What was found", _paragraphs(report.found)),
        _section("What was decided", _decided(report.decided)),
        _section("Map of the features", _figures(report.feature_maps)),
        _section("Confusion matrix", _figures(report.confusion)),
        _section("Predictions", _examples(report)),
        _section("How it learned", _figures(report.curves)),
        _section("Files", _files(report.files)),
        _section("Next", _next_steps(report.next_steps)),
    ]
    body = "\n".join(section for section in sections if section)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{page_style.CSS}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""


def _paragraphs(sentences: Iterable[str], css_class: str = "") -> str:
    attribute = f' class="{css_class}"' if css_class else ""
    return "\n".join(f"<p{attribute}>{html.escape(text)}</p>" for text in sentences)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table, which is a list of cards on a phone."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = [
        "".join(
            f'<td data-column="{html.escape(name)}">{html.escape(cell)}</td>'
            for name, cell in zip(columns, row, strict=True)
        )
        for row in rows
    ]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _results(report: Report) -> str:
    classifiers = [row for row in report.rows if row.get("top_1") is not None]
    parts = [
        _headline(classifiers, report.result),
        _paragraphs(report.warnings, "warning"),
        _bars(classifiers),
    ]
    parts.append(_paragraphs([*filter(None, [tables.measured_on(report.rows)]), *report.notes]))
    if report.rows:
        parts.append(_table(tables.COLUMNS, map(tables.cells, report.rows)))
    return "\n".join(part for part in parts if part)


def _headline(classifiers: Sequence[Mapping], result: str) -> str:
    """Returns the accuracy of the network that is the result, in large type."""
    best = next((row for row in classifiers if row["method"] == result), None)
    if best is None:
        return ""
    interval = _interval(best)
    text = f"{html.escape(best['method'])}, {html.escape(best['labels'])} labels"
    if interval:
        text += f"; 95 % interval {intervals.bounds(*interval).strip('()')}"
    return (
        f'<p class="headline"><strong>{100 * best["top_1"]:.1f} %</strong> '
        f'<span class="quiet">{text}</span></p>'
    )


def _interval(row: Mapping) -> tuple[float, float] | None:
    low, high = row.get("top_1_low"), row.get("top_1_high")
    return None if low is None or high is None else (low, high)


def _bars(classifiers: Sequence[Mapping]) -> str:
    """Returns a bar per method, with its interval and the majority class."""
    bars = []
    for row in classifiers:
        marks = f'<span class="fill" style="width: {100 * row["top_1"]:.2f}%; '
        marks += f'background: {style.method_color(row["method"])}"></span>'
        if interval := _interval(row):
            low, high = (100 * bound for bound in interval)
            place = f"left: {low:.2f}%; width: {high - low:.2f}%"
            marks += f'<span class="interval" style="{place}"></span>'
        if majority := row.get("majority_class"):
            marks += f'<span class="majority" style="left: {100 * majority:.2f}%"></span>'
        accuracy = intervals.text(row["top_1"], _interval(row))
        bars.append(
            f'<div><div class="bar-head"><span>{html.escape(row["method"])}</span>'
            f'<span class="number">{accuracy}</span></div><div class="track">{marks}</div></div>'
        )
    return f'<div class="bars">{"".join(bars)}</div>' if bars else ""


def _decided(decided: Sequence[tuple[str, str, str]]) -> str:
    return _table(("setting", "value", "why"), decided) if decided else ""


def _image(data: bytes, description: str) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/{kind};base64,{encoded}">'


def _figures(figures: Iterable[Figure]) -> str:
    return "\n".join(
        f"<figure>{_image(figure.png, figure.caption)}"
        f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
        for figure in figures
    )


def _examples(report: Report) -> str:
    parts = []
    for title, examples in (
        ("Least certain", report.least_certain),
        ("Most certain", report.most_certain),
    ):
        if examples:
            cells = "\n".join(map(_example, examples))
            parts.append(f'<h3>{title}</h3>\n<div class="examples">\n{cells}\n</div>')
    if not parts:
        return ""
    intro = f"{report.examples_of}; chosen by the probability of the predicted class. New labels "
    intro += "help most where the network is least certain."
    return "\n".join([_paragraphs([intro], "quiet small"), *parts])


def _example(example: Example) -> str:
    path, known = html.escape(example.path), example.true_class
    truth = ""
    if known is not None and known != example.predicted:
        truth = f'<span class="wrong">true: {html.escape(known)}</span>'
    caption = f"{html.escape(example.predicted)} {100 * example.probability:.0f} %"
    return (
        f'<div class="example">{_image(example.image, example.path)}'
        f'<span class="class">{caption}</span>{truth}'
        f'<span class="path" title="{path}">{path}</span></div>'
    )


def _files(listed: Sequence[tuple[str, str, int]]) -> str:
    rows = [(path, what, _size(size)) for path, what, size in listed]
    return _table(("file", "content", "size"), rows) if rows else ""


def _size(count: int) -> str:
    """Formats a number of bytes as 1.2 MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{max(count, 50) / 1e3:.1f} kB"


def _next_steps(text: str) -> str:
    """Returns paragraphs, and commands in boxes."""
    parts: list[tuple[bool, list[str]]] = []
    for line in text.splitlines():
        is_command = line.startswith("  ")
        if not line.strip():
            parts.append((False, []))
        elif parts and parts[-1][0] == is_command and not is_command:
            parts[-1][1].append(line)
        else:
            parts.append((is_command, [line.strip()]))
    return "\n".join(
        f"<pre>{html.escape(' '.join(lines))}</pre>"
        if is_command
        else f"<p>{html.escape(' '.join(lines))}</p>"
        for is_command, lines in parts
        if lines
    )
