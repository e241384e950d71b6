"""Opens a dataset by name, as one type: `source.Source`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from tf2 import config as config_lib
from tf2 import modes
from tf2.sources import (
    digits,
    folder,
    image_check,
    image_decoding,
    labeled_subset,
    memory,
    source,
    tfds_source,
)

Source = source.Source

_MEMORY_LIMIT = 2**30  # bytes; encoded records up to this are held in memory


@dataclasses.dataclass(frozen=True)
class Options:
    """What `load_source` passes to every loader, which uses what applies to it."""

    data_dir: str | None
    labels: str
    holdout: float
    val_fraction: float
    label_seed: int
    max_bad_fraction: float
    max_pixels: int
    follow_links: bool
    log_path: str | None
    channels: int
    shuffle_buffer: int
    in_memory: bool | None
    download: bool


def _load_digits(options: Options) -> source.Source:
    return digits.DigitsSource()


def _load_folder(options: Options) -> source.Source:
    images = folder.load(
        options.data_dir,
        labels=options.labels,
        holdout=options.holdout,
        val_fraction=options.val_fraction,
        label_seed=options.label_seed,
        max_bad_fraction=options.max_bad_fraction,
        max_pixels=options.max_pixels,
        follow_links=options.follow_links,
        log_path=options.log_path,
        channels=options.channels,
    )
    return memory.MemorySource(images) if options.in_memory else images


def _load_tfds(name: str, options: Options) -> source.Source:
    images = tfds_source.load(
        name, options.data_dir, download=options.download, other_datasets=tuple(LOADERS)
    )
    images.shuffle_buffer = options.shuffle_buffer
    in_memory = options.in_memory
    if in_memory is None:
        in_memory = not images.random_access and images.num_bytes <= _MEMORY_LIMIT
    return memory.MemorySource(images) if in_memory else images


# To add a kind of dataset, add its name and loader. Any other name is one of TensorFlow Datasets.
LOADERS: dict[str, Callable[[Options], source.Source]] = {
    "digits": _load_digits,
    "folder": _load_folder,
}


def build_source(config: config_lib.Config, channels: int | None = None) -> source.Source:
    """Opens the dataset of a `Config`, with the labels that the run may use.

    Args:
        config: the settings, as `configure` returns them.
        channels: of a folder's images; None means 3.

    Returns:
        A source with `splits`, `num_examples(split)`, `labels(split)`, `ids(split)`. In fine-tuning
        and supervised training its `train_split` holds only the images with a label, or the labeled
        subset that label_fraction or labels_per_class choose. In distillation it holds all images,
        with the labels of that subset only, or without any label where no loss uses them.
    """
    log_path = None
    if config.model_dir:
        log_path = os.path.join(config.model_dir, image_check.LOG_NAME)
    images = load_source(
        config.dataset_name,
        config.data_dir,
        labels=config.labels,
        holdout=config.holdout,
        val_fraction=config.val_fraction,
        label_seed=config.label_seed,
        max_bad_fraction=config.max_bad_fraction,
        max_pixels=config.max_pixels,
        follow_links=config.follow_links,
        log_path=log_path,
        channels=channels or 3,
        shuffle_buffer=config.shuffle_buffer,
        in_memory=True if config.cache_dataset else None,
    )
    hides_labels = modes.get(config.train_mode).hides_labels
    if hides_labels and not config.uses_labels:
        return images.hide_labels(config.train_split)
    if not config.few_labels:
        trains_on_labels = config.trains_on_labels and images.num_labeled(config.train_split)
        return images.labeled(config.train_split) if trains_on_labels else images
    positions = labeled_subset.select_labels(
        images.labels(config.train_split),
        fraction=config.label_fraction,
        per_class=config.labels_per_class,
        seed=config.label_seed,
        class_names=images.class_names,
    )
    if hides_labels:
        return images.hide_labels(config.train_split, positions)
    return images.subset(config.train_split, positions)


def load_source(
    dataset: str,
    data_dir: str | os.PathLike | None = None,
    *,
    labels: str | os.PathLike = "",
    holdout: float = 0.0,
    val_fraction: float = 0.0,
    label_seed: int = 0,
    max_bad_fraction: float = 0.01,
    max_pixels: int = image_decoding.MAX_PIXELS,
    follow_links: bool = False,
    log_path: str | None = None,
    channels: int = 3,
    shuffle_buffer: int = 50000,
    in_memory: bool | None = None,
    download: bool = True,
) -> source.Source:
    """Opens a dataset.

    Args:
        dataset: digits, folder, or the name of a TensorFlow Datasets (TFDS) dataset.
        data_dir: directory of the prepared TFDS files; for a folder, its path or a CSV manifest.
        labels: of a folder: a labels file, a folder of class folders, "none" or "guess"; empty
            takes the first folder of each image as its class.
        holdout: fraction of a folder's labeled images of each class to hold out as the split
            "holdout", if it has no labeled evaluation split.
        val_fraction: fraction of a folder's images to hold out as "validation", if it has no
            evaluation split.
        label_seed: of `holdout`.
        max_bad_fraction: fraction of a folder's images that may be unreadable.
        max_pixels: of a folder's largest image; a larger one counts as unreadable.
        follow_links: whether links that lead out of a folder are followed.
        log_path: file to list a folder's unreadable images in; None writes none.
        channels: of a folder's decoded images, 1 or 3.
        shuffle_buffer: records to shuffle among if they are read in sequence.
        in_memory: whether to hold the undecoded records in memory; None does so up to 1 GiB if they
            could only be read in sequence.
        download: whether TFDS may download a dataset that is not in data_dir.

    Returns:
        A source with `splits`, `num_examples(split)`, `labels(split)`, `ids(split)`; `embed`,
        `predict` and `build_dataset` take it.

    Raises:
        errors.UserError: the dataset is unknown, or its data is missing or unusable.
    """
    options = Options(
        data_dir=os.path.expanduser(os.fspath(data_dir)) if data_dir else None,
        labels=os.fspath(labels),
        holdout=holdout,
        val_fraction=val_fraction,
        label_seed=label_seed,
        max_bad_fraction=max_bad_fraction,
        max_pixels=max_pixels,
        follow_links=follow_links,
        log_path=log_path,
        channels=channels,
        shuffle_buffer=shuffle_buffer,
        in_memory=in_memory,
        download=download,
    )
    if dataset in LOADERS:
        return LOADERS[dataset](options)
    return _load_tfds(dataset, options)
