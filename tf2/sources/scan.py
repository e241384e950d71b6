"""Finds the images below a folder, and what the names of its folders mean.

Works on paths alone: no image is opened. No TensorFlow import.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from tf2 import errors, progress

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
TRAIN_NAMES = ("train", "training")
EVAL_NAMES = ("validation", "val", "valid", "dev", "eval", "test", "testing")
UNLABELED_NAMES = ("unlabeled", "unlabelled")
SPLIT_NAMES = (*TRAIN_NAMES, *EVAL_NAMES, *UNLABELED_NAMES, "extra")
# Folders of a camera (DCIM, 100CANON) and of dates (2021, 2021-05, 2021_05_30): no classes.
_NO_CLASS = re.compile(r"DCIM|\d{3}[A-Z_]{5}|\d{3}_\w{4}|(19|20)\d\d([-_. ]?\d\d){0,2}", re.I)

Parts = tuple[str, ...]  # of a path relative to the root: folders, then the file's name


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image, hidden files left out."""
    return name[:1] != "." and name.lower().endswith(SUFFIXES)


def image_paths(root: str) -> list[Parts]:
    """Returns the path of each image below a folder, sorted; hidden files and folders left out.

    Raises:
        errors.UserError: a folder cannot be read.
    """
    return sorted(progress.count(_walk(root), "Looking for images"))


def _walk(root: str) -> Iterator[Parts]:
    def fail(error: OSError) -> None:
        raise errors.UserError(
            f"Every folder below the data_dir must be readable ({error.strerror}). Received: "
            f"{error.filename} in data_dir={root}. Change its permissions."
        ) from error

    visited = set()
    for directory, subdirectories, names in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(directory)
        if real in visited:  # a link to a parent folder
            subdirectories.clear()
            continue
        visited.add(real)
        subdirectories[:] = sorted(name for name in subdirectories if name[0] != ".")
        relative = os.path.relpath(directory, root)
        parts = () if relative == "." else tuple(relative.split(os.sep))
        yield from ((*parts, name) for name in names if is_image(name))


def has_splits(paths: Iterable[Parts]) -> bool:
    """Returns whether the first level of folders is splits rather than classes."""
    holds_only_folders: dict[str, bool] = {}
    loose = False
    for parts in paths:
        if len(parts) == 1:
            loose = True
            continue
        holds_only_folders.setdefault(parts[0], True)
        holds_only_folders[parts[0]] &= len(parts) > 2
    has_train = any(name.lower() in TRAIN_NAMES for name in holds_only_folders)
    if all(name.lower() in SPLIT_NAMES for name in holds_only_folders):
        return has_train or (bool(holds_only_folders) and not loose)
    # "train" may be a class of vehicles. As a split, it and its neighbors hold folders only.
    return has_train and not loose and all(holds_only_folders.values())


def are_classes(folders_and_name: Sequence[Parts]) -> bool:
    """Returns whether folders look like classes: images sorted by what they show.

    Each image then lies in exactly one folder, there are at least two of these, and they are not
    named after dates or by a camera.

    Args:
        folders_and_name: paths below their split, without unlabeled and loose images.
    """
    names = {parts[0] for parts in folders_and_name}
    if len(names) < 2 or any(len(parts) != 2 for parts in folders_and_name):
        return False
    return 2 * sum(bool(_NO_CLASS.fullmatch(name)) for name in names) <= len(names)
