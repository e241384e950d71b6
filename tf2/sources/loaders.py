"""Where images come from: TensorFlow Datasets, a folder, the embedded digits.

Everything ends in one type, `source.Source`: splits, records in a known order, decoding.
"""

import os

import numpy as np
import tensorflow as tf

from tf2 import errors, modes
from tf2.sources import folder, image_check, source, tfds_source

Source = source.Source

_DIGITS_TEST_PER_CLASS = 36  # 360 of 1,797
_MEMORY_LIMIT = 2**30  # bytes; encoded records up to this are held in memory


def build_source(config, channels=None):
    """Makes the source that a run's `Config` asks for, with as many labels as it may use.

    Args:
      config: a `Config`.
      channels: of a folder's pictures, for a network that wants others than color.

    Returns:
      A `Source`. In finetune and supervised training its `train_split` holds only the
      labeled pictures that label_fraction or labels_per_class choose. In distillation it
      holds all pictures, and tells the labels of those, or of none where no loss asks for
      them.
    """
    log_path = None
    if config.model_dir:
        log_path = os.path.join(config.model_dir, image_check.LOG_NAME)
    made = load_source(
        config.dataset_name,
        config.data_dir,
        val_fraction=config.val_fraction,
        max_bad_fraction=config.max_bad_fraction,
        log_path=log_path,
        channels=channels or 3,
        shuffle_buffer=config.shuffle_buffer,
        in_memory=True if config.cache_dataset else None,
    )
    hides_labels = modes.get(config.train_mode).hides_labels
    if hides_labels and not config.uses_labels:
        return made.hide_labels(config.train_split)
    if not config.few_labels:
        return made
    positions = select_labels(
        made.labels(config.train_split),
        fraction=config.label_fraction,
        per_class=config.labels_per_class,
        seed=config.label_seed,
        class_names=made.class_names,
    )
    if hides_labels:
        return made.hide_labels(config.train_split, positions)
    return made.subset(config.train_split, positions)


def load_source(
    dataset,
    data_dir=None,
    *,
    val_fraction=0.0,
    max_bad_fraction=0.01,
    log_path=None,
    channels=3,
    shuffle_buffer=50000,
    in_memory=None,
    download=True,
):
    """Opens a dataset.

    Args:
      dataset: digits, folder, or the name of a TensorFlow Datasets set.
      data_dir: directory of the prepared TFDS files; of the folder; or a CSV manifest.
      val_fraction: part of a folder's pictures to hold out as split "validation" where
        it has none for evaluation.
      max_bad_fraction: part of a folder's pictures that may be unreadable.
      log_path: file to list a folder's unreadable images in; None writes none.
      channels: of the decoded pictures of a folder, 1 or 3.
      shuffle_buffer: records to shuffle among where they are read in sequence.
      in_memory: hold the undecoded records in memory; None does so up to 1 GiB where
        they could only be read in sequence.
      download: let TFDS fetch a set that is not in data_dir.

    Returns:
      A `Source`.

    Raises:
      errors.UserError: there is no such dataset, or its data is missing or unusable.
    """
    if dataset == "digits":
        return DigitsSource()
    if dataset == "folder":
        made = folder.load(
            data_dir,
            val_fraction=val_fraction,
            max_bad_fraction=max_bad_fraction,
            log_path=log_path,
            channels=channels,
        )
    else:
        made = tfds_source.load(
            dataset, data_dir, download=download, also_known=("digits", "folder")
        )
        made.shuffle_buffer = shuffle_buffer
        if in_memory is None:
            in_memory = not made.random_access and made.num_bytes <= _MEMORY_LIMIT
    return source.MemorySource(made) if in_memory else made


