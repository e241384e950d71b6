"""Tensors by name, read one at a time, so that no program holds two copies of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tf2.checkpoints import reference_checkpoints


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor that is not read yet: its shape, its type, and a function that reads it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> Entry:
        """Wraps an array that is in memory."""
        return cls(array.shape, array.dtype, lambda: array)

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Tensors(Mapping[str, np.ndarray]):
    """Name -> array. Shapes are known at once; `tensors[name]` reads the values each time."""

    def __init__(self, entries: Mapping[str, Entry]):
        """Takes the entry of each name."""
        self.entries = dict(entries)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Tensors:
        """Wraps arrays that are in memory."""
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        return cls({name: Entry.of(array) for name, array in arrays.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one tensor."""
        return self.entries[name].read()

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names, in the order they were given."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Returns the number of tensors."""
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape without reading it."""
        return self.entries[name].shape

    @property
    def nbytes(self) -> int:
        """Size of all tensors together in bytes."""
        return sum(entry.nbytes for entry in self.entries.values())

    def renamed(self, sources: Mapping[str, tuple[str, tuple[int, ...] | None]]) -> Tensors:
        """Returns some of the tensors under other names.

        Args:
            sources: new name -> (name here, axes); axes as in `np.transpose`, None for no change.
        """

        def entry(name: str, axes: tuple[int, ...] | None) -> Entry:
            old = self.entries[name]
            if axes is None:
                return old
            shape = tuple(old.shape[axis] for axis in axes)
            return Entry(
                shape, old.dtype, lambda: np.ascontiguousarray(np.transpose(old.read(), axes))
            )

        return Tensors({new: entry(name, axes) for new, (name, axes) in sources.items()})


@dataclasses.dataclass
class Checkpoint:
    """A checkpoint that was opened.

    Attributes:
        format: a name of `formats.FORMATS`.
        path: of the checkpoint.
        tensors: under the format's own names.
        metadata: its model.json, or the same content; None if there is none.
        step: training steps; None if unknown.
        origin: of a checkpoint of the reference.
    """

    format: str
    path: str
    tensors: Tensors
    metadata: dict | None = None
    step: int | None = None
    origin: reference_checkpoints.Origin = reference_checkpoints.Origin()
