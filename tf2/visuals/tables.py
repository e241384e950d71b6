"""Tables: Markdown and CSV, and the files with the results of a three-stage run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from tf2 import files, intervals, metrics, progress
from tf2.visuals import plots

COLUMNS = ("method", "labels", "top-1 (%)", "mean per class (%)", "kNN (%)", "parameters", "time")


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


def accuracy_cell(row: Mapping, name: str = "top_1") -> str:
    """Formats an accuracy of a row as 87.2 (83.4 to 90.3), with its interval if it has one.

    Args:
        row: see `write_results`.
        name: of the accuracy; its interval is <name>_low and <name>_high.
    """
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = "" if low is None or high is None else intervals.bounds(low, high)
    return f"{percent(row.get(name))} {interval}".strip()


def cells(row: Mapping) -> tuple[str, ...]:
    """Returns the cells of a row, in the order of COLUMNS; see `write_results`."""
    return (
        *(row["method"], row["labels"], accuracy_cell(row)),
        *(accuracy_cell(row, "mean_per_class"), percent(row["knn"])),
        *(f"{row['parameters']:,}", progress.format_seconds(row["seconds"])),
    )


def measured_on(rows: Sequence[Mapping]) -> str:
    """Returns the sentence below a table: test images and majority class; empty if unknown."""
    known = [row for row in rows if row.get("num_images") and row.get("majority_class")]
    if not known:
        return ""
    row = known[-1]
    return (
        f"Measured on {row['num_images']:,.0f} images that were not trained on; in parentheses the "
        f"95 % interval. The majority class alone: {percent(row['majority_class'])} %."
    )


def write_results(
    rows: Sequence[Mapping], directory: str, *, title: str, notes: Sequence[str] = ()
) -> str:
    """Writes the results of a run as results.md, results.csv and results.png.

    TensorBoard gets the figure too.

    Args:
        rows: one per method: method, labels (in words), top_1 and knn (fractions, or None),
            parameters (see `variables.count_parameters`), seconds (of training and evaluation),
            and if known mean_per_class, majority_class, the intervals top_1_low, top_1_high,
            mean_per_class_low, mean_per_class_high (fractions), and num_images.
        directory: where to write.
        title: of table and figure.
        notes: sentences below the table.

    Returns:
        The table and the names of the files, to be printed.
    """
    table = markdown_table(COLUMNS, [cells(row) for row in rows])
    text = "\n\n".join(filter(None, [table, measured_on(rows), *notes]))
    files.make_directory(directory)
    files.write_csv(os.path.join(directory, "results.csv"), rows)
    files.write_text(os.path.join(directory, "results.md"), f"# {title}\n\n{text}\n")
    written = ["results.md", "results.csv"]
    classifiers = [row for row in rows if row["top_1"] is not None]
    if classifiers:
        png = plots.accuracy_bars(classifiers, title=title)
        files.write_bytes(os.path.join(directory, "results.png"), png)
        metrics.write_only_figure(directory, "results", png, step=0)
        written.append("results.png")
    return f"{title}\n\n{text}\n\nWritten to {directory}: {', '.join(written)}"
