"""Reads any image classification dataset of TensorFlow Datasets (TFDS).

Files are read as stored: array_record by position, TFRecord in sequence. Images are decoded only
in `decode`.
"""

from __future__ import annotations

import difflib
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import errors
from tf2.sources import source

_FILES_AT_ONCE = 16
_SHUFFLE_BYTES = 2**31  # upper limit of a shuffle buffer of records
_PROBED_HOST = "storage.googleapis.com"


def load(
    name: str,
    data_dir: str | None = None,
    *,
    download: bool = True,
    other_datasets: Sequence[str] = (),
) -> TfdsSource:
    """Opens a TFDS dataset, and prepares it first if necessary and possible.

    Args:
        name: for example cifar10 or imagenet2012_subset/1pct.
        data_dir: where TFDS keeps its files; None is its default directory.
        download: whether to download and prepare a dataset that is not in data_dir.
        other_datasets: names of datasets outside TFDS, for messages.

    Returns:
        A `Source`.

    Raises:
        errors.UserError: the dataset is unknown, unavailable, or without images.
    """
    import tensorflow_datasets as tfds  # takes half a second, which digits and folders save

    data_dir = os.path.expanduser(data_dir) if data_dir else None
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (ValueError, ImportError, OSError, AssertionError, RuntimeError) as error:
        raise _unknown_dataset(name, tfds, error, other_datasets) from error
    if not builder.info.splits:
        _prepare(builder, name, download)
    image_key, label_key = _feature_keys(builder, tfds)
    return TfdsSource(name, builder, image_key, label_key)


def _unknown_dataset(
    name: str, tfds: Any, error: Exception, other_datasets: Sequence[str]
) -> errors.UserError:
    base = name.split("/")[0].split(":")[0]
    known = [*other_datasets, *tfds.list_builders(with_community_datasets=False)]
    if base in known:  # the configuration or version is wrong
        reason = str(error).splitlines()[0]
        return errors.UserError(
            f"TensorFlow Datasets cannot open that dataset: {reason} Received: "
            f"dataset={name!r}. Correct --dataset."
        )
    close = difflib.get_close_matches(base, known, n=3, cutoff=0.6)
    if not close:
        close = [*other_datasets, "cifar10", "imagenet2012"]
    return errors.UserError(
        f"The dataset must be {', '.join(other_datasets)}, or the name of a dataset of TensorFlow "
        f"Datasets. Received: dataset={name!r}. Did you mean {' or '.join(close)}?"
    )


def _prepare(builder: Any, name: str, download: bool) -> None:
    """Downloads and prepares a dataset, or raises a UserError."""
    directory = os.path.dirname(builder.data_dir)
    reason: str | None = "downloading is off"
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
        f"The dataset {name} is not prepared in {directory} and could not be: {reason}. "
        f"Received: dataset={name}. Set --data_dir to the directory that contains it, or prepare "
        f"it with `tfds build {name}` on a machine with network access."
    )


