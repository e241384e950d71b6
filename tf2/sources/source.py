"""The interface of all sources of images: splits, undecoded records in a known order, decoding.

A record is a dict of tensors: "id" (string, the same in every run), "image" (the encoded image, or
uint8 pixels where there is nothing to decode), "label" (int64, -1 if unknown), "position" (int64,
index in the split as stored) and "number" (int64, see `order`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import errors
from tf2.flags import checks
from tf2.sources import listing as listing_lib
from tf2.sources import order

Record = dict[str, tf.Tensor]


class Source:
    """Images in splits. Subclasses read one kind of storage.

    Attributes:
        name: the dataset's name.
        class_names: tuple of names in the order of the labels, or None.
        num_classes: 0 if there are no labels.
        channels: of a decoded image.
        splits: dict, split -> number of examples as stored.
        random_access: whether a record can be fetched by its position. If not, epochs are shuffled
            with a buffer of `shuffle_buffer` records.
        shuffle_buffer: see `random_access`.
        listing: of a folder's images; None for others.
        unreadable: name -> reason, of a folder's files that were left out.
    """

    listing: listing_lib.Listing | None = None
    unreadable: Mapping[str, str] = {}
    random_access = True
    shuffle_buffer = 50000

    def __init__(
        self,
        name: str,
        splits: Mapping[str, int],
        *,
        class_names: Iterable[str] | None = None,
        num_classes: int | None = None,
        channels: int = 3,
    ):
        self.name = name
        self.splits = dict(splits)
        self.class_names = None if class_names is None else tuple(class_names)
        if num_classes is None:
            num_classes = len(self.class_names or ())
        self.num_classes = num_classes
        self.channels = channels
        # split -> stored positions: of the examples in a subset, and of the visible labels.
        self._subset: dict[str, np.ndarray] = {}
        self._visible: dict[str, np.ndarray] = {}

    # What a subclass implements. Positions count everything that is stored, also outside a subset.

    def decode(self, record: Record) -> Record:
        """Decodes a record: {"image": uint8 (h, w, channels), "label", "id"}."""
        raise NotImplementedError

    def _resolve(self, split: str) -> str:
        """Returns the canonical name of a split, or raises a UserError."""
        if split not in self.splits:
            raise unknown_split(split, self.name, self.splits)
        return split

    def _stored_size(self, split: str) -> int:
        return self.splits[split]

    def _stored_labels(self, split: str) -> np.ndarray:
        raise NotImplementedError

    def _stored_ids(self, split: str) -> list[str]:
        raise NotImplementedError

    def _fetcher(self, split: str) -> Callable[[tf.Tensor], Record]:
        """Returns a function, int64 position -> record (random access only)."""
        raise NotImplementedError

    def _epoch(self, split: str, seed: int | None, epoch: tf.Tensor | None) -> tf.data.Dataset:
        """Returns one epoch of (raw record, position) (sequential access only).

        Shuffled by (seed, epoch), int64 tensors, or in stored order if epoch is None.
        """
        raise NotImplementedError

    def _parse(self, raw: Any, position: tf.Tensor) -> Record:
        """Turns an element of `_epoch` into a record without decoding the image."""
        raise NotImplementedError

    # What the rest of the program uses.

    def num_examples(self, split: str) -> int:
        """Returns the number of examples in a split, after any `subset`."""
        split = self._resolve(split)
        if split in self._subset:
            return len(self._subset[split])
        return self._stored_size(split)

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels, int64 (num_examples,), without decoding images."""
        split = self._resolve(split)
        labels = np.asarray(self._stored_labels(split), np.int64)
        return labels[self._subset[split]] if split in self._subset else labels

    def may_lack_labels(self, split: str) -> bool:
        """Returns whether images of a split may have no label.

        False also where only reading all of a large dataset would tell.
        """
        return bool(self.num_classes)

    def num_labeled(self, split: str) -> int:
        """Returns the number of examples with a label in a split, after any `subset`."""
        if not self.num_classes:
            return 0
        if not self.may_lack_labels(split):
            return self.num_examples(split)
        return int(np.sum(self.labels(split) >= 0))

    def num_stored(self, split: str) -> int:
        """Returns the number of examples in a split, before any `subset`."""
        return self._stored_size(self._resolve(split))

    def labeled(self, split: str) -> Source:
        """Returns a source whose split holds only its examples with a label."""
        if self.num_labeled(split) == self.num_examples(split):
            return self
        return self.subset(split, np.flatnonzero(self.labels(split) >= 0))

    def at_most(self, split: str, count: int) -> Source:
        """Returns a source whose split holds at most so many of its examples.

        They are spread over the split, whose order may be that of the classes. Where records are
        only read in sequence they are its first ones: such data are shuffled when written.
        """
        size = self.num_examples(split)
        if size <= count:
            return self
        step = size if self.random_access else count
        return self.subset(split, np.arange(count) * step // count)

    def ids(self, split: str) -> list[str]:
        """Returns the ids of the examples in stored order."""
        split = self._resolve(split)
        ids = self._stored_ids(split)
        return [ids[i] for i in self._subset[split]] if split in self._subset else list(ids)

    def fingerprint(self, split: str) -> str:
        """Returns a string that changes when the files of a split do; "" if that is unknown."""
        return ""

    def subset(self, split: str, positions: Sequence[int] | np.ndarray) -> Source:
        """Returns a source whose split holds only some of its examples.

        Args:
            split: the split to reduce; the others stay.
            positions: integers below `num_examples(split)`, for example from
                `labeled_subset.select_labels`; examples stay in stored order.
        """
        split = self._resolve(split)
        chosen = np.unique(np.asarray(positions, np.int64))
        if len(chosen) and not 0 <= chosen[0] <= chosen[-1] < self.num_examples(split):
            raise IndexError(f"positions beyond the split {split}")
        if split in self._subset:
            chosen = self._subset[split][chosen]
        reduced = copy.copy(self)
        reduced._subset = {**self._subset, split: chosen}
        return reduced

    def hide_labels(self, split: str, labeled: Sequence[int] | np.ndarray = ()) -> Source:
        """Returns a source with labels for some examples of a split only.

        Args:
            split: the split; the others stay.
            labeled: integers below `num_examples(split)`, the examples that keep their labels; the
                records of the others have label -1.
        """
        split = self._resolve(split)
        positions = np.unique(np.asarray(labeled, np.int64))
        if split in self._subset:
            positions = self._subset[split][positions]
        hidden = copy.copy(self)
        hidden._visible = {**self._visible, split: positions}
        return hidden

    def labeled_ids(self, split: str) -> list[str]:
        """Returns the ids of the examples whose labels are visible, in stored order."""
        split = self._resolve(split)
        if split not in self._visible:
            return self.labeled(split).ids(split)
        positions, ids = self._visible[split], self._stored_ids(split)
        if split in self._subset:
            positions = np.intersect1d(positions, self._subset[split])
        return [ids[i] for i in positions]

    def show_labels(self) -> Source:
        """Returns the source before any `hide_labels`."""
        shown = copy.copy(self)
        shown._visible = {}
        return shown

    def records(
        self,
        split: str,
        start: int = 0,
        seed: int | None = None,
        window: order.Window | None = None,
    ) -> tf.data.Dataset:
        """Reads undecoded records in order.

        Args:
            split: which split.
            start: number of the first record; earlier ones are skipped undecoded. With a window, a
                multiple of its period.
            seed: None reads the split once, in stored order; an integer reads it without end, each
                epoch in its own order.
            window: which part of each global batch to read; None reads everything.

        Returns:
            A tf.data.Dataset of records.
        """
        split = self._resolve(split)
        if window is None:
            window = order.Window(1, 0, 1)
        assert start % window.period == 0, "reading starts at a whole global batch"
        read = self._records_by_position if self.random_access else self._records_in_sequence
        records = read(split, start, seed, window)
        if split not in self._visible:
            return records
        visible = tf.constant(_mask(self._visible[split], self._stored_size(split)))

        def hide(record: Record) -> Record:
            shown = tf.gather(visible, record["position"])
            label = tf.where(shown, record["label"], tf.constant(-1, tf.int64))
            return {**record, "label": label}

        return records.map(hide, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def load_all(self, split: str) -> Record:
        """Returns the records of a split, undecoded, as one dict of tensors (n,)."""
        size = max(1, self.num_examples(split))
        batch = next(iter(self.records(split).batch(size)))
        return {key: batch[key] for key in ("id", "image", "label")}

    def _records_by_position(
        self, split: str, start: int, seed: int | None, window: order.Window
    ) -> tf.data.Dataset:
        size = self.num_examples(split)
        fetch = self._fetcher(split)
        subset = None
        if split in self._subset:
            subset = tf.constant(self._subset[split], tf.int64)

        def read(index: tf.Tensor) -> Record:
            number = window.number(index)
            chosen = number if seed is None else order.shuffled_index(number, size, seed)
            position = chosen if subset is None else tf.gather(subset, chosen)
            return {**fetch(position), "position": position, "number": number}

        first = start // window.period * window.size
        end = window.count_below(size) if seed is None else order.ENDLESS
        indices = tf.data.Dataset.range(first, end)
        return indices.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _records_in_sequence(
        self, split: str, start: int, seed: int | None, window: order.Window
    ) -> tf.data.Dataset:
        size = self.num_examples(split)
        if seed is None:
            records, before = self._one_epoch(split, None, None), 0
        else:
            epochs = tf.data.Dataset.range(start // size, order.ENDLESS)
            records = epochs.flat_map(lambda epoch: self._one_epoch(split, seed, epoch))
            before = start // size * size
        records = records.skip(start - before).enumerate(start)
        if window.size < window.period:
            records = records.filter(lambda number, _: window.contains(number))

        def read(number: tf.Tensor, raw_and_position: tuple[Any, tf.Tensor]) -> Record:
            raw, position = raw_and_position
            return {**self._parse(raw, position), "position": position, "number": number}

        return records.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _one_epoch(self, split: str, seed: int | None, epoch: tf.Tensor | None) -> tf.data.Dataset:
        records = self._epoch(split, seed, epoch)
        if split in self._subset:
            included = tf.constant(_mask(self._subset[split], self._stored_size(split)))
            records = records.filter(lambda raw, position: tf.gather(included, position))
        if seed is not None and epoch is not None:
            records = self._shuffle(records, split, seed, epoch)
        return records

    def _shuffle(
        self, records: tf.data.Dataset, split: str, seed: int, epoch: tf.Tensor
    ) -> tf.data.Dataset:
        # Without this the order would also depend on tf.random.set_seed.
        tf.compat.v1.get_default_graph().seed = 1
        buffer = min(self.num_examples(split), self.shuffle_buffer)
        return records.shuffle(
            buffer, seed=order.shuffle_seed(seed, epoch), reshuffle_each_iteration=False
        )


def _mask(positions: np.ndarray, size: int) -> np.ndarray:
    mask: np.ndarray = np.zeros(size, bool)
    mask[positions] = True
    return mask


def overlap(images: Source, first: str, second: str) -> bool:
    """Whether two splits have an image in common.

    Splits with different names have none; parts of one split, as in train[:90%], may.
    """

    def names(split: str) -> set[str]:
        return {part.partition("[")[0] for part in split.split("+")}

    if not names(first) & names(second):
        return False
    return not set(images.ids(first)).isdisjoint(images.ids(second))


def unknown_split(split: str, name: str, splits: Iterable[str]) -> errors.UserError:
    """Returns the error for a split that a dataset does not have."""
    return errors.UserError(
        f"The split must be one of those of {name}: {', '.join(splits) or 'none'}. Received: "
        f"split={split!r}.{checks.closest(split, splits)} Set --train_split or "
        "--eval_split to one of them."
    )
