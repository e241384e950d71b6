"""What people read of a run: the results table and its picture."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence

from tf2 import files, metrics, progress

# Okabe and Ito's colors, told apart by color-blind readers too; one per method, everywhere.
COLORS = {
    "supervised baseline": "#999999",
    "pretrained": "#56B4E9",
    "fine-tuned": "#0072B2",
    "self-distilled": "#D55E00",
    "distilled student": "#009E73",
}
_COLUMNS = ("method", "labels", "top-1 (%)", "kNN (%)", "parameters", "time")


def percent(value: float | None) -> str:
    """Writes a fraction as a percentage with one decimal; empty for None."""
    return "" if value is None else f"{100 * value:.1f}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a Markdown table whose columns line up in plain text too."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write_table(rows: Sequence[Mapping], directory: str, *, title: str) -> str:
    """Writes the results of a run as results.md, results.csv and results.png.

    TensorBoard gets the picture too.

    Args:
        rows: one per method: method, labels (in words), top_1 and knn (fractions, or None),
            parameters (of the network with its heads), seconds (of training and evaluation).
        directory: where to.
        title: of table and picture.

    Returns:
        The table and the paths, to be printed.
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
    wrote = ["results.md", "results.csv"]
    files.write_text(os.path.join(directory, "results.md"), f"# {title}\n\n{table}\n")
    drawn = [row for row in rows if row["top_1"] is not None]
    if drawn:
        picture = draw_bars(drawn, os.path.join(directory, "results.png"), title=title)
        metrics.write_only_picture(directory, "results", picture, step=0)
        wrote.append("results.png")
    return f"{title}\n\n{table}\n\nWritten to {directory}: {', '.join(wrote)}"


def write_csv(path: str, rows: Sequence[Mapping]) -> None:
    """Writes rows of one kind as a table with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def draw_bars(rows: Sequence[Mapping], path: str, *, title: str) -> bytes:
    """Draws the top-1 accuracy of each method as a PNG; returns its bytes."""
    figure, axes = _figure(len(rows) * 0.55 + 1.3)
    methods = [f"{row['method']}\n{row['parameters']:,} parameters" for row in rows]
    values = [100 * row["top_1"] for row in rows]
    colors = [COLORS.get(row["method"], "#CC79A7") for row in rows]
    bars = axes.barh(methods, values, color=colors, height=0.7)
    axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    labels = sorted({row["labels"] for row in rows})
    axes.set_xlabel(f"top-1 accuracy (%), {labels[0]} labeled" if len(labels) == 1 else "top-1 (%)")
    axes.set_title(title, loc="left", fontsize=11)
    return _save(figure, path)


def draw_label_efficiency(
    points: Mapping[str, Sequence[tuple[float, float, float]]],
    path: str,
    *,
    title: str,
    xlabel: str,
) -> bytes:
    """Draws accuracy over the number of labels, one line per method, as a PNG.

    Args:
        points: method -> (labels, mean accuracy, standard deviation), fractions, by labels.
        path: of the picture.
        title: above it.
        xlabel: what the labels count.

    Returns:
        The bytes of the PNG.
    """
    figure, axes = _figure(4.2)
    for method, found in points.items():
        labels, means, spreads = (list(column) for column in zip(*found, strict=True))
        axes.errorbar(
            labels,
            [100 * mean for mean in means],
            [100 * spread for spread in spreads],
            label=method,
            color=COLORS.get(method, "#CC79A7"),
            marker="o",
            capsize=3,
        )
    ticks = sorted({label for found in points.values() for label, *_ in found})
    if len(ticks) > 1:
        axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(xlabel)
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    axes.grid(alpha=0.3)
    return _save(figure, path)


def _figure(height: float):
    # Without pyplot: no window, no state shared with a notebook's own figures.
    from matplotlib.backends import backend_agg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height), dpi=120)
    backend_agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure, path: str) -> bytes:
    held = io.BytesIO()
    figure.savefig(held, format="png", bbox_inches="tight")
    files.write_bytes(path, held.getvalue())
    return held.getvalue()
