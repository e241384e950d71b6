"""Tables: Markdown and CSV, and the files with the results of a three-stage run."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence

from tf2 import files, metrics, progress
from tf2.visuals import plots

_COLUMNS = ("method", "labels", "top-1 (%)", "kNN (%)", "parameters", "time")


def percent(value: float | None) -> str:
    """Formats a fraction as a percentage with one decimal; empty for None."""
    return "" if value is None else f"{100 * value:.1f}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table whose columns line up in plain text too."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write_csv(path: str, rows: Sequence[Mapping]) -> None:
    """Writes rows with the same keys as a CSV file with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def write_results(rows: Sequence[Mapping], directory: str, *, title: str) -> str:
    """Writes the results of a run as results.md, results.csv and results.png.

    TensorBoard gets the figure too.

    Args:
        rows: one per method: method, labels (in words), top_1 and knn (fractions, or None),
            parameters (of the network with its heads), seconds (of training and evaluation).
        directory: where to write.
        title: of table and figure.

    Returns:
        The table and the names of the files, to be printed.
    """
    table = markdown_table(
        _COLUMNS,
        [
            (
                *(row["method"], row["labels"], percent(row["top_1"]), percent(row["knn"])),
                *(f"{row['parameters']:,}", progress.format_seconds(row["seconds"])),
            )
            for row in rows
        ],
    )
    files.make_directory(directory)
    write_csv(os.path.join(directory, "results.csv"), rows)
    files.write_text(os.path.join(directory, "results.md"), f"# {title}\n\n{table}\n")
    written = ["results.md", "results.csv"]
    classifiers = [row for row in rows if row["top_1"] is not None]
    if classifiers:
        png = plots.accuracy_bars(classifiers, title=title)
        files.write_bytes(os.path.join(directory, "results.png"), png)
        metrics.write_only_figure(directory, "results", png, step=0)
        written.append("results.png")
    return f"{title}\n\n{table}\n\nWritten to {directory}: {', '.join(written)}"
