"""The look of every figure: colors, markers, axes, and the bytes of a PNG.

The colors are those of Okabe and Ito, which color-blind readers can distinguish. Where there are
more classes than colors, the marker's shape distinguishes them as well.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib import axes
    from matplotlib import figure as figure_lib

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "^", "s", "D")
CORRECT, WRONG = "#0072B2", "#D55E00"
GRAY = "#BBBBBB"
# One color per method, in every figure.
METHOD_COLORS = {
    "supervised baseline": "#999999",
    "pretrained": "#56B4E9",
    "fine-tuned": "#0072B2",
    "self-distilled": "#D55E00",
    "distilled student": "#009E73",
}
# One color per way of choosing images to label.
SELECTION_COLORS = {
    "random": "#999999",
    "maxherding": "#0072B2",
    "typiclust": "#009E73",
    "kcenter": "#E69F00",
    "margin": "#CC79A7",
    "uncertainty_herding": "#D55E00",
}


def method_color(method: str) -> str:
    """Returns the color of a method; one color for all methods that are in no table."""
    return (METHOD_COLORS | SELECTION_COLORS).get(method, "#CC79A7")


def new_figure(width: float, height: float) -> figure_lib.Figure:
    """Returns an empty figure of a size in inches."""
    # Without pyplot: no window, no state shared with a notebook's own figures.
    from matplotlib import figure as figure_lib
    from matplotlib.backends import backend_agg

    figure = figure_lib.Figure(figsize=(width, height), dpi=110, layout="constrained")
    backend_agg.FigureCanvasAgg(figure)
    return figure


def add_grid(ax: axes.Axes) -> None:
    """Removes the upper and the right edge, and adds a light grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(alpha=0.3)


def add_legend(ax: axes.Axes, title: str | None = None) -> None:
    """Adds a legend to the right of the axes, where it hides no data."""
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, title=title, fontsize=8,
        borderaxespad=0,
    )  # fmt: skip


def set_title(ax: axes.Axes, title: str) -> None:
    """Writes a title above the axes, from their left edge."""
    ax.set_title(title, loc="left", fontsize=10)


def to_png(figure: figure_lib.Figure) -> bytes:
    """Returns the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()
