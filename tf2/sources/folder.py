"""Reads images from a folder or from a CSV manifest; `listing` finds what is there.

Paths are sorted, so the order does not depend on the file system. Unreadable images are skipped
before training, so that the step number alone determines which images a step reads.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from tf2 import errors
from tf2.sources import image_check, image_decoding, scan, source
from tf2.sources import listing as listing_lib


def load(
    data_dir: str | None,
    *,
    labels: str | None = None,
    holdout: float = 0.0,
    val_fraction: float = 0.0,
    label_seed: int = 0,
    max_bad_fraction: float = 0.01,
    max_pixels: int = image_decoding.MAX_PIXELS,
    follow_links: bool = False,
    log_path: str | None = None,
    channels: int = 3,
) -> FolderSource:
    """Opens a folder of images or a CSV manifest.

    Args:
        data_dir, labels, holdout, val_fraction, label_seed: see `listing.list_images`.
        max_bad_fraction: fraction of the images that may be unreadable.
        max_pixels: of the largest image; a larger one counts as unreadable.
        follow_links: whether links that lead out of the folder are followed.
        log_path: file to list unreadable images in; see `image_check.find_unreadable`.
        channels: of the decoded images, 1 or 3, whatever the files hold.

    Returns:
        A `Source`.

    Raises:
        errors.UserError: data_dir does not exist or holds no usable images.
    """
    listing = listing_lib.list_images(
        data_dir,
        labels=labels,
        holdout=holdout,
        label_seed=label_seed,
        follow_links=follow_links,
    )
    unreadable = image_check.find_unreadable(
        listing.root,
        [image.path for image in listing.images],
        max_bad_fraction=max_bad_fraction,
        max_pixels=max_pixels,
        log_path=log_path,
    )
    if unreadable:
        readable = tuple(image for image in listing.images if image.path not in unreadable)
        listing = dataclasses.replace(listing, images=readable)
    if val_fraction:  # of the readable images
        listing = listing_lib.with_validation(listing, val_fraction)
    for text in listing.warnings:
        _warn_once(text)
    images = FolderSource(listing, channels)
    images.unreadable = unreadable
    return images


@functools.cache
def _warn_once(text: str) -> None:
    """Logs a warning, not again for each stage of a run."""
    logging.warning("%s", text)


class FolderSource(source.Source):
    """Images in files, read by position. Splits may be added: "train+unlabeled".

    Attributes:
        listing: the images.
    """

    listing: listing_lib.Listing

    def __init__(self, listing: listing_lib.Listing, channels: int = 3):
        if channels not in (1, 3):
            raise errors.UserError(
                "Images of a folder have 1 or 3 channels. Received: "
                f"channels={channels}. Choose one of these."
            )
        super().__init__(
            "folder",
            listing.splits,
            class_names=listing.class_names or None,
            channels=channels,
        )
        self.listing = listing
        self._by_split: dict[str, list[listing_lib.ImageFile]] = collections.defaultdict(list)
        for image in listing.images:
            self._by_split[image.split].append(image)

    def decode(self, record: source.Record) -> source.Record:
        """See Source."""
        image = image_decoding.decode(record["image"])
        if self.channels == 1:
            image = tf.image.rgb_to_grayscale(image)
        return {"image": image, "label": record["label"], "id": record["id"]}

    def _resolve(self, split: str) -> str:
        return self.listing.find_split(split)

    def _images(self, split: str) -> list[listing_lib.ImageFile]:
        return [image for name in split.split("+") for image in self._by_split[name]]

    def _stored_size(self, split: str) -> int:
        return len(self._images(split))

    def _stored_labels(self, split: str) -> np.ndarray:
        labels: dict[str | None, int]
        labels = {name: label for label, name in enumerate(self.class_names or ())}
        return np.array([labels.get(i.class_name, -1) for i in self._images(split)], np.int64)

    def fingerprint(self, split: str) -> str:
        """See Source."""
        root = self.listing.root
        names = map(scan.path_of, self.ids(split))
        return image_check.fingerprint(root, [os.path.join(root, name) for name in names])

    def _stored_ids(self, split: str) -> list[str]:
        return [scan.image_id(image.path) for image in self._images(split)]

    def _fetcher(self, split: str) -> Callable[[tf.Tensor], source.Record]:
        root, images = self.listing.root, self._images(split)
        ids = tf.constant(self._stored_ids(split))
        paths = tf.constant([os.fsencode(os.path.join(root, image.path)) for image in images])
        labels = tf.constant(self._stored_labels(split))

        def fetch(position: tf.Tensor) -> source.Record:
            contents = tf.io.read_file(tf.gather(paths, position))
            label = tf.gather(labels, position)
            return {"id": tf.gather(ids, position), "image": contents, "label": label}

        return fetch
