"""Tables: Markdown and CSV, and the files with the results of a three-stage run."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence

from tf2 import console, files, intervals, metrics, progress
from tf2.visuals import plots

COLUMNS = ("method", "labels", "top-1 (%)", "mean per class (%)", "kNN (%)", "parameters", "time")


def percent(value: float | None) -> str:
    """Formats a fraction as a percentage with one decimal; empty for None."""
    return "" if value is None else f"{100 * value:.1f}"


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
    table = console.markdown_table(COLUMNS, [cells(row) for row in rows])
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


# ---- studies, whose rows have method, labels (a number), seed and some measures


def over_seeds(
    rows: Sequence[Mapping], measure: str, methods: Iterable[str]
) -> dict[str, list[tuple[float, float, float]]]:
    """Returns method -> [(labels, mean, standard deviation)] of a measure over the seeds.

    The standard deviation is the sample's (n - 1), or 0 for a single seed. What was not measured,
    None, is left out.
    """
    points: dict[str, list[tuple[float, float, float]]] = {}
    for method in methods:
        of_method = [row for row in rows if row["method"] == method and row[measure] is not None]
        for labels in sorted({row["labels"] for row in of_method}):
            values = [row[measure] for row in of_method if row["labels"] == labels]
            std = statistics.stdev(values) if len(values) > 1 else 0.0
            points.setdefault(method, []).append((labels, statistics.mean(values), std))
    return points


def cells_over_labels(
    points: Sequence[tuple[float, float, float]], rows: Sequence[Mapping]
) -> list[str]:
    """Returns the cells of a method, one for each number of labels in the rows of a study."""
    several = len({row["seed"] for row in rows}) > 1  # one seed has no deviation
    known = {
        labels: f"{percent(mean)}" + f" ± {percent(std)}" * several for labels, mean, std in points
    }
    return [known.get(labels, "") for labels in sorted({row["labels"] for row in rows})]


def study_title(title: str, rows: Sequence[Mapping]) -> str:
    """Returns the title of a study's table and figure: what is shown, over how many seeds."""
    seeds = len({row["seed"] for row in rows})
    of_seeds = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    return f"{title}: {of_seeds}"
