"""Reads pictures from a folder or from a CSV manifest.

Layouts: DIR/<split>/<class>/..., DIR/<class>/..., or pictures without classes, in DIR or
in DIR/<split>. Classes are the sorted names of their folders; below a class folder there
may be further folders. Names are sorted, so the file system's order changes nothing.

Unreadable pictures are found before training and left out: what a step reads is then
known from its number alone.
"""

import csv
import dataclasses
import os

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
class _Picture:
    path: str  # relative to the root
    split: str
    class_name: str | None


def load(
    data_dir,
    *,
    val_fraction=0.0,
    max_bad_fraction=0.01,
    log_path=None,
    channels=3,
):
    """Opens a folder of pictures or a CSV manifest.

    Args:
      data_dir: the folder; or FILE.csv with columns path, label and perhaps split, its
        paths relative to the file.
      val_fraction: part of each class to hold out as "validation" where there is no
        split for evaluation. Which pictures depends on their names only.
      max_bad_fraction: part of the pictures that may be unreadable.
      log_path: file to list unreadable images in; see `image_check.find_unreadable`.
      channels: of the decoded pictures, 1 or 3, whatever the files hold.

    Returns:
      A `Source`.

    Raises:
      errors.UserError: data_dir is missing or holds no usable pictures.
    """
    if not data_dir:
        raise errors.UserError(
            "The dataset folder needs to know where its pictures are. Received: "
            f"data_dir={data_dir!r}; set --data_dir to the folder or its CSV file."
        )
    data_dir = os.path.expanduser(data_dir)
    if os.path.isfile(data_dir) and data_dir.lower().endswith(".csv"):
        root, pictures = os.path.dirname(data_dir) or ".", _read_manifest(data_dir)
    elif os.path.isdir(data_dir):
        root, pictures = data_dir, _scan(data_dir)
    else:
        raise errors.UserError(
            "The data_dir must be a folder of pictures or a .csv file. Received: "
            f"data_dir={data_dir!r}; correct --data_dir."
        )
    if not pictures:
        raise errors.UserError(
            f"There are no pictures ({', '.join(SUFFIXES)}) below the data_dir. Received: "
            f"data_dir={data_dir!r}; correct --data_dir."
        )
    broken = image_check.find_unreadable(
        root,
        [picture.path for picture in pictures],
        max_bad_fraction=max_bad_fraction,
        log_path=log_path,
    )
    pictures = [picture for picture in pictures if picture.path not in broken]
    pictures = _hold_out(pictures, val_fraction)
    return FolderSource(root, pictures, channels)


