"""The report of a run as one HTML page, which needs no network and fits a phone.

Its content is passed in; every text is escaped, since file and class names are the user's.
"""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Iterable, Mapping, Sequence

from tf2 import files, intervals
from tf2.visuals import page, style, tables

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
        trust: sentences on how far the probabilities can be trusted.
        precisions: (precision, probability, share that needs no review), in words.
        reliability: a figure of accuracy over probability.
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
    trust: Sequence[str] = ()
    precisions: Sequence[tuple[str, str, str]] = ()
    reliability: Sequence[Figure] = ()
    examples_of: str = ""
    most_certain: Sequence[Example] = ()
    least_certain: Sequence[Example] = ()
    files: Sequence[tuple[str, str, int]] = ()
    next_steps: str = ""


def write(report: Report, directory: str) -> str:
    """Writes report.html; returns its path."""
    path = os.path.join(directory, FILE_NAME)
    files.make_directory(directory)
    files.write_bytes(path, page.encode(render(report)))
    return path


def render(report: Report) -> str:
    """Returns the page."""
    sections = [
        page.section("Results", _results(report)),
        page.section("What was found", page.paragraphs(report.found)),
        page.section("What was decided", _decided(report.decided)),
        page.section("Map of the features", _figures(report.feature_maps)),
        page.section("Confusion matrix", _figures(report.confusion)),
        page.section("How far to trust it", _trust(report)),
        page.section("Predictions", _examples(report)),
        page.section("How it learned", _figures(report.curves)),
        page.section("Files", _files(report.files)),
        page.section("Next", _next_steps(report.next_steps)),
    ]
    return page.document(report.title, sections)


def _results(report: Report) -> str:
    classifiers = [row for row in report.rows if row.get("top_1") is not None]
    parts = [
        _headline(classifiers, report.result),
        page.paragraphs(report.warnings, "warning"),
        _bars(classifiers),
    ]
    parts.append(page.paragraphs([*filter(None, [tables.measured_on(report.rows)]), *report.notes]))
    if report.rows:
        parts.append(page.table(tables.COLUMNS, map(tables.cells, report.rows)))
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
    return page.table(("setting", "value", "why"), decided) if decided else ""


def _figures(figures: Iterable[Figure]) -> str:
    return "\n".join(
        f"<figure>{page.image(figure.png, figure.caption)}"
        f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
        for figure in figures
    )


def _trust(report: Report) -> str:
    parts = [page.paragraphs(report.trust)] if report.trust else []
    if report.precisions:
        columns = ("precision, at least", "from a probability of", "needs no review")
        parts.append(page.table(columns, report.precisions))
    return "\n".join([*parts, *filter(None, [_figures(report.reliability)])])


def _examples(report: Report) -> str:
    parts = []
    for title, examples in (
        ("Least certain", report.least_certain),
        ("Most certain", report.most_certain),
    ):
        if examples:
            parts.append(f"<h3>{title}</h3>\n{page.examples(map(_example, examples))}")
    if not parts:
        return ""
    intro = f"{report.examples_of}; chosen by the probability of the predicted class. New labels "
    intro += "help most where the network is least certain."
    return "\n".join([page.paragraphs([intro], "quiet small"), *parts])


def _example(example: Example) -> str:
    known = example.true_class
    wrong = f"true: {known}" if known is not None and known != example.predicted else ""
    caption = f"{example.predicted} {100 * example.probability:.0f} %"
    return page.example(example.image, example.path, caption, wrong)


def _files(listed: Sequence[tuple[str, str, int]]) -> str:
    rows = [(path, what, _size(size)) for path, what, size in listed]
    return page.table(("file", "content", "size"), rows) if rows else ""


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
