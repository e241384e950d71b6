"""Pictures of a run: arrays in, the bytes of a PNG out.

Colors are Okabe and Ito's, told apart by color-blind readers too; where there are more classes than
colors, shapes tell them apart as well. Shares are drawn in one hue that gets darker.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "^", "s", "D")
RIGHT, WRONG = "#0072B2", "#D55E00"
# Accuracies that training doesn't move.
_LEVELS = ("eval/majority_class_accuracy", "eval/knn_accuracy_untrained")
_FORMER_NAMES = ("eval/chance_accuracy",)  # the majority-class accuracy again
_GRAY = "#BBBBBB"
_CLASSES_IN_LEGEND = 20
_CLASSES_WITH_NUMBERS = 20
_BARS = 40


def curves(history: Mapping[str, Sequence[tuple[int, float]]], *, title: str) -> bytes | None:
    """Draws losses above, accuracies below, over the training steps.

    Args:
        history: name of a scalar -> its (step, value) in order, as TensorBoard has them.
        title: above the picture.

    Returns:
        A PNG; None where there is neither loss nor accuracy.
    """
    # Decay is in the total, and would stretch the axis by orders of magnitude.
    losses = {n: v for n, v in history.items() if n.endswith("_loss") and "regular" not in n}
    shares = {n: v for n, v in history.items() if "_acc" in n and n not in _FORMER_NAMES}
    panels = [
        (found, label, factor)
        for found, label, factor in (
            (losses, "loss (nats)", 1.0),
            (shares, "accuracy (%)", 100.0),
        )
        if found
    ]
    if not panels:
        return None
    figure = _figure(9, 0.4 + 3.1 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (found, label, factor) in zip(axes, panels, strict=True):
        for number, (name, points) in enumerate(sorted(found.items())):
            steps, values = zip(*points, strict=True)
            color = COLORS[number % len(COLORS)]
            if name in _LEVELS:
                ax.axhline(factor * values[-1], color=color, ls=":", lw=1.6, label=name)
                continue
            evaluated = name.startswith("eval/")
            style = {"ls": "--", "marker": "D", "ms": 6} if evaluated else {}
            style |= {"marker": "o", "ms": 4} if not evaluated and len(steps) < 30 else {}
            values = factor * np.array(values)
            ax.plot(steps, values, label=name, color=color, lw=1.6, **style)
        ax.set_ylabel(label)
        _grid(ax)
        _legend(ax)
    axes[-1].set_xlabel("training steps")
    _title(axes[0], title)
    return _png(figure)


def similarity(cosines, *, title: str) -> bytes:
    """Draws the cosines (n, n) of the first views (rows) and the second views of n images."""
    cosines = np.asarray(cosines)
    figure = _figure(7, 5.6)
    ax = figure.subplots()
    low = min(0.0, float(np.floor(10 * cosines.min()) / 10))
    drawn = ax.imshow(cosines, cmap="cividis", vmin=low, vmax=1)
    figure.colorbar(drawn, ax=ax, label="cosine similarity of the embeddings")
    ax.set_xlabel("second view of image number")
    ax.set_ylabel("first view of image number")
    n = len(cosines)
    off = cosines[~np.eye(n, dtype=bool)].mean() if n > 1 else float("nan")
    _title(ax, f"{title}\nmean {np.diag(cosines).mean():.2f} on the diagonal (same image), "
               f"{off:.2f} elsewhere")  # fmt: skip
    return _png(figure)


def feature_map(points, labels, class_names: Sequence[str] | None, *, title: str) -> bytes:
    """Draws points (n, 2) colored by class; the most frequent classes have colors of their own.

    Args:
        points: (n, 2), without unit.
        labels: (n,); -1 where there is none.
        class_names: by label; None where there are no classes.
        title: above the picture.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    figure = _figure(8.5, 6)
    ax = figure.subplots()
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    shown = np.sort(classes[np.argsort(-counts, kind="stable")[:_CLASSES_IN_LEGEND]])
    rest = ~np.isin(labels, shown)
    if rest.any():
        name = f"other classes ({len(classes) - len(shown)})" if len(classes) else "images"
        ax.scatter(*points[rest].T, s=9, c=_GRAY if len(classes) else COLORS[0], label=name)
    for number, which in enumerate(shown):
        ax.scatter(
            *points[labels == which].T,
            s=16,
            c=COLORS[number % len(COLORS)],
            marker=MARKERS[number // len(COLORS) % len(MARKERS)],
            linewidths=0,
            alpha=0.85,
            label=class_names[which] if class_names else str(which),
        )
    ax.set_xlabel("t-SNE, first direction (no unit)")
    ax.set_ylabel("t-SNE, second direction (no unit)")
    ax.set_xticks([])
    ax.set_yticks([])
    _legend(ax, "class" if len(classes) else None)
    _title(ax, title)
    return _png(figure)


def neighbors(rows: Sequence[Sequence[Mapping]], *, title: str) -> bytes:
    """Draws sample images, each with its nearest neighbours to the right.

    Args:
        rows: per sample: itself, then its neighbours; each {image (h, w, c) in [0, 1], name,
            cosine (None for the sample), same: whether of the sample's class, None if unknown}.
        title: above the picture.
    """
    columns = max(len(row) for row in rows)
    figure = _figure(1.25 * columns + 0.3, 1.5 * len(rows) + 0.7)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for ax in line[len(row) :]:
            ax.axis("off")
        for cell, ax in zip(row, line, strict=False):
            _show(ax, cell["image"])
            first = cell["cosine"] is None
            color = "black" if first or cell["same"] is None else (WRONG, RIGHT)[cell["same"]]
            for spine in ax.spines.values():
                spine.set(visible=True, color=color, linewidth=1 if first else 2.5)
            told = "sample" if first else f"cosine {cell['cosine']:.2f}"
            mark = "" if first or cell["same"] is None else (" \u2717", " \u2713")[cell["same"]]
            name = _short(cell["name"], 16)
            ax.set_title("\n".join(filter(None, (name + mark, told))), fontsize=7)
    known = any(cell["same"] is not None for row in rows for cell in row[1:])
    marks = "\nblue, \u2713: of the sample's class; orange, \u2717: of another" if known else ""
    figure.suptitle(title + marks, fontsize=10, x=0.01, ha="left")
    return _png(figure)


def predictions(cells: Sequence[Mapping], *, title: str) -> bytes:
    """Draws images with a classifier's answers.

    Args:
        cells: per image {image (h, w, c) in [0, 1], answer, probability, truth (its class, None if
            unknown)}.
        title: above the picture.
    """
    columns = min(6, len(cells))
    lines = -(-len(cells) // columns)
    figure = _figure(1.5 * columns + 0.3, 1.75 * lines + 0.7)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[len(cells) :]:
        ax.axis("off")
    for cell, ax in zip(cells, axes, strict=False):
        _show(ax, cell["image"])
        right = None if cell["truth"] is None else cell["truth"] == cell["answer"]
        color = "black" if right is None else (WRONG, RIGHT)[right]
        for spine in ax.spines.values():
            spine.set(visible=True, color=color, linewidth=1 if right is None else 2.5)
        mark = "" if right is None else (" \u2717", " \u2713")[right]
        told = f"{_short(cell['answer'], 14)} {cell['probability']:.0%}{mark}"
        if right is False:
            told += f"\nis {_short(cell['truth'], 14)}"
        ax.set_title(told, fontsize=8)
    known = any(cell["truth"] is not None for cell in cells)
    marks = "\nblue, \u2713: right; orange, \u2717: wrong, with the true class" if known else ""
    figure.suptitle(title + marks, fontsize=10, x=0.01, ha="left")
    return _png(figure)


def confusion(counts, class_names: Sequence[str], *, title: str) -> bytes:
    """Draws a confusion matrix, counts (k, k) by true and answered class, as shares of each row."""
    counts = np.asarray(counts, np.float64)
    k = len(counts)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.42 * k + 2, 4.5, 11))
    figure = _figure(side + 1.6, side)
    ax = figure.subplots()
    drawn = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(drawn, ax=ax, label="share of the class's images (%)", shrink=0.8)
    if k <= _CLASSES_WITH_NUMBERS:
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[i, j] > 55 else "black"
            ax.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=8, color=color)
    places = np.unique(np.linspace(0, k - 1, min(k, 40)).astype(int))
    names = [_short(class_names[place], 18) for place in places]
    ax.set_xticks(places, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=8)
    ax.set_yticks(places, names, fontsize=8)
    ax.set_xlabel("class answered")
    ax.set_ylabel("true class")
    _title(ax, title)
    return _png(figure)


