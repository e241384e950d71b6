"""Reads any image classification set of TensorFlow Datasets (TFDS).

Files are read as they lie on disk: array_record by position, TFRecord in sequence.
Pictures are decoded only in `decode`.
"""

import difflib
import os
import socket
import threading
import urllib.request

import numpy as np
import tensorflow as tf

from tf2 import errors
from tf2.sources import source

_FILES_AT_ONCE = 16
_SHUFFLE_BYTES = 2**31  # most that a shuffle buffer of records may hold
_PROBED_HOST = "storage.googleapis.com"


def load(name, data_dir=None, *, download=True, also_known=()):
    """Opens a TFDS set, preparing it first where that is needed and possible.

    Args:
      name: for example cifar10 or imagenet2012_subset/1pct.
      data_dir: where TFDS keeps its files; None is its default directory.
      download: fetch and prepare a set that is not in data_dir.
      also_known: names of datasets besides, for messages.

    Returns:
      A `Source`.

    Raises:
      errors.UserError: there is no such set, it cannot be had, or has no pictures.
    """
    import tensorflow_datasets as tfds  # half a second that digits and folders save

    data_dir = os.path.expanduser(data_dir) if data_dir else None
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (ValueError, ImportError, OSError, AssertionError, RuntimeError) as error:
        raise _unknown_dataset(name, tfds, error, also_known) from error
    if not builder.info.splits:
        _prepare(builder, name, download)
    image_key, label_key = _feature_keys(builder, tfds)
    return TfdsSource(name, builder, image_key, label_key)


def _unknown_dataset(name, tfds, error, also_known):
    base = name.split("/")[0].split(":")[0]
    known = [*also_known, *tfds.list_builders(with_community_datasets=False)]
    if base in known:  # it is the configuration or version that is wrong
        reason = str(error).splitlines()[0]
        return errors.UserError(
            f"TensorFlow Datasets cannot open that dataset: {reason} Received: "
            f"dataset={name!r}; correct --dataset."
        )
    close = difflib.get_close_matches(base, known, n=3, cutoff=0.6)
    if not close:
        close = [*also_known, "cifar10", "imagenet2012"]
    return errors.UserError(
        "The dataset must be digits, folder, or a name that TensorFlow Datasets knows. "
        f"Received: dataset={name!r}; did you mean {' or '.join(close)}?"
    )


def _prepare(builder, name, download):
    place = os.path.dirname(builder.data_dir)
    reason = "downloading is off"
    if download:
        reason = None if _online() else "there is no network"
    if reason is None:
        try:
            builder.download_and_prepare()
            return
        # TFDS and the libraries below it raise anything: missing manual downloads,
        # network, checksum and disk errors.
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    raise errors.UserError(
        f"The dataset {name} is not prepared in {place} and could not be: {reason}. "
        f"Received: dataset={name}; point --data_dir to where it is, or prepare it with "
        f"`tfds build {name}` on a machine that can."
    )


