"""Sources of images that are given from Python: paths of files, and arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from tf2 import errors
from tf2.sources import folder, image_check, memory, scan, source
from tf2.sources import listing as listing_lib


def is_file(images: Any) -> bool:
    """Whether images are given as the path of a single image file."""
    if not isinstance(images, str | os.PathLike):
        return False
    path = os.path.expanduser(os.fspath(images))
    return scan.is_image(os.path.basename(path)) and not os.path.isdir(path)


def build_given_source(images: Any, channels: int) -> source.Source:
    """Opens images that are given from Python, without labels, as one split "images".

    Args:
        images: the path of an image file, several of them, an array (n, height, width, channels),
            (n, height, width) or of one image, several arrays of one image each, or a source,
            which is returned.
        channels: of the decoded files, 1 or 3.

    Raises:
        errors.UserError: a file is not a readable image, or an array not one of images.
    """
    if isinstance(images, source.Source):
        return images
    if is_file(images):
        images = [images]
    if isinstance(images, np.ndarray) or not isinstance(images, Iterable):
        return memory.ArraySource(_batch(np.asarray(images)))
    images = list(images)
    if images and all(isinstance(image, str | os.PathLike) for image in images):
        return _open_files([os.path.expanduser(os.fspath(path)) for path in images], channels)
    return _stack([np.asarray(image) for image in images])


def _open_files(paths: list[str], channels: int) -> source.Source:
    for path in paths:
        reason = image_check.read_error(path)
        if reason:
            raise errors.UserError(
                f"An image must be a file that can be read ({', '.join(scan.SUFFIXES)}). "
                f"Received: {path} ({reason}). Correct or remove it."
            )
    images = tuple(listing_lib.ImageFile(p, "images", None, os.path.getsize(p)) for p in paths)
    return folder.FolderSource(
        listing_lib.Listing("", images, "in a list", None, "nothing"), channels
    )


def _batch(array: np.ndarray) -> np.ndarray:
    """Returns an array of several images; one image becomes the only one."""
    one = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3))
    return array[np.newaxis] if one else array


def _stack(arrays: list[np.ndarray]) -> source.Source:
    """Returns a source of arrays of one image each, whatever their sizes."""
    colors = [a[..., np.newaxis] if a.ndim == 2 else a for a in arrays]
    channels = max((a.shape[-1] for a in colors if a.ndim == 3), default=1)
    gray = [a.ndim == 3 and a.shape[-1] == 1 for a in colors]
    colors = [np.repeat(a, channels, -1) if g else a for a, g in zip(colors, gray, strict=True)]
    if len({array.shape for array in colors}) <= 1:
        return memory.ArraySource(np.stack(colors) if colors else np.zeros((0, 1, 1), np.uint8))
    return memory.ArraysSource(colors)
