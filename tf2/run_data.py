"""The images that a run was started on, beside its checkpoints: written, read and compared."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf

from tf2 import errors, files
from tf2.sources import data_identity, image_check, scan, source

# What TensorFlow raises for a file that is not there or is no image; not for want of memory.
_NOT_READ = (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, tf.errors.UnknownError)


def write(model_dir: str, images: source.Source) -> None:
    """Records the images of a folder in a run's directory."""
    if images.listing is not None:
        content = data_identity.to_bytes(data_identity.record(images.listing.images))
        files.write_bytes(os.path.join(model_dir, data_identity.FILE_NAME), content)


def hashes(images: source.Source) -> dict[str, str] | None:
    """Returns the hashes of a folder's files and labels; None for other images."""
    if images.listing is None:
        return None
    return data_identity.hashes(data_identity.record(images.listing.images))


def changes(model_dir: str, images: source.Source) -> data_identity.Changes | None:
    """Returns what has changed since a run was started.

    None where nothing is recorded: no folder, no run, or one of an earlier version.
    """
    path = os.path.join(model_dir, data_identity.FILE_NAME)
    if images.listing is None or not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        before = data_identity.from_bytes(file.read())
    if before is None:
        return None
    return data_identity.compare(before, data_identity.record(images.listing.images))


def check(model_dir: str, images: source.Source, *, labels: bool) -> None:
    """Raises errors.UserError where a run's images have changed since it was started.

    Images that only moved to another folder are the same images.

    Args:
        model_dir: of the run.
        images: those of now.
        labels: whether the run depends on labels, which must be the same then too.
    """
    if found := changes(model_dir, images):
        _refuse(found, images, model_dir, labels)


def check_same(before: source.Source, now: source.Source, model_dir: str) -> None:
    """Raises errors.UserError where images changed since they were opened before."""
    if before.listing is not None and now.listing is not None:
        found = data_identity.compare(
            data_identity.record(before.listing.images), data_identity.record(now.listing.images)
        )
        _refuse(found, now, model_dir, labels=False)


def _refuse(
    found: data_identity.Changes, images: source.Source, model_dir: str, labels: bool
) -> None:
    text = "; ".join(filter(None, (found.files, found.labels_in_words if labels else "")))
    if text:
        root = images.listing.root if images.listing else None
        raise errors.UserError(
            "A run is resumed on the images that it was started on. Received: "
            f"data_dir={root} for {model_dir}; since then {text}. Choose another --model_dir, or "
            "go on with these images by --allow_changed_data."
        )


@contextlib.contextmanager
def naming_changed_files(images: source.Source, max_pixels: int) -> Iterator[None]:
    """Names the files of a folder that were altered or removed, if reading fails in the block.

    Args:
        images: the source that is read.
        max_pixels: of an image that it decodes.

    Raises:
        errors.UserError: an image cannot be read any more.
    """
    try:
        yield
    except _NOT_READ as error:
        listing = images.listing
        if listing is None:
            raise
        paths = [os.path.join(listing.root, image.path) for image in listing.images]
        sizes = [image.size for image in listing.images]
        changed = [n for n, path in enumerate(paths) if scan.file_size(path) != sizes[n]]
        changed = changed or list(image_check.check_all(paths, max_pixels))
        if not changed:
            raise
        names = errors.first_few([scan.image_id(listing.images[n].path) for n in changed])
        raise errors.UserError(
            "Images must stay as they are while a run reads them. Received: "
            f"data_dir={listing.root}, where {len(changed):,} have been altered or removed "
            f"({names}). Restore them, or repeat the command with --allow_changed_data to go on "
            "from the newest checkpoint without them."
        ) from error