def _online():
    """Whether a download can work; TFDS itself would retry for minutes."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(_PROBED_HOST, 443)
    except OSError:
        return False
    return True


def _feature_keys(builder, tfds):
    """Finds the picture and, if there is one, the label among the features."""
    features = builder.info.features
    images = [key for key in features if isinstance(features[key], tfds.features.Image)]
    labels = [key for key in features if isinstance(features[key], tfds.features.ClassLabel)]
    named = builder.info.supervised_keys or ()
    image = next((key for key in (*named[:1], *images) if key in images), None)
    label = next((key for key in (*named[1:], *labels) if key in labels), None)
    if image is None or features[image].np_dtype not in (np.uint8, np.uint16):
        raise errors.UserError(
            "The dataset must hold pictures of 8 or 16 bits. Received: "
            f"dataset={builder.info.full_name}, whose features are "
            f"{', '.join(features)}; choose an image classification set."
        )
    return image, label


class TfdsSource(source.Source):
    """A prepared TFDS set.

    Attributes:
      num_bytes: size of all its files.
    """

    def __init__(self, name, builder, image_key, label_key):
        import tensorflow_datasets as tfds

        info = builder.info
        label = info.features[label_key] if label_key else None
        super().__init__(
            name,
            {split: part.num_examples for split, part in info.splits.items()},
            class_names=label.names if label is not None else None,
            num_classes=label.num_classes if label is not None else 0,
            channels=info.features[image_key].shape[-1] or 3,
        )
        self._builder = builder
        self._image_key, self._label_key = image_key, label_key
        specs = info.features.tf_example_spec
        self._spec = {key: specs[key] for key in (image_key, label_key) if key}
        self._raw = tfds.decode.DeserializeMethod.RAW_BYTES
        kind = str(info.file_format.value)
        self.random_access = kind == "array_record"
        if kind not in ("array_record", "tfrecord"):
            raise errors.UserError(
                "The dataset's files must be tfrecord or array_record. Received: "
                f"{info.full_name} in {kind}; prepare it again in one of these."
            )
        self.num_bytes = sum(part.num_bytes for part in info.splits.values())

    def decode(self, record):
        """See Source."""
        image = tf.io.decode_image(record["image"], self.channels, expand_animations=False)
        image = tf.ensure_shape(image, [None, None, self.channels])
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _resolve(self, split):
        try:
            self._builder.info.splits[split]
        except (KeyError, ValueError) as error:
            slices = [*self.splits, *(f"{name}[:80%]" for name in list(self.splits)[:1])]
            raise source.unknown_split(split, self.name, slices) from error
        return split

    def _stored_size(self, split):
        return self._builder.info.splits[split].num_examples

    def _parts(self, split):
        """Lists (file, records to skip, records to take, position of the first)."""
        parts, position = [], 0
        for part in self._builder.info.splits[split].file_instructions:
            take = part.examples_in_shard - part.skip if part.take < 0 else part.take
            parts.append((os.fspath(part.filename), part.skip, take, position))
            position += take
        return parts

    def _stored_ids(self, split):
        return [
            f"{os.path.basename(file)}__{number}"
            for file, skip, take, _ in self._parts(split)
            for number in range(skip, skip + take)
        ]

    def _stored_labels(self, split):
        if self._label_key is None:
            return np.full(self._stored_size(split), -1, np.int64)
        spec = {self._label_key: self._spec[self._label_key]}
        parsed = [tf.io.parse_example(rows, spec) for rows in self._batches(split)]
        return np.concatenate([example[self._label_key] for example in parsed])

    def _parse(self, raw, position):
        serialized, identity = raw
        example = tf.io.parse_single_example(serialized, self._spec)
        label = example.get(self._label_key, tf.constant(-1, tf.int64))
        return {"id": identity, "image": example[self._image_key], "label": label}

    def load_all(self, split):
        """See Source; parses in batches, many times faster than record by record."""
        if split in self._kept:
            return super().load_all(split)
        parsed = [tf.io.parse_example(rows, self._spec) for rows in self._batches(split)]
        return {
            "id": tf.constant(self._stored_ids(split)),
            "image": tf.concat([example[self._image_key] for example in parsed], 0),
            "label": tf.constant(self._stored_labels(split)),
        }

    def _batches(self, split):
        """Yields the serialized records of a split in stored order, many at a time."""
        if self.random_access:
            reader, size = self._reader(split), self._stored_size(split)
            for start in range(0, size, 4096):
                places = range(start, min(start + 4096, size))
                yield tf.constant([bytes(reader[place]) for place in places])
            return
        for file, skip, take, _ in self._parts(split):
            records = tf.data.TFRecordDataset(file, buffer_size=2**20).skip(skip).take(take)
            yield from records.batch(4096)

    def _epoch(self, split, seed, epoch):
        parts = self._parts(split)
        files, skips, takes, firsts = (list(column) for column in zip(*parts, strict=True))
        columns = (
            tf.constant(files),
            tf.constant(skips, tf.int64),
            tf.constant(takes, tf.int64),
            tf.constant(firsts, tf.int64),
        )
        if epoch is not None:
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            order = tf.argsort(tf.random.stateless_uniform([len(parts)], key))
            columns = tuple(tf.gather(column, order) for column in columns)

        def read(file, skip, take, first):
            records = tf.data.TFRecordDataset(file, buffer_size=2**20).skip(skip).take(take)
            name = tf.strings.split(file, os.sep)[-1]

            def named(number, serialized):
                place = tf.strings.as_string(skip + number)
                return (serialized, tf.strings.join([name, "__", place])), first + number

            return records.enumerate().map(named)

        at_once = min(_FILES_AT_ONCE, len(parts)) if epoch is not None else 1
        return tf.data.Dataset.from_tensor_slices(columns).interleave(
            read,
            cycle_length=at_once,
            block_length=16,
            num_parallel_calls=at_once,
            deterministic=True,
        )

    def _shuffle(self, records, split, seed, epoch):
        stored = sum(self.splits.values())
        fits = int(_SHUFFLE_BYTES // max(1, self.num_bytes // max(1, stored)))
        buffer = self.shuffle_buffer
        try:
            self.shuffle_buffer = max(1, min(buffer, fits))
            return super()._shuffle(records, split, seed, epoch)
        finally:
            self.shuffle_buffer = buffer

    def _reader(self, split):
        return self._builder.as_data_source(split, deserialize_method=self._raw)

    def _fetcher(self, split):
        reader = self._reader(split)
        lock = threading.Lock()
        ids = tf.constant(self._stored_ids(split))

        def read(position):
            with lock:  # the reader opens its files when first used
                return np.asarray(bytes(reader[int(position)]), object)

        def fetch(position):
            serialized = tf.numpy_function(read, [position], tf.string, stateful=False)
            serialized = tf.ensure_shape(serialized, [])
            return self._parse((serialized, tf.gather(ids, position)), position)

        return fetch