def _scan(root):
    """Finds pictures, their splits and their classes from where they lie."""
    found = []
    seen = set()
    for directory, subdirectories, files in os.walk(root, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:  # a link that leads back
            subdirectories.clear()
            continue
        seen.add(real)
        subdirectories[:] = sorted(name for name in subdirectories if name[0] != ".")
        place = os.path.relpath(directory, root)
        parts = () if place == "." else tuple(place.split(os.sep))
        for name in files:
            if name[0] != "." and name.lower().endswith(SUFFIXES):
                found.append((*parts, name))
    found.sort()
    splits = _has_split_folders(found)
    pictures = []
    for parts in found:
        split = parts[0] if splits else "train"
        folders = parts[1:-1] if splits else parts[:-1]
        class_name = folders[0] if folders else None
        pictures.append(_Picture(os.path.join(*parts), split, class_name))
    return pictures


def _has_split_folders(found):
    """Whether the first level of folders is splits rather than classes."""
    if any(len(parts) == 1 for parts in found):
        return False
    deep = {parts[0]: True for parts in found}
    for parts in found:
        deep[parts[0]] &= len(parts) > 2
    if all(name.lower() in _SPLIT_NAMES for name in deep):
        return True
    # "train" may be a class, a railway train: splits then hold nothing but folders.
    return any(name.lower() in _TRAIN_NAMES for name in deep) and all(deep.values())


def _read_manifest(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        names = rows.fieldnames or []
        if "path" not in names:
            raise errors.UserError(
                "A manifest's first line must name the columns path, label and perhaps "
                f"split. Received: {', '.join(names) or 'an empty file'} in {path}; add them."
            )
        pictures = [
            _Picture(
                row["path"].strip(),
                (row.get("split") or "").strip() or "train",
                (row.get("label") or "").strip() or None,
            )
            for row in rows
            if (row["path"] or "").strip()
        ]
    return sorted(pictures, key=lambda picture: (picture.split, picture.path))


def _hold_out(pictures, val_fraction):
    """Moves a part of each class from train to a split "validation"."""
    splits = {picture.split.lower() for picture in pictures}
    if not val_fraction or splits & set(_EVAL_NAMES):
        if val_fraction:
            logging.warning("val_fraction is not used: there is a split for evaluation.")
        return pictures
    by_class = {}
    for number, picture in enumerate(pictures):
        if picture.split.lower() in _TRAIN_NAMES:
            by_class.setdefault(picture.class_name, []).append(number)
    # Fixed, not the run's seed: another seed in fine-tuning must not evaluate on
    # pictures of pretraining.
    random = np.random.RandomState(0)
    held = set()
    for name in sorted(by_class, key=str):
        numbers = random.permutation(by_class[name])
        held.update(numbers[: round(val_fraction * len(numbers))].tolist())
    return [
        dataclasses.replace(picture, split="validation") if number in held else picture
        for number, picture in enumerate(pictures)
    ]


class FolderSource(source.Source):
    """Pictures in files, read by position; see the module's text for the layouts."""

    def __init__(self, root, pictures, channels=3):
        if channels not in (1, 3):
            raise errors.UserError(
                "Pictures of a folder have 1 or 3 channels. Received: "
                f"channels={channels}; choose one of these."
            )
        by_split = {}
        for picture in pictures:
            by_split.setdefault(picture.split, []).append(picture)
        names = _class_names(by_split)
        super().__init__(
            "folder",
            {split: len(inside) for split, inside in by_split.items()},
            class_names=names,
            channels=channels,
        )
        self._root = root
        self._pictures = by_split

    def decode(self, record):
        """See Source."""
        # Decoded with three channels, which every format can give.
        image = tf.io.decode_image(record["image"], 3, expand_animations=False)
        image = tf.ensure_shape(image, [None, None, 3])
        if self.channels == 1:
            image = tf.image.rgb_to_grayscale(image)
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _resolve(self, split):
        for name in (split, *_ALIASES.get(split, ())):
            if name in self.splits:
                return name
        known = list(self.splits)
        raise errors.UserError(
            f"The folder has no split of that name, only {', '.join(known)}. Received: "
            f"split={split!r}; set --train_split or --eval_split to one of them, or hold out "
            "a part for evaluation with --val_fraction=0.1."
        )

    def _stored_labels(self, split):
        places = {name: label for label, name in enumerate(self.class_names or ())}
        return np.array(
            [places.get(picture.class_name, -1) for picture in self._pictures[split]], np.int64
        )

    def stamp(self, split):
        """See Source."""
        return image_check.fingerprint(
            self._root, [os.path.join(self._root, name) for name in self.ids(split)]
        )

    def _stored_ids(self, split):
        return [picture.path for picture in self._pictures[split]]

    def _fetcher(self, split):
        ids = tf.constant([os.fsencode(path) for path in self._stored_ids(split)])
        labels = tf.constant(self._stored_labels(split))
        root = os.fsencode(os.path.join(self._root, ""))

        def fetch(position):
            name = tf.gather(ids, position)
            contents = tf.io.read_file(tf.strings.join([root, name]))
            return {"id": name, "image": contents, "label": tf.gather(labels, position)}

        return fetch


def _class_names(by_split):
    """Returns the classes, sorted, the same for all splits; None without classes."""
    classes = {
        split: {picture.class_name for picture in inside if picture.class_name is not None}
        for split, inside in by_split.items()
    }
    trained = [split for split in by_split if split.lower() not in _EVAL_NAMES]
    known = set().union(*(classes[split] for split in trained or by_split))
    for split, names in classes.items():
        extra = sorted(names - known)
        if extra and known:
            raise errors.UserError(
                "Every class must have pictures to train on. Received: "
                f"class {extra[0]!r} only in split {split!r}; add it to the training "
                "split or remove it."
            )
    names = set().union(*classes.values())
    if not names:
        return None
    whole_numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if whole_numbers else None)
