"""Charts: arrays in, the bytes of a PNG out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf2.visuals import style

# Accuracies that training does not change, drawn as horizontal lines. Older runs have the old name
# of the majority-class accuracy alone; newer ones have both.
_MAJORITY, _MAJORITY_OLD_NAME = "eval/majority_class_accuracy", "eval/chance_accuracy"
_LEVELS = (_MAJORITY, _MAJORITY_OLD_NAME, "eval/knn_accuracy_untrained")
_CLASSES_IN_LEGEND = 20
_CLASSES_WITH_NUMBERS = 20
_BARS = 40


def curves(history: Mapping[str, Sequence[tuple[int, float]]], *, title: str) -> bytes | None:
    """Draws losses (upper panel) and accuracies (lower panel) over the training steps.

    Args:
        history: name of a scalar -> its (step, value) in order, as TensorBoard has them.
        title: above the figure.

    Returns:
        A PNG; None if there is neither a loss nor an accuracy.
    """
    # The L2 term is part of the total; alone it would stretch the axis by orders of magnitude.
    losses = {n: v for n, v in history.items() if n.endswith("_loss") and "regular" not in n}
    accuracies = {n: v for n, v in history.items() if "_acc" in n}
    if _MAJORITY_OLD_NAME in accuracies:
        values = accuracies.pop(_MAJORITY_OLD_NAME)
        accuracies.setdefault(_MAJORITY, values)
    rows = ((losses, "loss (nats)", 1.0), (accuracies, "accuracy (%)", 100.0))
    panels = [row for row in rows if row[0]]
    if not panels:
        return None
    figure = style.new_figure(9, 0.4 + 3.1 * len(panels))
    axes: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (scalars, label, factor) in zip(axes, panels, strict=True):
        for number, (name, points) in enumerate(sorted(scalars.items())):
            color = style.COLORS[number % len(style.COLORS)]
            steps, values = zip(*points, strict=True)
            if name in _LEVELS:
                ax.axhline(factor * values[-1], color=color, ls=":", lw=1.6, label=name)
            else:
                look = _line_style(name, len(steps))
                ax.plot(steps, factor * np.array(values), label=name, color=color, lw=1.6, **look)
        ax.set_ylabel(label)
        style.add_grid(ax)
        style.add_legend(ax)
    axes[-1].set_xlabel("training steps")
    style.set_title(axes[0], title)
    return style.to_png(figure)


def _line_style(name: str, points: int) -> dict:
    """Returns dashes and diamonds for an evaluation; dots for a training of few points."""
    if name.startswith("eval/"):
        return {"ls": "--", "marker": "D", "ms": 6}
    return {"marker": "o", "ms": 4} if points < 30 else {}


def accuracy_bars(rows: Sequence[Mapping], *, title: str) -> bytes:
    """Draws the top-1 accuracy of each method as a bar.

    Args:
        rows: per method: method, top_1 (a fraction), parameters, labels (in words), and if known
            top_1_low and top_1_high, drawn as error bars, and majority_class, drawn as a line.
        title: above the figure.

    Returns:
        A PNG.
    """
    figure = style.new_figure(7.5, 0.6 * len(rows) + 1.2)
    ax = figure.subplots()
    methods = [f"{row['method']}\n{row['parameters']:,} parameters" for row in rows]
    values = [100 * row["top_1"] for row in rows]
    colors = [style.method_color(row["method"]) for row in rows]
    bars = ax.barh(methods, values, color=colors, height=0.7, xerr=_error_bars(rows), capsize=3)
    ax.bar_label(bars, [f"{value:.1f}" for value in values], padding=3)
    majority = rows[-1].get("majority_class")
    if majority:
        ax.axvline(100 * majority, color="black", ls=":", lw=1.2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.invert_yaxis()
    ax.set_xlim(0, 108)
    ax.set_xticks(range(0, 101, 20))
    labels = {row["labels"] for row in rows}
    below = f"; labels: {labels.pop()}" if len(labels) == 1 else ""
    below += "; bars: 95 % interval" if _error_bars(rows) is not None else ""
    ax.set_xlabel(f"top-1 accuracy (%){below}" + ("; dotted: majority class" if majority else ""))
    style.set_title(ax, title)
    return style.to_png(figure)


def _error_bars(rows: Sequence[Mapping]) -> np.ndarray | None:
    """Returns the distances (2, rows) below and above the accuracies, in percent; None without."""
    if any(row.get("top_1_low") is None for row in rows):
        return None
    low, value, high = (
        np.array([100 * row[name] for row in rows]) for name in ("top_1_low", "top_1", "top_1_high")
    )
    return np.stack([value - low, high - value])


def reliability(
    bins: Mapping[str, Sequence[Sequence[float]]], *, title: str, labels: Mapping[str, str]
) -> bytes:
    """Draws accuracy over probability, one line per name, as a PNG.

    Args:
        bins: name -> (count, mean probability, accuracy) of each bin.
        title: above the figure.
        labels: name -> what the legend says.
    """
    figure = style.new_figure(5.4, 4.2)
    ax = figure.subplots()
    ax.plot([0, 100], [0, 100], color="black", ls=":", lw=1.2, label="accuracy = probability")
    for number, (name, rows) in enumerate(bins.items()):
        own = np.array([row for row in rows if row[0]])  # (bins, 3)
        color, size = style.COLORS[(3, 0)[number % 2]], 15 + 160 * own[:, 0] / own[:, 0].sum()
        ax.plot(100 * own[:, 1], 100 * own[:, 2], color=color, lw=1.6, label=labels[name])
        ax.scatter(100 * own[:, 1], 100 * own[:, 2], color=color, s=size)
    ax.set_xlabel("probability of the predicted class (%)")
    ax.set_ylabel("accuracy (%)")
    ax.set_xlim(0, 103)
    ax.set_ylim(0, 103)
    style.add_grid(ax)
    ax.legend(loc="lower right", frameon=False, fontsize=8)
    style.set_title(ax, title)
    return style.to_png(figure)


def label_efficiency(
    points: Mapping[str, Sequence[tuple[float, float, float]]], *, title: str, xlabel: str
) -> bytes:
    """Draws accuracy over the number of labels, one line with error bars per method.

    Args:
        points: method -> (labels, mean accuracy, standard deviation), fractions, by labels.
        title: above the figure.
        xlabel: what the labels count.

    Returns:
        A PNG.
    """
    figure = style.new_figure(7.5, 4.2)
    ax = figure.subplots()
    for method, rows in points.items():
        labels, means, deviations = np.array(rows, float).T
        ax.errorbar(
            *(labels, 100 * means, 100 * deviations),
            label=method,
            color=style.method_color(method),
            marker="o",
            capsize=3,
        )
    ticks = sorted({label for rows in points.values() for label, *_ in rows})
    if len(ticks) > 1:
        ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel(xlabel)
    ax.set_ylabel("top-1 accuracy (%)")
    style.add_grid(ax)
    style.add_legend(ax)
    style.set_title(ax, title)
    return style.to_png(figure)


def similarity(cosines: np.ndarray, *, title: str) -> bytes:
    """Draws the cosines (n, n) of the first views (rows) and the second views of n images."""
    cosines = np.asarray(cosines)
    figure = style.new_figure(7, 5.6)
    ax = figure.subplots()
    low = min(0.0, float(np.floor(10 * cosines.min()) / 10))
    drawn = ax.imshow(cosines, cmap="cividis", vmin=low, vmax=1)
    figure.colorbar(drawn, ax=ax, label="cosine similarity of the projections")
    ax.set_xlabel("image (second view)")
    ax.set_ylabel("image (first view)")
    n = len(cosines)
    title += f"\nmean cosine: same image (diagonal) {np.diag(cosines).mean():.2f}"
    if n > 1:
        title += f", different images {cosines[~np.eye(n, dtype=bool)].mean():.2f}"
    style.set_title(ax, title)
    return style.to_png(figure)


def feature_map(
    points: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None, *, title: str
) -> bytes:
    """Draws t-SNE coordinates colored by class; the most frequent classes get their own colors.

    Args:
        points: (n, 2), without unit.
        labels: (n,); -1 for an unlabeled image.
        class_names: by label; None if there are no classes.
        title: above the figure.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    figure = style.new_figure(8.5, 6)
    ax = figure.subplots()
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    shown = np.sort(classes[np.argsort(-counts, kind="stable")[:_CLASSES_IN_LEGEND]])
    rest = ~np.isin(labels, shown)
    if rest.any():
        color, name = (style.GRAY, "other") if len(classes) else (style.COLORS[0], "images")
        if len(classes) > len(shown):
            name = f"other classes ({len(classes) - len(shown)})"
        elif len(classes):
            name = "unlabeled"
        x, y = points[rest].T
        ax.scatter(x, y, s=9, c=color, label=name)
    for number, label in enumerate(shown):
        x, y = points[labels == label].T
        ax.scatter(
            x,
            y,
            s=18,
            c=style.COLORS[number % len(style.COLORS)],
            marker=style.MARKERS[number // len(style.COLORS) % len(style.MARKERS)],
            linewidths=0,
            alpha=0.85,
            label=class_names[label] if class_names else str(label),
        )
    ax.set_xlabel("t-SNE 1")
    ax.set_ylabel("t-SNE 2")
    ax.set_xticks([])
    ax.set_yticks([])
    style.add_legend(ax, "class" if len(classes) else None)
    style.set_title(ax, title)
    return style.to_png(figure)


def confusion(counts: np.ndarray, class_names: Sequence[str], *, title: str) -> bytes:
    """Draws a confusion matrix, counts (k, k) by true and predicted class, in percent of a row."""
    counts = np.asarray(counts, np.float64)
    k = len(counts)
    percents = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.42 * k + 2, 4.5, 11))
    figure = style.new_figure(side + 1.6, side)
    ax = figure.subplots()
    drawn = ax.imshow(percents, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(drawn, ax=ax, label="images of the true class (%)", shrink=0.8)
    if k <= _CLASSES_WITH_NUMBERS:
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if percents[i, j] > 55 else "black"
            number = f"{percents[i, j]:.0f}"
            ax.text(j, i, number, ha="center", va="center", fontsize=8, color=color)
    ticks = np.unique(np.linspace(0, k - 1, min(k, 40)).astype(int))
    names = [shorten(class_names[tick], 18) for tick in ticks]
    ax.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=8)
    ax.set_yticks(ticks, names, fontsize=8)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    style.set_title(ax, title)
    return style.to_png(figure)


