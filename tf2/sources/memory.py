"""Sources in memory: arrays of images, and the records of another source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import errors
from tf2.sources import source


class ArraySource(source.Source):
    """Unlabeled images in an array, as one split "images"; their ids are their indices."""

    def __init__(self, images: Any):
        """Takes an array of uint8 images (n, height, width, channels) or (n, height, width).

        Raises:
            errors.UserError: the array is of another type or shape, or empty.
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

    def decode(self, record: source.Record) -> source.Record:
        """See Source; there is nothing to decode."""
        image = tf.ensure_shape(record["image"], self._images.shape[1:])
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _stored_labels(self, split: str) -> np.ndarray:
        return np.full(len(self._images), -1, np.int64)

    def _stored_ids(self, split: str) -> list[str]:
        return [str(index) for index in range(len(self._images))]

    def _fetcher(self, split: str) -> Callable[[tf.Tensor], source.Record]:
        images = tf.constant(self._images)
        return lambda position: {
            "image": tf.gather(images, position),
            "label": tf.constant(-1, tf.int64),
            "id": tf.strings.as_string(position),
        }


class ArraysSource(source.Source):
    """Unlabeled images of different sizes, as one split "images"; their ids are their numbers."""

    def __init__(self, images: Sequence[np.ndarray]):
        """Takes arrays of uint8 images, each (height, width, channels).

        Raises:
            errors.UserError: an array is of another type or shape, empty, or of other channels.
        """
        for number, image in enumerate(images):
            channels = images[0].shape[-1:]
            fits = image.dtype == np.uint8 and image.ndim == 3 and image.size
            if not fits or image.shape[-1:] != channels:
                raise errors.UserError(
                    "Images are uint8, of shape (height, width, channels) or (height, width), all "
                    f"with as many channels. Received: {image.dtype} of shape {image.shape} as "
                    f"number {number}. Scale to 0 to 255, and convert with .astype('uint8')."
                )
        self._images = images
        super().__init__("arrays", {"images": len(images)}, channels=images[0].shape[-1])

    def decode(self, record: source.Record) -> source.Record:
        """See Source."""
        image = tf.io.parse_tensor(record["image"], tf.uint8)
        image = tf.ensure_shape(image, [None, None, self.channels])
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _stored_labels(self, split: str) -> np.ndarray:
        return np.full(len(self._images), -1, np.int64)

    def _stored_ids(self, split: str) -> list[str]:
        return [str(number) for number in range(len(self._images))]

    def _fetcher(self, split: str) -> Callable[[tf.Tensor], source.Record]:
        images = tf.stack([tf.io.serialize_tensor(image) for image in self._images])
        return lambda position: {
            "image": tf.gather(images, position),
            "label": tf.constant(-1, tf.int64),
            "id": tf.strings.as_string(position),
        }


class MemorySource(source.Source):
    """Holds the undecoded records of another source in memory, for access by position.

    A split is read when it is first used.
    """

    def __init__(self, inner: source.Source):
        super().__init__(
            inner.name,
            inner.splits,
            class_names=inner.class_names,
            num_classes=inner.num_classes,
            channels=inner.channels,
        )
        self.inner, self.listing = inner, inner.listing
        self.unreadable = inner.unreadable
        self._records: dict[str, source.Record] = {}

    def may_lack_labels(self, split: str) -> bool:
        """See Source."""
        return self.inner.may_lack_labels(split)

    def fingerprint(self, split: str) -> str:
        """See Source."""
        return self.inner.fingerprint(split)

    def decode(self, record: source.Record) -> source.Record:
        """See Source."""
        return self.inner.decode(record)

    def _resolve(self, split: str) -> str:
        return self.inner._resolve(split)

    def _stored_size(self, split: str) -> int:
        return self.inner.num_examples(split)

    def _stored_labels(self, split: str) -> np.ndarray:
        return self._load(split)["label"].numpy()

    def _stored_ids(self, split: str) -> list[str]:
        return [name.decode() for name in self._load(split)["id"].numpy()]

    def _fetcher(self, split: str) -> Callable[[tf.Tensor], source.Record]:
        records = self._load(split)
        return lambda position: {
            key: tf.gather(values, position) for key, values in records.items()
        }

    def _load(self, split: str) -> source.Record:
        if split not in self._records:
            self._records[split] = self.inner.load_all(split)
        return self._records[split]