def _online() -> bool:
    """Returns whether a download may succeed; TFDS itself would retry for minutes."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(_PROBED_HOST, 443)
    except OSError:
        return False
    return True


def _feature_keys(builder: Any, tfds: Any) -> tuple[str, str | None]:
    """Returns the names of the image and of the label, if there is one, among the features."""
    features = builder.info.features
    images = [key for key in features if isinstance(features[key], tfds.features.Image)]
    labels = [key for key in features if isinstance(features[key], tfds.features.ClassLabel)]
    supervised = builder.info.supervised_keys or ()
    image = next((key for key in (*supervised[:1], *images) if key in images), None)
    label = next((key for key in (*supervised[1:], *labels) if key in labels), None)
    if image is None or features[image].np_dtype not in (np.uint8, np.uint16):
        raise errors.UserError(
            "The dataset must contain images of 8 or 16 bits. Received: "
            f"dataset={builder.info.full_name}, with the features {', '.join(features)}. Choose "
            "an image classification dataset."
        )
    return image, label


class TfdsSource(source.Source):
    """A prepared TFDS dataset.

    Attributes:
        num_bytes: size of all its files.
    """

    def __init__(self, name: str, builder: Any, image_key: str, label_key: str | None):
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
                f"{info.full_name} in {kind}. Prepare it again in one of these formats."
            )
        self.num_bytes = sum(part.num_bytes for part in info.splits.values())

    def may_lack_labels(self, split: str) -> bool:
        """See Source; decided by the split's name where the labels are read with the images."""
        return self._label_key is not None and "unlabel" in split

    def decode(self, record: source.Record) -> source.Record:
        """See Source."""
        image = tf.io.decode_image(record["image"], self.channels, expand_animations=False)
        image = tf.ensure_shape(image, [None, None, self.channels])
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _resolve(self, split: str) -> str:
        try:
            self._builder.info.splits[split]
        except (KeyError, ValueError) as error:
            slices = [*self.splits, *(f"{name}[:80%]" for name in list(self.splits)[:1])]
            raise source.unknown_split(split, self.name, slices) from error
        return split

    def _stored_size(self, split: str) -> int:
        return self._builder.info.splits[split].num_examples

    def _parts(self, split: str) -> list[tuple[str, int, int, int]]:
        """Lists (file, records to skip, records to read, position of the first)."""
        parts, position = [], 0
        for part in self._builder.info.splits[split].file_instructions:
            take = part.examples_in_shard - part.skip if part.take < 0 else part.take
            parts.append((os.fspath(part.filename), part.skip, take, position))
            position += take
        return parts

    def _stored_ids(self, split: str) -> list[str]:
        return [
            f"{os.path.basename(file)}__{number}"
            for file, skip, take, _ in self._parts(split)
            for number in range(skip, skip + take)
        ]

    def _stored_labels(self, split: str) -> np.ndarray:
        if self._label_key is None:
            return np.full(self._stored_size(split), -1, np.int64)
        spec = {self._label_key: self._spec[self._label_key]}
        parsed = [tf.io.parse_example(rows, spec) for rows in self._batches(split)]
        return np.concatenate([example[self._label_key] for example in parsed])

    def _parse(self, raw: tuple[tf.Tensor, tf.Tensor], position: tf.Tensor) -> source.Record:
        serialized, identity = raw
        example = tf.io.parse_single_example(serialized, self._spec)
        label = example.get(self._label_key, tf.constant(-1, tf.int64))
        return {"id": identity, "image": example[self._image_key], "label": label}

    def load_all(self, split: str) -> source.Record:
        """See Source; parses in batches, which is many times faster."""
        if split in self._subset:
            return super().load_all(split)
        parsed = [tf.io.parse_example(rows, self._spec) for rows in self._batches(split)]
        return {
            "id": tf.constant(self._stored_ids(split)),
            "image": tf.concat([example[self._image_key] for example in parsed], 0),
            "label": tf.constant(self._stored_labels(split)),
        }

    def _batches(self, split: str) -> Iterator[tf.Tensor]:
        """Yields the serialized records of a split in stored order, in batches."""
        if self.random_access:
            reader, size = self._reader(split), self._stored_size(split)
            for start in range(0, size, 4096):
                indices = range(start, min(start + 4096, size))
                yield tf.constant([bytes(reader[index]) for index in indices])
            return
        for file, skip, take, _ in self._parts(split):
            records = tf.data.TFRecordDataset(file, buffer_size=2**20).skip(skip).take(take)
            yield from records.batch(4096)

    def _epoch(self, split: str, seed: int | None, epoch: tf.Tensor | None) -> tf.data.Dataset:
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

        def read(
            file: tf.Tensor, skip: tf.Tensor, take: tf.Tensor, first: tf.Tensor
        ) -> tf.data.Dataset:
            records = tf.data.TFRecordDataset(file, buffer_size=2**20).skip(skip).take(take)
            name = tf.strings.split(file, os.sep)[-1]

            def add_id(index: tf.Tensor, serialized: tf.Tensor) -> tuple:
                identity = tf.strings.join([name, "__", tf.strings.as_string(skip + index)])
                return (serialized, identity), first + index

            return records.enumerate().map(add_id)

        at_once = min(_FILES_AT_ONCE, len(parts)) if epoch is not None else 1
        return tf.data.Dataset.from_tensor_slices(columns).interleave(
            read,
            cycle_length=at_once,
            block_length=16,
            num_parallel_calls=at_once,
            deterministic=True,
        )

    def _shuffle(
        self, records: tf.data.Dataset, split: str, seed: int, epoch: tf.Tensor
    ) -> tf.data.Dataset:
        stored = sum(self.splits.values())
        fits = int(_SHUFFLE_BYTES // max(1, self.num_bytes // max(1, stored)))
        buffer = self.shuffle_buffer
        try:
            self.shuffle_buffer = max(1, min(buffer, fits))
            return super()._shuffle(records, split, seed, epoch)
        finally:
            self.shuffle_buffer = buffer

    def _reader(self, split: str) -> Any:
        return self._builder.as_data_source(split, deserialize_method=self._raw)

    def _fetcher(self, split: str) -> Callable[[tf.Tensor], source.Record]:
        reader = self._reader(split)
        lock = threading.Lock()
        ids = tf.constant(self._stored_ids(split))

        def read(position: np.ndarray) -> np.ndarray:
            with lock:  # the reader opens its files at the first access
                return np.asarray(bytes(reader[int(position)]), object)

        def fetch(position: tf.Tensor) -> source.Record:
            serialized = tf.numpy_function(read, [position], tf.string, stateful=False)
            serialized = tf.ensure_shape(serialized, [])
            return self._parse((serialized, tf.gather(ids, position)), position)

        return fetch