def class_accuracy(counts, class_names: Sequence[str], *, title: str) -> bytes:
    """Draws the accuracy of each class, the best first; of many classes the ends alone.

    Args:
        counts: (k, k) by true and answered class.
        class_names: k names.
        title: above the picture.
    """
    counts = np.asarray(counts, np.float64)
    sizes = counts.sum(axis=1)
    classes = np.flatnonzero(sizes)
    accuracy = 100 * np.diag(counts)[classes] / sizes[classes]
    order = np.argsort(-accuracy, kind="stable")
    mean = accuracy.mean()
    if len(order) > _BARS:
        title += f"\nthe {_BARS // 2} best and the {_BARS // 2} worst of {len(order):,} classes"
        order = np.concatenate([order[: _BARS // 2], order[-_BARS // 2 :]])
    figure = _figure(7.5, 0.26 * len(order) + 1.4)
    ax = figure.subplots()
    names = [f"{_short(class_names[classes[i]], 24)} (n={sizes[classes[i]]:.0f})" for i in order]
    places = np.arange(len(order))
    bars = ax.barh(places, accuracy[order], color=COLORS[0], height=0.75)
    ax.bar_label(bars, [f"{value:.0f}" for value in accuracy[order]], padding=3, fontsize=8)
    ax.axvline(mean, color=WRONG, ls="--", lw=1.2, label=f"mean of the classes, {mean:.1f} %")
    ax.set_yticks(places, names, fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(0, 108)
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("accuracy (%)")
    ax.set_ylabel("class (n: images of it)")
    _legend(ax)
    _title(ax, title)
    return _png(figure)


def pairs(images, *, title: str) -> bytes:
    """Draws augmented pairs: images (n, h, w, 2c) in [0, 1], the two views on the channels."""
    images = np.asarray(images)
    n = len(images)
    figure = _figure(1.1 * n + 0.9, 3.3)
    axes = figure.subplots(2, n, squeeze=False)
    for number, views in enumerate(np.split(images, 2, axis=-1)):
        for place in range(n):
            _show(axes[number, place], views[place])
            if number == 0:
                axes[0, place].set_title(f"image {place}", fontsize=8)
        axes[number, 0].set_ylabel(("first view", "second view")[number], fontsize=9)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return _png(figure)


def _show(ax, image) -> None:
    image = np.clip(np.asarray(image, np.float32), 0, 1)
    image = image if image.shape[-1] == 3 else image[..., 0]
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "\u2026"


def _figure(width: float, height: float):
    # Without pyplot: no window, no state shared with a notebook's own figures.
    from matplotlib.backends import backend_agg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    backend_agg.FigureCanvasAgg(figure)
    return figure


def _grid(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)


def _legend(ax, title: str | None = None) -> None:
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, title=title, fontsize=8,
        borderaxespad=0,
    )  # fmt: skip


def _title(ax, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=10)


def _png(figure) -> bytes:
    held = io.BytesIO()
    figure.savefig(held, format="png", bbox_inches="tight")
    return held.getvalue()
