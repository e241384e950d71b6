"""The embedded digits: scikit-learn's handwritten digits, which need no download."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf2 import errors
from tf2.sources import source

_TEST_PER_CLASS = 36  # 360 of 1,797


class DigitsSource(source.Source):
    """Scikit-learn's 1,797 handwritten digits, 8x8 gray, split by class into 1,437 and 360.

    The split is fixed. "validation" is another name of "test".
    """

    def __init__(self) -> None:
        images, labels, positions = _load()
        super().__init__(
            "digits",
            {split: len(part) for split, part in positions.items()},
            class_names=[str(digit) for digit in range(10)],
            channels=1,
        )
        self._images, self._labels, self._positions = images, labels, positions

    def decode(self, record: source.Record) -> source.Record:
        """See Source; there is nothing to decode."""
        image = tf.ensure_shape(record["image"], [8, 8, 1])
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _resolve(self, split: str) -> str:
        return super()._resolve("test" if split == "validation" else split)

    def _stored_labels(self, split: str) -> np.ndarray:
        return self._labels[self._positions[split]]

    def _stored_ids(self, split: str) -> list[str]:
        return [f"digits/{number:04d}" for number in self._positions[split]]

    def _fetcher(self, split: str) -> Callable[[tf.Tensor], source.Record]:
        images = tf.constant(self._images[self._positions[split]])
        labels = tf.constant(self._stored_labels(split))
        ids = tf.constant(self._stored_ids(split))
        return lambda position: {
            "image": tf.gather(images, position),
            "label": tf.gather(labels, position),
            "id": tf.gather(ids, position),
        }


def _load() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns uint8 images (1797, 8, 8, 1), int64 labels, and positions per split."""
    try:
        from sklearn import datasets as sklearn_datasets
    except ImportError as error:
        raise errors.UserError(
            "The embedded digits come with scikit-learn, which is not installed. Received: "
            "dataset=digits. Run `pip install scikit-learn` or give another --dataset."
        ) from error
    bunch = sklearn_datasets.load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = bunch.target.astype(np.int64)
    random = np.random.RandomState(0)
    test = np.sort(
        np.concatenate(
            [
                random.permutation(np.flatnonzero(labels == digit))[:_TEST_PER_CLASS]
                for digit in range(10)
            ]
        )
    )
    train = np.setdiff1d(np.arange(len(labels)), test)
    return images, labels, {"train": train, "test": test}