def select_labels(labels, *, fraction=0.0, per_class=0, seed=0, class_names=None):
    """Chooses a few labeled examples, equally many of each class.

    Args:
      labels: int64 (n,); -1 is no label.
      fraction: part of the labeled examples to choose, at least one per class. Classes
        differ by at most one, unless one has too few examples and others make up for it
        (1% of ImageNet: 12 or 13 of each class, 12,811 together).
      per_class: or how many of each class.
      seed: another one chooses others.
      class_names: for messages.

    Returns:
      Positions, int64, sorted.

    Raises:
      errors.UserError: there are not as many labels as asked for.
    """
    labels = np.asarray(labels)
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    if not len(classes):
        raise errors.UserError(
            "Choosing a few labels needs labeled pictures. Received: a split without "
            "labels; leave out --label_fraction and --labels_per_class."
        )
    random = np.random.RandomState(seed)
    if per_class:
        _check_class_sizes(classes, sizes, per_class, class_names)
        wanted = np.full(len(classes), per_class)
    else:
        if not 0 < fraction <= 1:
            raise errors.UserError(
                "The fraction of labels must be above 0 and at most 1. Received: "
                f"label_fraction={fraction}; set --label_fraction within that."
            )
        wanted = _share_out(round(fraction * sizes.sum()), sizes, random)
    chosen = [
        random.permutation(np.flatnonzero(labels == which))[:count]
        for which, count in zip(classes, wanted, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _check_class_sizes(classes, sizes, per_class, class_names):
    smallest = int(np.argmin(sizes))
    if sizes[smallest] < per_class:
        name = class_names[classes[smallest]] if class_names else classes[smallest]
        raise errors.UserError(
            f"Class {name} has only {sizes[smallest]} labeled pictures. Received: "
            f"labels_per_class={per_class}; set --labels_per_class to at most that."
        )


def _share_out(total, sizes, random):
    """Divides `total` over classes as equally as their sizes allow, at least one each."""
    wanted = np.ones(len(sizes), np.int64)
    left = total - wanted.sum()
    while left > 0:
        free = np.flatnonzero(wanted < sizes)
        each = left // len(free)
        if each == 0:  # fewer than classes: which of them get one is drawn
            wanted[random.permutation(free)[:left]] += 1
            break
        given = np.minimum(sizes[free] - wanted[free], each)
        wanted[free] += given
        left -= given.sum()
    return wanted


class DigitsSource(source.Source):
    """Scikit-learn's 1,797 handwritten digits, 8x8 gray, split by class 1,437 to 360.

    The split is fixed. "validation" is another name of "test".
    """

    def __init__(self):
        images, labels, parts = _load_digits()
        super().__init__(
            "digits",
            {split: len(positions) for split, positions in parts.items()},
            class_names=[str(digit) for digit in range(10)],
            channels=1,
        )
        self._parts = parts
        self._images = images
        self._labels = labels

    def decode(self, record):
        """See Source; there is nothing to decode."""
        image = tf.ensure_shape(record["image"], [8, 8, 1])
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _resolve(self, split):
        return super()._resolve("test" if split == "validation" else split)

    def _stored_labels(self, split):
        return self._labels[self._parts[split]]

    def _stored_ids(self, split):
        return [f"digits/{number:04d}" for number in self._parts[split]]

    def _fetcher(self, split):
        images = tf.constant(self._images[self._parts[split]])
        labels = tf.constant(self._stored_labels(split))
        ids = tf.constant(self._stored_ids(split))
        return lambda position: {
            "image": tf.gather(images, position),
            "label": tf.gather(labels, position),
            "id": tf.gather(ids, position),
        }


def _load_digits():
    """Returns uint8 images (1797, 8, 8, 1), int64 labels, and positions per split."""
    try:
        from sklearn import datasets as sklearn_datasets
    except ImportError as error:
        raise errors.UserError(
            "The embedded digits come with scikit-learn. Received: dataset=digits; run "
            "`pip install scikit-learn` or give another --dataset."
        ) from error
    bunch = sklearn_datasets.load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = bunch.target.astype(np.int64)
    random = np.random.RandomState(0)
    test = [
        random.permutation(np.flatnonzero(labels == digit))[:_DIGITS_TEST_PER_CLASS]
        for digit in range(10)
    ]
    test = np.sort(np.concatenate(test))
    train = np.setdiff1d(np.arange(len(labels)), test)
    return images, labels, {"train": train, "test": test}
