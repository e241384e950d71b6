"""What the Python API returns: tables that print shortly, and drawings.

In a notebook a table shows its first rows and a drawing itself.
"""

from __future__ import annotations

import dataclasses
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tf2 import files

TOP = 5
ROWS_SHOWN = 10


class Drawing(bytes):
    """A figure: the bytes of a PNG, which a notebook shows."""

    def _repr_png_(self) -> bytes:
        return bytes(self)

    def __repr__(self) -> str:
        return f"Drawing(PNG of {len(self):,} bytes)"

    def save(self, path: str | os.PathLike) -> str:
        """Writes the PNG to a file; returns its path.

        Args:
            path: of the file; its directory is created.
        """
        return write_file(path, self)


@dataclasses.dataclass(repr=False)
class Predictions:
    """The class probabilities of n images.

    Attributes:
        ids: the images' names: paths relative to their folder, or their numbers in an array.
        probabilities: (n, k) float64; a row sums to 1.
        class_names: k names.
        review_below: largest probability below which a person should look; None if not asked for.
        set_from: probability from which a class may be the true one; None if not asked for.
    """

    ids: Sequence[str]
    probabilities: np.ndarray
    class_names: Sequence[str]
    review_below: float | None = None
    set_from: float | None = None

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.ids)

    def __repr__(self) -> str:
        names = ", ".join([*self.class_names[:3], *(["..."] if len(self.class_names) > 3 else [])])
        return f"Predictions({len(self):,} images, {len(self.class_names):,} classes: {names})"

    def _repr_html_(self) -> str:
        return html_table(self.rows(top=2, count=ROWS_SHOWN), len(self))

    def rows(self, top: int = TOP, count: int | None = None) -> list[dict]:
        """Returns for each image its path and its most probable classes.

        The keys are path, class, probability, class_2, probability_2, ..., best first; with
        min_precision also review, yes or no, and with coverage set, the classes that may be true.

        Args:
            top: classes per image, at most.
            count: images, the first ones; None for all.
        """
        order = np.argsort(-self.probabilities[:count], axis=1, kind="stable")[:, :top]
        rows = []
        for name, probabilities, best in zip(self.ids, self.probabilities, order, strict=False):
            row: dict[str, Any] = {"path": name}
            for rank, label in enumerate(best, 1):
                suffix = "" if rank == 1 else f"_{rank}"
                row[f"class{suffix}"] = self.class_names[label]
                row[f"probability{suffix}"] = float(probabilities[label])
            if self.review_below is not None:
                row["review"] = "yes" if probabilities[best[0]] < self.review_below else "no"
            if self.set_from is not None:
                row["set"] = "|".join(self._set(probabilities))
            rows.append(row)
        return rows

    def _set(self, probabilities: np.ndarray) -> list[str]:
        """Returns the classes that may be true, the most probable first and at least that one."""
        order = np.argsort(-probabilities, kind="stable")
        size = max(int(np.sum(probabilities >= (self.set_from or 0.0))), 1)
        return [self.class_names[label] for label in order[:size]]

    @property
    def share_without_review(self) -> float:
        """The share of the images that need no person; 1 without min_precision."""
        if self.review_below is None or not len(self):
            return 1.0
        return float(np.mean(self.probabilities.max(axis=1) >= self.review_below))

    def review_in_words(self, min_precision: float) -> str:
        """Returns which of the predictions are marked, as a sentence."""
        wanted = f"a precision of {100 * min_precision:g} %"
        if self.review_below is not None and np.isinf(self.review_below):
            return f"No probability is known to give {wanted}: review all images."
        return (
            f"For {wanted}, {100 * self.share_without_review:.1f} % of the images need no review: "
            f"those with a probability of at least {self.review_below:.3f}."
        )

    def to_csv(self, path: str | os.PathLike, top: int = TOP) -> str:
        """Writes `rows` as a CSV file, as --mode=predict does; returns its path.

        Args:
            path: of the file; its directory is created.
            top: classes per image, at most.
        """
        return write_csv(path, self.rows(top))


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes rows as a CSV file, numbers with six decimals; returns its path."""
    path = _prepare(path)
    files.write_csv(path, [{name: _as_text(value) for name, value in r.items()} for r in rows])
    return path


def _as_text(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float | np.floating) else value


def write_file(path: str | os.PathLike, contents: bytes) -> str:
    """Writes a file and its directory; returns its path, with ~ expanded."""
    path = _prepare(path)
    files.write_bytes(path, contents)
    return path


def _prepare(path: str | os.PathLike) -> str:
    """Returns the path of a file with ~ expanded, after creating its directory."""
    path = os.path.expanduser(os.fspath(path))
    files.make_directory(os.path.dirname(path) or ".")
    return path


def html_table(rows: Sequence[Mapping[str, Any]], count: int) -> str:
    """Returns the first rows of a table as HTML, and how many more there are.

    Args:
        rows: column -> value; all with the same columns.
        count: of the whole table.
    """

    def cells(tag: str, values: Iterable[Any]) -> str:
        texts = (f"{v:.3f}" if isinstance(v, float | np.floating) else str(v) for v in values)
        return "<tr>" + "".join(f"<{tag}>{html.escape(t)}</{tag}>" for t in texts) + "</tr>"

    shown = rows[:ROWS_SHOWN]
    body = [cells("th", shown[0]) if shown else "", *(cells("td", row.values()) for row in shown)]
    more = f"<p>{count - len(shown):,} more rows</p>" if count > len(shown) else ""
    return f"<table>{''.join(body)}</table>{more}"
