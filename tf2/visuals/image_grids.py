"""Figures made of images: arrays in, the bytes of a PNG out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tf2.visuals import plots, style

if TYPE_CHECKING:
    from matplotlib import axes

_MARKS = {None: "", False: " \u2717", True: " \u2713"}


def pairs(images: np.ndarray, *, title: str) -> bytes:
    """Draws augmented pairs: images (n, h, w, 2c) in [0, 1], the two views on the channels."""
    images = np.asarray(images)
    n = len(images)
    figure = style.new_figure(1.1 * n + 0.9, 2.9)
    axes: Any = figure.subplots(2, n, squeeze=False)
    for row, views in enumerate(np.split(images, 2, axis=-1)):
        for column in range(n):
            _show(axes[row, column], views[column])
        axes[row, 0].set_ylabel(("first view", "second view")[row], fontsize=9)
    for column in range(n):
        axes[0, column].set_title(f"image {column}", fontsize=8)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return style.to_png(figure)


def neighbors(rows: Sequence[Sequence[Mapping]], *, title: str) -> bytes:
    """Draws query images, each with its nearest neighbors to the right.

    Args:
        rows: per query: itself, then its neighbors; each {image (h, w, c) in [0, 1], name,
            cosine (None for the query), same: whether of the query's class, None if unknown}.
        title: above the figure.
    """
    columns = max(len(row) for row in rows)
    figure = style.new_figure(1.25 * columns + 0.3, 1.5 * len(rows) + 0.7)
    axes: Any = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for ax in line[len(row) :]:
            ax.axis("off")
        for cell, ax in zip(row, line, strict=False):
            is_query = cell["cosine"] is None
            same = None if is_query else cell["same"]
            _show(ax, cell["image"], correct=same)
            name = plots.shorten(cell["name"], 16) + _MARKS[same]
            below = "query" if is_query else f"cosine {cell['cosine']:.2f}"
            ax.set_title(f"{name}\n{below}", fontsize=7)
    if any(cell["same"] is not None for row in rows for cell in row[1:]):
        title += "\nblue, \u2713: same class as the query; orange, \u2717: a different class"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return style.to_png(figure)


def predictions(cells: Sequence[Mapping], *, title: str) -> bytes:
    """Draws images with the predicted class and its probability.

    Args:
        cells: per image {image (h, w, c) in [0, 1], predicted, probability, true (its class, None
            if unknown)}.
        title: above the figure.
    """
    columns = min(6, len(cells))
    lines = -(-len(cells) // columns)
    figure = style.new_figure(1.5 * columns + 0.3, 1.75 * lines + 0.7)
    axes: Any = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[len(cells) :]:
        ax.axis("off")
    for cell, ax in zip(cells, axes, strict=False):
        correct = None if cell["true"] is None else cell["true"] == cell["predicted"]
        _show(ax, cell["image"], correct=correct)
        predicted = plots.shorten(cell["predicted"], 14)
        caption = f"{predicted} ({cell['probability']:.0%}){_MARKS[correct]}"
        if correct is False:
            caption += f"\ntrue: {plots.shorten(cell['true'], 14)}"
        ax.set_title(caption, fontsize=8)
    if any(cell["true"] is not None for cell in cells):
        title += "\nblue, \u2713: correct; orange, \u2717: wrong, with the true class below"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return style.to_png(figure)


def _show(ax: axes.Axes, image: np.ndarray, *, correct: bool | None = None) -> None:
    """Draws an image (h, w, c) in [0, 1]; the frame says whether it is correct, if known."""
    image = np.clip(np.asarray(image, np.float32), 0, 1)
    image = image if image.shape[-1] == 3 else image[..., 0]
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    color = {None: "black", True: style.CORRECT, False: style.WRONG}[correct]
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=1 if correct is None else 2.5)
