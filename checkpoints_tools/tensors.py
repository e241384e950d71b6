"""Tensors by name that are read one at a time, so that no program holds two copies of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor that can be read: its shape, its type, and what reads it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """What the tensor takes, in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Tensors(Mapping):
    """Name -> array. Shapes are known at once; `tensors[name]` reads, and keeps nothing."""

    def __init__(self, entries: Mapping[str, Entry]):
        """Takes what each name stands for."""
        self.entries = dict(entries)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Tensors:
        """Wraps arrays that are in memory."""
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        return cls({n: Entry(a.shape, a.dtype, lambda a=a: a) for n, a in arrays.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one tensor."""
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        """Goes over the names, in the order they were given."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Returns the number of tensors."""
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape without reading it."""
        return self.entries[name].shape

    @property
    def nbytes(self) -> int:
        """What all tensors take together, in bytes."""
        return sum(entry.nbytes for entry in self.entries.values())

    def renamed(self, sources: Mapping[str, tuple[str, tuple[int, ...] | None]]) -> Tensors:
        """Returns a selection under other names.

        Args:
            sources: new name -> (name here, axes); axes are a permutation as of `np.transpose`,
                None leaves the tensor as it is.
        """

        def entry(name, axes):
            old = self.entries[name]
            if axes is None:
                return old
            shape = tuple(old.shape[axis] for axis in axes)
            turn = lambda: np.ascontiguousarray(np.transpose(old.read(), axes))  # noqa: E731
            return Entry(shape, old.dtype, turn)

        return Tensors({new: entry(name, axes) for new, (name, axes) in sources.items()})


@dataclasses.dataclass
class Checkpoint:
    """What a reader found.

    Attributes:
        format: a name of `formats.FORMATS`.
        path: where it was read.
        tensors: under the format's own names.
        metadata: its model.json, or what says the same; None where it tells nothing.
        step: updates done; None where it isn't told.
    """

    format: str
    path: str
    tensors: Tensors
    metadata: dict | None = None
    step: int | None = None
