"""Finds the images below a folder, and what the names of its folders mean.

Works on paths and sizes: no image is opened. No TensorFlow import.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tf2 import errors, progress

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *([".heic", ".heif"] if importlib.util.find_spec("pillow_heif") else []),
)
# Images that are not read, so that they are counted apart from other files.
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".ico", ".svg", ".psd", ".exr", ".hdr"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
)
# Why a file is not used.
HIDDEN = "hidden"
NO_IMAGE = "without an image's suffix"
NOT_REGULAR = "that are no regular files"
UNREAD = "in formats that are not read (HEIC: pip install pillow-heif)"
OUTSIDE = "links out of the folder (--follow_links=True follows them)"
# What an image's id escapes: controls, line separators, undecodable bytes and the backslash.
_SPECIAL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]")
_ESCAPED = re.compile(r"\\\\|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}")
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


@dataclasses.dataclass
class Found:
    """What is below a folder.

    Attributes:
        paths: of the images, sorted.
        unused: why files are not used -> their paths below the folder, folders among them.
    """

    paths: list[Parts]
    unused: dict[str, list[str]]


def find(root: str, *, follow_links: bool = False) -> Found:
    """Finds the images below a folder, and accounts for what is no image.

    Args:
        root: the folder.
        follow_links: whether links that lead out of the folder are followed.

    Raises:
        errors.UserError: a folder cannot be read.
    """
    unused: dict[str, list[str]] = collections.defaultdict(list)
    paths = sorted(progress.count(_walk(root, follow_links, unused), "Looking for images"))
    return Found(paths, dict(unused))


def _walk(root: str, follow_links: bool, unused: dict[str, list[str]]) -> Iterator[Parts]:
    def fail(error: OSError) -> None:
        raise errors.UserError(
            f"Every folder below the data_dir must be readable ({error.strerror}). Received: "
            f"{error.filename} in data_dir={root}. Change its permissions."
        ) from error

    top = os.path.realpath(root)
    visited = set()
    for directory, subdirectories, names in os.walk(root, followlinks=True, onerror=fail):
        visited.add(os.path.realpath(directory))
        relative = os.path.relpath(directory, root)
        parts = () if relative == "." else tuple(relative.split(os.sep))
        entered = []
        for name in sorted(subdirectories):
            path = os.path.join(directory, name)
            if reason := _why_not_entered(path, top, follow_links, visited):
                unused[reason].append(image_id(os.path.join(*parts, name)))
            else:
                entered.append(name)
        subdirectories[:] = entered
        for name in names:
            if reason := _why_unused(os.path.join(directory, name), top, follow_links):
                unused[reason].append(image_id(os.path.join(*parts, name)))
            else:
                yield (*parts, name)


def _why_not_entered(path: str, top: str, follow_links: bool, visited: set[str]) -> str | None:
    """Returns why the images below a folder are not used; None if they are."""
    if os.path.basename(path)[0] == ".":
        return HIDDEN
    real, is_link = os.path.realpath(path), os.path.islink(path)
    if real in visited or (is_link and _is_inside(real, top)):  # below a link, perhaps the root
        return f"link to {image_id(os.path.relpath(real, top))}, whose images are used there"
    return OUTSIDE if is_link and not follow_links else None


def _why_unused(path: str, top: str, follow_links: bool) -> str | None:
    """Returns why a file is not used; None if it is."""
    name = os.path.basename(path)
    if name[0] == ".":
        return HIDDEN
    if not is_image(name):
        return UNREAD if name.lower().endswith(UNREAD_SUFFIXES) else NO_IMAGE
    if os.path.islink(path) and not follow_links and not _is_inside(os.path.realpath(path), top):
        return OUTSIDE
    try:
        return None if stat.S_ISREG(os.stat(path).st_mode) else NOT_REGULAR
    except OSError:
        return None  # a broken link: an image that cannot be read


def _is_inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def describe_unused(unused: Mapping[str, Sequence[str]]) -> str:
    """Returns the files that are not used, with the reasons; empty if all are."""
    return "; ".join(
        f"{len(paths):,} {reason} ({errors.first_few(paths, 3)})"
        for reason, paths in unused.items()
    )


# ---- names


def image_id(path: str) -> str:
    r"""Returns a path as a name of one line in UTF-8: what else is in it is escaped.

    Control characters and line separators become \u000a, bytes that are no UTF-8 \xff, and a
    backslash is doubled. `path_of` is the inverse.
    """
    return _SPECIAL.sub(_escape, path)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] == "\\":
        return "\\\\"
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def path_of(image_id: str) -> str:
    """Returns the path of an `image_id`."""
    return _ESCAPED.sub(_unescape, image_id)


def _unescape(match: re.Match[str]) -> str:
    if match[0] == "\\\\":
        return "\\"
    code = int(match[0][2:], 16)
    return chr(code + 0xDC00 if match[0][1] == "x" else code)


# ---- what folders mean


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


def _check_unambiguous(root: str, paths: Sequence[Parts]) -> None:
    """Raises errors.UserError where a folder such as `train` may be a split or a class.

    Args:
        root: the folder.
        paths: of images whose first folders are not all splits; see `has_splits`.
    """
    inside: dict[str, list[Parts]] = collections.defaultdict(list)
    beside = []
    for parts in paths:
        if len(parts) > 1 and parts[0].lower() in (*TRAIN_NAMES, *EVAL_NAMES):
            inside[parts[0]].append(parts)
        elif len(parts) < 3:  # an image beside the folders, or a folder of images
            beside.append(os.path.join(*parts[:2]))
    splits = [n for n, found in inside.items() if all(len(parts) > 2 for parts in found)]
    if not splits or not beside:
        return
    name = splits[0]
    classes = errors.first_few(sorted({parts[1] for parts in inside[name]}), 3)
    raise errors.UserError(
        f"Folders must be classes or splits. Received: data_dir={root}, where {name!r} holds "
        f"folders, as a split with the classes {classes} does, but {len(beside):,} images lie "
        f"beside it ({errors.first_few([image_id(path) for path in beside], 3)}), as beside a "
        f"class {name!r}. If it is a split, move these images into a folder "
        f"{UNLABELED_NAMES[0]!r}; if it is a class, move its images up into it."
    )


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


def folder(
    root: str, paths: Sequence[Parts], *, by_folder: bool, careful: bool
) -> tuple[list[ImageFile], str]:
    """Returns the images below a folder, and their layout in words.

    Args:
        root: the folder.
        paths: of the images; see `find`.
        by_folder: whether an image's first folder, below its split, is its class.
        careful: only where the folders look like classes; see `are_classes`.

    Raises:
        errors.UserError: the folders can be read in two ways.
    """
    splits = has_splits(paths)
    if not splits:
        _check_unambiguous(root, paths)
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
        name = None if name is None else image_id(name)
        size = file_size(os.path.join(root, path))
        images.append(ImageFile(path, image_id(split), name, size))
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
    except (OSError, ValueError):  # a name with a null character
        return -1
