"""Finds the images below a folder, and what the names of its folders mean.

Works on paths and sizes: no image is opened. No TensorFlow import.
"""

from __future__ import annotations

import collections
import dataclasses
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


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file.

    Attributes:
        path: relative to the folder.
        split: of the folder.
        class_name: None without a label.
        size: bytes; -1 for a missing file.
    """

    path: str
    split: str
    class_name: str | None
    size: int


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


def folder(root: str, *, by_folder: bool, careful: bool) -> tuple[list[ImageFile], str]:
    """Returns the images below a folder, and their layout in words.

    Args:
        root: the folder.
        by_folder: whether an image's first folder, below its split, is its class.
        careful: only where the folders look like classes; see `are_classes`.

    Raises:
        errors.UserError: a folder cannot be read.
    """
    paths = image_paths(root)
    splits = has_splits(paths)
    unlabeled = [len(parts) > 1 and parts[0].lower() in UNLABELED_NAMES for parts in paths]
    below = [parts[1:] if splits and len(parts) > 1 else parts for parts in paths]
    in_folders = [
        parts for parts, bare in zip(below, unlabeled, strict=True) if len(parts) > 1 and not bare
    ]
    classes = by_folder and bool(in_folders) and (not careful or are_classes(in_folders))
    images = []
    for parts, rest, bare in zip(paths, below, unlabeled, strict=True):
        split = parts[0] if (splits and len(parts) > 1) or bare else "train"
        if splits and len(parts) == 1:
            split = UNLABELED_NAMES[0]
        name = rest[0] if classes and len(rest) > 1 and not bare else None
        path = os.path.join(*parts)
        images.append(ImageFile(path, split, name, file_size(os.path.join(root, path))))
    layout = "all in one folder"
    if classes:
        layout = f"in {len({parts[0] for parts in in_folders}):,} class folders"
    elif in_folders:
        layout = "in folders that are not classes"
        if by_folder:
            layout += f" by their looks (--labels={root} takes the first folders as classes)"
    if splits:
        counts = collections.Counter(image.split for image in images)
        layout += ", split into " + ", ".join(f"{n} {count:,}" for n, count in counts.items())
    elif classes and len(in_folders) < len(images):
        layout += f" and {len(images) - len(in_folders):,} beside them"
    return images, layout


def file_size(path: str) -> int:
    """Returns the size of a file in bytes; -1 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
