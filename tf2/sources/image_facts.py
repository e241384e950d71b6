"""What the images of a source are like: how many, how large, gray or not; from a sample."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tf2.sources import scan

if typing.TYPE_CHECKING:  # which imports TensorFlow
    from tf2.sources import source as source_lib

SAMPLE = 500  # image files of which the size is read; none is decoded for that
DECODED = 100  # images whose colors are looked at
PERCENTILE = 25  # of the short sides: most images are at least that large
_THUMBNAIL = 64  # pixels, enough to tell gray from color
_GRAY = 2.0  # mean difference between the channels, of 255: JPEG's rounding stays below
_ALMOST_ALL = 0.98


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What `tf2.auto` knows of the images.

    Attributes:
        count: images to train on.
        labeled: those of them with a label.
        num_classes: 0 without labels.
        short_side: pixels, a percentile of the images' short sides.
        gray: whether the images have no color.
        evaluated: images of the evaluation split; 0 without one.
        channels: of a decoded image.
    """

    count: int
    labeled: int = 0
    num_classes: int = 0
    short_side: int = 224
    gray: bool = False
    evaluated: int = 0
    channels: int = 3


def measure(images: source_lib.Source, train_split: str, eval_split: str) -> ImageFacts:
    """Returns the facts of a source, from a sample that is the same in every run.

    Args:
        images: the source.
        train_split: the images to measure.
        eval_split: "" for none.
    """
    listing = images.listing
    sides, grays = (
        _of_files(listing.root, images.ids(train_split))
        if listing is not None
        else _of_decoded(images, train_split)
    )
    return ImageFacts(
        count=images.num_examples(train_split),
        labeled=images.num_labeled(train_split),
        num_classes=images.num_classes,
        short_side=int(np.percentile(sides, PERCENTILE, method="lower")),
        gray=images.channels == 1 or float(np.mean(grays)) >= _ALMOST_ALL,
        evaluated=images.num_examples(eval_split) if eval_split else 0,
        channels=images.channels,
    )


def evenly(values: Sequence[Any], number: int) -> list[Any]:
    """Returns at most `number` of the values, at equal distances."""
    step = max(-(-len(values) // number), 1)
    return list(values[::step])


def _of_files(root: str, paths: Sequence[str]) -> tuple[list[int], list[bool]]:
    """Returns the short sides of some files, and whether they are gray."""
    sides, grays = [], []
    sample = evenly(paths, SAMPLE)
    looked_at = set(evenly(sample, DECODED))
    for path in sample:
        try:
            with Image.open(os.path.join(root, scan.path_of(path))) as image:
                sides.append(min(image.size))
                if path in looked_at:
                    image.draft("RGB", (_THUMBNAIL, _THUMBNAIL))
                    thumbnail = image.convert("RGB")
                    thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
                    grays.append(is_gray(np.asarray(thumbnail)))
        except (OSError, SyntaxError, ValueError):  # checked when training begins
            continue
    return sides or [1], grays or [False]


def _of_decoded(images: source_lib.Source, split: str) -> tuple[list[int], list[bool]]:
    """Returns the same of the first images of a split."""
    decoded = list(_decoded(images, split))
    return [min(pixels.shape[:2]) for pixels in decoded], [is_gray(pixels) for pixels in decoded]


def _decoded(images: source_lib.Source, split: str) -> Iterator[np.ndarray]:
    for record in images.records(split).take(DECODED):
        yield images.decode(record)["image"].numpy()


def is_gray(pixels: np.ndarray) -> bool:
    """Whether an image (h, w, c) of values from 0 to 255 has no color."""
    channels: np.ndarray = pixels.astype(np.int16)
    return float(np.mean(channels.max(-1) - channels.min(-1))) < _GRAY
