"""What a source of images is: splits, undecoded records in a known order, decoding.

A record is a dict of tensors: "id" (string, stable over runs), "image" (the encoded
picture, or uint8 pixels where there is nothing to decode), "label" (int64, -1 where
unknown), "position" (int64, place in the split as stored) and "number".

In training, numbers go on for ever: number g is picture g % n of epoch g // n, and each
epoch has an order of its own, a function of the seed and the epoch alone. So a run that
stopped finds its place again from its step, without decoding what it has seen.
"""

import copy
import dataclasses

import numpy as np
import tensorflow as tf

from tf2 import errors

_FOREVER = 2**62
# Keeps the orders apart from other uses of the same seed.
_ORDER_SALT = 1717


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of every global batch that one input pipeline reads.

    Attributes:
      period: examples in a global batch.
      first: place in it where this pipeline's part begins.
      size: examples in this pipeline's part.
    """

    period: int
    first: int
    size: int


class Source:
    """Images in splits. Subclasses read one kind of storage.

    Attributes:
      name: the dataset's name.
      class_names: tuple of names in the order of the labels, or None.
      num_classes: 0 where nothing is labeled.
      channels: of a decoded picture.
      splits: dict, split -> number of examples as stored.
      random_access: whether a record can be fetched by its position. If not, epochs
        are shuffled among `shuffle_buffer` records.
      shuffle_buffer: see `random_access`.
    """

    random_access = True
    shuffle_buffer = 50000

    def __init__(self, name, splits, *, class_names=None, num_classes=None, channels=3):
        self.name = name
        self.splits = dict(splits)
        self.class_names = None if class_names is None else tuple(class_names)
        if num_classes is None:
            num_classes = len(self.class_names or ())
        self.num_classes = num_classes
        self.channels = channels
        self._kept = {}
        self._labeled = {}

    # What a subclass tells of its storage; positions count all that is stored.

    def decode(self, record):
        """Decodes a record: {"image": uint8 (h, w, channels), "label", "id"}."""
        raise NotImplementedError

    def _resolve(self, split):
        """Returns the canonical name of a split, or raises one sentence."""
        if split not in self.splits:
            raise unknown_split(split, self.name, self.splits)
        return split

    def _stored_size(self, split):
        return self.splits[split]

    def _stored_labels(self, split):
        raise NotImplementedError

    def _stored_ids(self, split):
        raise NotImplementedError

    def _fetcher(self, split):
        """Returns a function, int64 position -> record (random access only)."""
        raise NotImplementedError

    def _epoch(self, split, seed, epoch):
        """Returns one epoch of (raw record, position), where access is sequential.

        Shuffled by (seed, epoch), int64 tensors, or as stored where epoch is None.
        """
        raise NotImplementedError

    def _parse(self, raw, position):
        """Turns what `_epoch` yields into a record without decoding the picture."""
        raise NotImplementedError

    # What the rest of the program uses.

    def num_examples(self, split):
        """Returns how many examples a split has, after any `subset`."""
        split = self._resolve(split)
        if split in self._kept:
            return len(self._kept[split])
        return self._stored_size(split)

    def labels(self, split):
        """Returns the labels, int64 (num_examples,), without decoding pictures."""
        split = self._resolve(split)
        labels = np.asarray(self._stored_labels(split), np.int64)
        return labels[self._kept[split]] if split in self._kept else labels

    def ids(self, split):
        """Returns the ids of the examples, a list of strings, in stored order."""
        split = self._resolve(split)
        ids = self._stored_ids(split)
        return [ids[i] for i in self._kept[split]] if split in self._kept else list(ids)

    def stamp(self, split):
        """Returns a text that changes when the pictures behind the ids do, where that can be."""
        return ""

    def subset(self, split, positions):
        """Returns a source whose split holds only some of its examples.

        Args:
          split: the split to cut down; the others stay.
          positions: integers below `num_examples(split)`, for example from
            `loaders.select_labels`; kept in stored order.
        """
        split = self._resolve(split)
        positions = np.unique(np.asarray(positions, np.int64))
        if len(positions) and not 0 <= positions[0] <= positions[-1] < self.num_examples(split):
            raise IndexError(f"positions beyond the split {split}")
        if split in self._kept:
            positions = self._kept[split][positions]
        chosen = copy.copy(self)
        chosen._kept = {**self._kept, split: positions}
        return chosen

    def hide_labels(self, split, labeled=()):
        """Returns a source that tells the labels of some examples of a split only.

        Args:
          split: which split; the others stay.
          labeled: integers below `num_examples(split)`, whose labels stay known; the
            other records have label -1.
        """
        split = self._resolve(split)
        positions = np.unique(np.asarray(labeled, np.int64))
        if split in self._kept:
            positions = self._kept[split][positions]
        hidden = copy.copy(self)
        hidden._labeled = {**self._labeled, split: positions}
        return hidden

    def labeled_ids(self, split):
        """Returns the ids of the examples whose labels are told, in stored order."""
        split = self._resolve(split)
        if split not in self._labeled:
            return self.ids(split)
        positions, ids = self._labeled[split], self._stored_ids(split)
        if split in self._kept:
            positions = np.intersect1d(positions, self._kept[split])
        return [ids[i] for i in positions]

    def show_labels(self):
        """Returns the source before any `hide_labels`."""
        shown = copy.copy(self)
        shown._labeled = {}
        return shown

    def records(self, split, start=0, seed=None, window=None):
        """Reads undecoded records in order.

        Args:
          split: which split.
          start: number of the first record; what comes before is skipped undecoded.
            With a window, a multiple of its period.
          seed: None reads the split once, as stored; an integer reads it for ever,
            each epoch in an order of its own.
          window: a `Window`; None reads everything.

        Returns:
          A tf.data.Dataset of records.
        """
        split = self._resolve(split)
        if window is None:
            window = Window(1, 0, 1)
        assert start % window.period == 0, "reading starts at a whole global batch"
        read = self._records_by_position if self.random_access else self._records_in_sequence
        records = read(split, start, seed, window)
        if split not in self._labeled:
            return records
        known = np.zeros(self._stored_size(split), bool)
        known[self._labeled[split]] = True
        known = tf.constant(known)

        def hide(record):
            told = tf.gather(known, record["position"])
            label = tf.where(told, record["label"], tf.constant(-1, tf.int64))
            return {**record, "label": label}

        return records.map(hide, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def load_all(self, split):
        """Returns the records of a split, undecoded, as one dict of tensors (n,)."""
        size = max(1, self.num_examples(split))
        batch = next(iter(self.records(split).batch(size)))
        return {key: batch[key] for key in ("id", "image", "label")}

    def _records_by_position(self, split, start, seed, window):
        size = self.num_examples(split)
        fetch = self._fetcher(split)
        kept = self._kept.get(split)
        kept = None if kept is None else tf.constant(kept, tf.int64)

        def number_of(place):
            return place // window.size * window.period + window.first + place % window.size

        def record_of(place):
            number = number_of(place)
            index = number
            if seed is not None:
                index = shuffled_index(number, size, seed)
            position = index if kept is None else tf.gather(kept, index)
            return {**fetch(position), "position": position, "number": number}

        first_place = start // window.period * window.size
        if seed is None:
            places = tf.data.Dataset.range(first_place, places_below(size, window))
        else:
            places = tf.data.Dataset.range(first_place, _FOREVER)
        return places.map(record_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _records_in_sequence(self, split, start, seed, window):
        size = self.num_examples(split)
        stored = self._stored_size(split)
        kept = None
        if split in self._kept:
            mask = np.zeros(stored, bool)
            mask[self._kept[split]] = True
            kept = tf.constant(mask)

        def one_epoch(epoch):
            records = self._epoch(split, seed, epoch)
            if kept is not None:
                records = records.filter(lambda raw, position: tf.gather(kept, position))
            if epoch is not None:
                records = self._shuffle(records, split, seed, epoch)
            return records

        if seed is None:
            records, before = one_epoch(None), 0
        else:
            epochs = tf.data.Dataset.range(start // size, _FOREVER)
            records, before = epochs.flat_map(one_epoch), start // size * size
        records = records.skip(start - before).enumerate(start)
        if window.size < window.period:
            records = records.filter(
                lambda number, _: (
                    (number % window.period >= window.first)
                    & (number % window.period < window.first + window.size)
                )
            )

        def record_of(number, raw_and_position):
            raw, position = raw_and_position
            return {**self._parse(raw, position), "position": position, "number": number}

        return records.map(record_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _shuffle(self, records, split, seed, epoch):
        # Without this the order would also depend on tf.random.set_seed.
        tf.compat.v1.get_default_graph().seed = 1
        seed = tf.random.stateless_uniform(
            [], [seed + _ORDER_SALT, epoch], 0, 2**62, dtype=tf.int64
        )
        size = min(self.num_examples(split), self.shuffle_buffer)
        return records.shuffle(size, seed=seed, reshuffle_each_iteration=False)


class ArraySource(Source):
    """Images in an array, without labels, as one split "images"; their ids are their places."""

    def __init__(self, images):
        """Takes uint8 images (n, height, width, channels), or (n, height, width).

        Raises:
          errors.UserError: it is something else, or empty.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
            raise errors.UserError(
                "Images are uint8, of shape (n, height, width, channels) or (n, height, width). "
                f"Received: {images.dtype} of shape {images.shape}. Scale to 0 to 255, and "
                "convert with .astype('uint8')."
            )
        self._images = images[..., np.newaxis] if images.ndim == 3 else images
        super().__init__("array", {"images": len(images)}, channels=self._images.shape[-1])

    def decode(self, record):
        """See Source; there is nothing to decode."""
        image = tf.ensure_shape(record["image"], self._images.shape[1:])
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _stored_labels(self, split):
        return np.full(len(self._images), -1, np.int64)

    def _stored_ids(self, split):
        return [str(place) for place in range(len(self._images))]

    def _fetcher(self, split):
        images = tf.constant(self._images)
        return lambda position: {
            "image": tf.gather(images, position),
            "label": tf.constant(-1, tf.int64),
            "id": tf.strings.as_string(position),
        }


