"""The findings of an audit as one HTML page, with the images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from tf2.visuals import page

FILE_NAME = "audit.html"

_GROUPS, _IMAGES = 60, 120  # shown of a finding, at most
_ADVICE = {
    "leak": "Accuracies on the held-out images count them as new, though they were trained on. "
    "Remove them on one side.",
    "duplicate": "Keep one image of each group, or one label for all of them.",
    "label": "The least probable labels first. Most are right where classes look alike: look at "
    "the image before you change its label.",
    "outlier": "The farthest first. Remove what does not belong to your images.",
}


def choose(rows: Sequence[Mapping]) -> list[Mapping]:
    """Returns the rows whose images are shown.

    Args:
        rows: of an audit, in their order.
    """
    shown: list[Mapping] = []
    for _, of_finding in itertools.groupby(rows, key=lambda row: row["finding"]):
        own = list(of_finding)
        groups = list(dict.fromkeys(row["group"] for row in own))[:_GROUPS]
        shown += [row for row in own if row["group"] in groups][:_IMAGES]
    return shown


def render(
    title: str,
    rows: Sequence[Mapping],
    meanings: Mapping[str, str],
    previews: Mapping[int, bytes],
    num_images: int,
    notes: Sequence[str] = (),
) -> str:
    """Returns the page.

    Args:
        title: of the page.
        rows: finding, index (None for a file that is no image), group, path, split, label,
            probability, suggested, suggested_probability, reason; see `tf2.apply.audit`.
        meanings: finding -> what it means, in their order.
        previews: index -> JPEG.
        num_images: that were looked at.
        notes: sentences.
    """
    by_finding = {name: [row for row in rows if row["finding"] == name] for name in meanings}
    counts = [(name, f"{len(found):,}", meanings[name]) for name, found in by_finding.items()]
    summary = page.paragraphs([f"{num_images:,} images were looked at.", *notes])
    summary += page.table(("finding", "images", "meaning"), counts)
    sections = [page.section("Summary", summary)]
    for name, found in by_finding.items():
        if found:
            heading = f"{name.capitalize()}: {meanings[name]}"
            sections.append(page.section(heading, _finding(name, found, previews)))
    return page.document(title, sections)


def _finding(name: str, rows: Sequence[Mapping], previews: Mapping[int, bytes]) -> str:
    parts = [page.paragraphs([_ADVICE[name]], "quiet small")] if name in _ADVICE else []
    shown = [row for row in choose(rows) if row["index"] in previews]
    if not shown:
        parts.append(page.table(("file", "reason"), [(r["path"], r["reason"]) for r in rows]))
    groups = []
    for group, members in itertools.groupby(shown, key=lambda row: row["group"]):
        cells = page.examples(_cell(row, previews[row["index"]]) for row in members)
        groups.append(f"<div>\n<h3>Group {group}</h3>\n{cells}\n</div>" if group else cells)
    parts.append(page.columns(groups) if shown and shown[0]["group"] else "\n".join(groups))
    if shown and len(shown) < len(rows):
        parts.append(page.paragraphs([f"{len(rows) - len(shown):,} more in audit.csv."], "quiet"))
    return "\n".join(parts)


def _cell(row: Mapping, preview: bytes) -> str:
    where = f" ({row['split']})" if row["finding"] == "leak" else ""
    caption, wrong = f"{row['label'] or 'no label'}{where}", row["reason"]
    if row["finding"] == "label":
        caption = f"{row['label']} {100 * row['probability']:.1f} %"
        wrong = f"rather {row['suggested']} {100 * row['suggested_probability']:.0f} %"
    return page.example(preview, row["path"], caption, wrong)