def class_accuracy(counts: np.ndarray, class_names: Sequence[str], *, title: str) -> bytes:
    """Draws the accuracy of each class, best first; of many classes only both ends.

    Args:
        counts: (k, k) by true and predicted class.
        class_names: k names.
        title: above the figure.
    """
    counts = np.asarray(counts, np.float64)
    sizes = counts.sum(axis=1)
    classes = np.flatnonzero(sizes)
    accuracy = 100 * np.diag(counts)[classes] / sizes[classes]
    order = np.argsort(-accuracy, kind="stable")
    mean = accuracy.mean()
    if len(order) > _BARS:
        title += f"\nbest {_BARS // 2} and worst {_BARS // 2} of {len(order):,} classes"
        order = np.concatenate([order[: _BARS // 2], order[-_BARS // 2 :]])
    figure = style.new_figure(7.5, 0.26 * len(order) + 1.4)
    ax = figure.subplots()
    names = [f"{shorten(class_names[classes[i]], 24)} (n={sizes[classes[i]]:.0f})" for i in order]
    ticks = np.arange(len(order))
    bars = ax.barh(ticks, accuracy[order], color=style.COLORS[0], height=0.75)
    ax.axvline(mean, color=style.WRONG, ls="--", lw=1.2, label=f"mean per class, {mean:.1f} %")
    numbers = ax.bar_label(bars, [f"{value:.0f}" for value in accuracy[order]], padding=3)
    for number in numbers:  # readable in front of the line of the mean
        number.set(fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_yticks(ticks, names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(0, 108)
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("accuracy (%)")
    ax.set_ylabel("true class (n = number of images)")
    style.add_legend(ax)
    style.set_title(ax, title)
    return style.to_png(figure)


def shorten(name: str, length: int) -> str:
    """Returns a name of at most `length` characters, with an ellipsis if it was cut."""
    return name if len(name) <= length else name[: length - 1] + "\u2026"