class MemorySource(Source):
    """Holds the undecoded records of another source in memory, for access by position.

    A split is read when it is first asked for.
    """

    def __init__(self, inner):
        super().__init__(
            inner.name,
            inner.splits,
            class_names=inner.class_names,
            num_classes=inner.num_classes,
            channels=inner.channels,
        )
        self.inner = inner
        self._held = {}

    def stamp(self, split):
        """See Source."""
        return self.inner.stamp(split)

    def decode(self, record):
        """See Source."""
        return self.inner.decode(record)

    def _resolve(self, split):
        return self.inner._resolve(split)

    def _stored_size(self, split):
        return self.inner.num_examples(split)

    def _stored_labels(self, split):
        return self._load(split)["label"].numpy()

    def _stored_ids(self, split):
        return [name.decode() for name in self._load(split)["id"].numpy()]

    def _fetcher(self, split):
        held = self._load(split)
        return lambda position: {key: tf.gather(values, position) for key, values in held.items()}

    def _load(self, split):
        if split not in self._held:
            self._held[split] = self.inner.load_all(split)
        return self._held[split]


def shuffled_index(number, size, seed):
    """Finds which of `size` pictures is number `number` of endless shuffled epochs.

    Args:
      number: int64 tensor.
      size: pictures in an epoch.
      seed: integer.

    Returns:
      int64 tensor below `size`; each picture comes once in every `size` numbers.
    """
    number = tf.cast(number, tf.int64)
    size = tf.constant(size, tf.int64)
    key = tf.stack([tf.constant(seed + _ORDER_SALT, tf.int64), number // size])
    return tf.random.experimental.index_shuffle(number % size, key, size - 1)


def unknown_split(split, name, known):
    """Makes the error for a split that a dataset has not."""
    return errors.UserError(
        f"The split must be one of those of {name}: {', '.join(known) or 'none'}. Received: "
        f"split={split!r}; set --train_split or --eval_split to one of them."
    )


def places_below(size, window):
    """Counts a window's places whose numbers are below `size`."""
    whole, rest = divmod(size, window.period)
    return whole * window.size + min(max(rest - window.first, 0), window.size)
