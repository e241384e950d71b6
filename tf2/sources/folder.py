"""Reads images from a folder or from a CSV manifest.

Layouts: DIR/<split>/<class>/..., DIR/<class>/..., or images without classes, in DIR or in
DIR/<split>. Classes are the sorted names of their folders, which may have further folders below
them. Paths are sorted, so the order does not depend on the file system.

Unreadable images are skipped before training, so that the step number alone determines which
images a step reads.
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from tf2 import errors
from tf2.sources import image_check, source

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_TRAIN_NAMES = ("train", "training")
_EVAL_NAMES = ("validation", "val", "valid", "test", "testing", "eval", "dev")
_SPLIT_NAMES = (*_TRAIN_NAMES, *_EVAL_NAMES, "unlabeled", "unlabelled", "extra")
_ALIASES = {
    "train": ("training",),
    "validation": ("val", "valid", "dev", "eval"),
    "test": ("testing",),
}


@dataclasses.dataclass(frozen=True)
class _Image:
    path: str  # relative to the root
    split: str
    class_name: str | None


def load(
    data_dir: str | None,
    *,
    val_fraction: float = 0.0,
    max_bad_fraction: float = 0.01,
    log_path: str | None = None,
    channels: int = 3,
) -> FolderSource:
    """Opens a folder of images or a CSV manifest.

    Args:
        data_dir: the folder; or FILE.csv with columns path, label and optionally split, with paths
            relative to the file.
        val_fraction: fraction of each class to hold out as "validation" if there is no evaluation
            split. The choice depends on the paths only.
        max_bad_fraction: fraction of the images that may be unreadable.
        log_path: file to list unreadable images in; see `image_check.find_unreadable`.
        channels: of the decoded images, 1 or 3, whatever the files hold.

    Returns:
        A `Source`.

    Raises:
        errors.UserError: data_dir does not exist or holds no usable images.
    """
    if not data_dir:
        raise errors.UserError(
            "The dataset folder needs the path of a folder or CSV file. Received: "
            f"data_dir={data_dir!r}. Set --data_dir."
        )
    data_dir = os.path.expanduser(data_dir)
    if os.path.isfile(data_dir) and data_dir.lower().endswith(".csv"):
        root, images = os.path.dirname(data_dir) or ".", _read_manifest(data_dir)
    elif os.path.isdir(data_dir):
        root, images = data_dir, _scan(data_dir)
    else:
        kind = "which is another file" if os.path.exists(data_dir) else "which does not exist"
        raise errors.UserError(
            "The data_dir must be a folder of images or a .csv file. Received: "
            f"data_dir={data_dir!r}, {kind}. Correct --data_dir."
        )
    if not images:
        raise errors.UserError(
            f"The data_dir must contain or list images ({', '.join(SUFFIXES)}). Received: "
            f"data_dir={data_dir!r}, without images. Correct --data_dir."
        )
    unreadable = image_check.find_unreadable(
        root,
        [image.path for image in images],
        max_bad_fraction=max_bad_fraction,
        log_path=log_path,
    )
    images = [image for image in images if image.path not in unreadable]
    return FolderSource(root, _hold_out(images, val_fraction), channels)


def _scan(root: str) -> list[_Image]:
    """Lists the images below a folder, with split and class from their paths."""
    paths = sorted(_image_paths(root))
    has_splits = _has_split_folders(paths)
    images = []
    for parts in paths:
        split = parts[0] if has_splits else "train"
        folders = parts[1:-1] if has_splits else parts[:-1]
        images.append(_Image(os.path.join(*parts), split, folders[0] if folders else None))
    return images


def _image_paths(root: str) -> Iterable[tuple[str, ...]]:
    """Yields the path of each image below a folder as its parts, hidden files left out."""
    visited = set()
    for directory, subdirectories, names in os.walk(root, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:  # a link to a parent folder
            subdirectories.clear()
            continue
        visited.add(real)
        subdirectories[:] = sorted(name for name in subdirectories if name[0] != ".")
        relative = os.path.relpath(directory, root)
        parts = () if relative == "." else tuple(relative.split(os.sep))
        for name in names:
            if name[0] != "." and name.lower().endswith(SUFFIXES):
                yield (*parts, name)


def _has_split_folders(paths: Sequence[tuple[str, ...]]) -> bool:
    """Returns whether the first level of folders is splits rather than classes."""
    if any(len(parts) == 1 for parts in paths):
        return False
    only_folders = {parts[0]: True for parts in paths}
    for parts in paths:
        only_folders[parts[0]] &= len(parts) > 2
    if all(name.lower() in _SPLIT_NAMES for name in only_folders):
        return True
    # "train" may be a class of vehicles. As a split, it and its neighbors hold folders only.
    has_train = any(name.lower() in _TRAIN_NAMES for name in only_folders)
    return has_train and all(only_folders.values())


def _read_manifest(path: str) -> list[_Image]:
    try:
        return _manifest_images(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise errors.UserError(
            "A manifest must be a CSV file in UTF-8. Received: "
            f"data_dir={path}, which cannot be read: {error}. Save it as such."
        ) from error


def _manifest_images(path: str) -> list[_Image]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        names = rows.fieldnames or []
        if "path" not in names:
            raise errors.UserError(
                "The first line of a manifest must name its columns: path, label and optionally "
                f"split. Received: {', '.join(names) or 'an empty file'} in data_dir={path}. Name "
                "the columns, separated by commas."
            )
        images = [
            _Image(
                row["path"].strip(),
                (row.get("split") or "").strip() or "train",
                (row.get("label") or "").strip() or None,
            )
            for row in rows
            if (row["path"] or "").strip()
        ]
    return sorted(images, key=lambda image: (image.split, image.path))


def _hold_out(images: list[_Image], val_fraction: float) -> list[_Image]:
    """Moves a fraction of each class from train to a split "validation"."""
    splits = {image.split.lower() for image in images}
    if not val_fraction or splits & set(_EVAL_NAMES):
        if val_fraction:
            logging.warning("val_fraction is ignored: the folder has an evaluation split.")
        return images
    by_class: dict[str | None, list[int]] = {}
    for index, image in enumerate(images):
        if image.split.lower() in _TRAIN_NAMES:
            by_class.setdefault(image.class_name, []).append(index)
    # Not the run's seed: fine-tuning with another seed must not evaluate on images of pretraining.
    random = np.random.RandomState(0)
    held_out: set[int] = set()
    for name in sorted(by_class, key=str):
        indices = random.permutation(by_class[name])
        held_out.update(indices[: round(val_fraction * len(indices))].tolist())
    return [
        dataclasses.replace(image, split="validation") if index in held_out else image
        for index, image in enumerate(images)
    ]


class FolderSource(source.Source):
    """Images in files, read by position; see the module's docstring for the layouts."""

    def __init__(self, root: str, images: Sequence[_Image], channels: int = 3):
        if channels not in (1, 3):
            raise errors.UserError(
                "Images of a folder have 1 or 3 channels. Received: "
                f"channels={channels}. Choose one of these."
            )
        by_split: dict[str, list[_Image]] = {}
        for image in images:
            by_split.setdefault(image.split, []).append(image)
        super().__init__(
            "folder",
            {split: len(members) for split, members in by_split.items()},
            class_names=_class_names(by_split),
            channels=channels,
        )
        self._root = root
        self._images = by_split

    def decode(self, record: source.Record) -> source.Record:
        """See Source."""
        # Every format can be decoded to three channels, but not to one.
        image = tf.io.decode_image(record["image"], 3, expand_animations=False)
        image = tf.ensure_shape(image, [None, None, 3])
        if self.channels == 1:
            image = tf.image.rgb_to_grayscale(image)
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _resolve(self, split: str) -> str:
        for name in (split, *_ALIASES.get(split, ())):
            if name in self.splits:
                return name
        raise errors.UserError(
            f"The split must be one of the folder's: {', '.join(self.splits)}. Received: "
            f"split={split!r}. Set --train_split or --eval_split to one of them, or hold out "
            "images for evaluation with --val_fraction=0.1."
        )

    def _stored_labels(self, split: str) -> np.ndarray:
        labels = {name: label for label, name in enumerate(self.class_names or ())}
        return np.array(
            [labels.get(image.class_name or "", -1) for image in self._images[split]], np.int64
        )

    def fingerprint(self, split: str) -> str:
        """See Source."""
        return image_check.fingerprint(
            self._root, [os.path.join(self._root, name) for name in self.ids(split)]
        )

    def _stored_ids(self, split: str) -> list[str]:
        return [image.path for image in self._images[split]]

    def _fetcher(self, split: str) -> Callable[[tf.Tensor], source.Record]:
        ids = tf.constant([os.fsencode(path) for path in self._stored_ids(split)])
        labels = tf.constant(self._stored_labels(split))
        root = os.fsencode(os.path.join(self._root, ""))

        def fetch(position: tf.Tensor) -> source.Record:
            name = tf.gather(ids, position)
            contents = tf.io.read_file(tf.strings.join([root, name]))
            return {"id": name, "image": contents, "label": tf.gather(labels, position)}

        return fetch


def _class_names(by_split: Mapping[str, Sequence[_Image]]) -> list[str] | None:
    """Returns the sorted classes, the same for all splits; None without classes."""
    classes = {
        split: {image.class_name for image in images if image.class_name is not None}
        for split, images in by_split.items()
    }
    train_splits = [split for split in by_split if split.lower() not in _EVAL_NAMES]
    known: set[str] = set().union(*(classes[split] for split in train_splits or by_split))
    for split, names in classes.items():
        unknown = sorted(names - known)
        if unknown and known:
            raise errors.UserError(
                "Every class must have training images. Received: "
                f"class {unknown[0]!r} only in split {split!r}. Add it to the training split or "
                "remove it."
            )
    names = set().union(*classes.values())
    if not names:
        return None
    if all(name.isdecimal() for name in names):  # 10 after 9
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
