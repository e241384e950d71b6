"""Atomic file writes, and user errors for a full disk or missing permissions.

All access goes through `tf.io.gfile`, so that a `model_dir` may also be in a bucket.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf2 import errors

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextlib.contextmanager
def writing(path: str, what: str, other: str = "--model_dir") -> Iterator[None]:
    """Turns file system errors inside the block into user errors.

    Args:
        path: where the block writes.
        what: description of the data, for the message.
        other: what the user can change to write elsewhere, for the message.

    Raises:
        errors.UserError: there is no space left, or `path` is not writable. All other exceptions
            pass through.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if _is_one_of(error, _FULL):
            raise errors.UserError(
                f"Writing {what} needs space, and none is left (earlier files are intact). "
                f"Received: path={path}. Free some space, or choose another {other}."
            ) from error
        if _is_one_of(error, _FORBIDDEN) or isinstance(error, tf.errors.PermissionDeniedError):
            raise errors.UserError(
                f"Writing {what} needs a directory that can be written to. Received: path={path}. "
                f"Change its permissions, or choose another {other}."
            ) from error
        raise


def _is_one_of(error: Exception, codes: tuple[int, ...]) -> bool:
    # TensorFlow raises several classes for these errors; they share the system's message.
    text = str(error).lower()
    return getattr(error, "errno", None) in codes or any(
        os.strerror(code).lower() in text for code in codes
    )


def canonical_path(path: str) -> str:
    """Returns the path as absolute, without `..`, symbolic links or a trailing slash."""
    if "://" in path:  # in a bucket, where paths are never relative
        return path.rstrip("/")
    return os.path.realpath(os.path.expanduser(path))


def make_directory(path: str) -> None:
    """Creates a directory and its parents if they don't exist."""
    with writing(path, "the run's files"):
        tf.io.gfile.makedirs(path)


def write_text(path: str, text: str) -> None:
    """Writes a text file atomically; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_csv(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the same keys as a CSV file with a header; see `write_bytes`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # File names that are no UTF-8 are written as they are on disk.
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def write_bytes(path: str, contents: bytes) -> None:
    """Writes a file atomically: readers see either the old file or the new one."""
    temporary = f"{path}.writing"
    with writing(path, os.path.basename(path)):
        try:
            with tf.io.gfile.GFile(temporary, "wb") as f:
                f.write(contents)
            tf.io.gfile.rename(temporary, path, overwrite=True)
        except BaseException:
            remove(temporary)
            raise


def write_json(path: str, value: Mapping) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str) -> dict | None:
    """Reads a JSON object; returns None if the file does not exist.

    Raises:
        errors.UserError: the file's content is not a JSON object.
    """
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "rb") as f:
        text = f.read()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        value = None
    if not isinstance(value, dict):
        raise errors.UserError(
            f"{os.path.basename(path)} must hold one JSON object. Received: path={path}, which "
            f"starts with {text[:20].decode(errors='replace')!r}. Restore the file from a copy, or "
            "delete it."
        )
    return value


def remove(path: str) -> None:
    """Removes a file, or a directory with its contents, if it exists."""
    with contextlib.suppress(tf.errors.NotFoundError):
        if tf.io.gfile.isdir(path):
            tf.io.gfile.rmtree(path)
        else:
            tf.io.gfile.remove(path)


def replace_directory(temporary: str, path: str) -> None:
    """Renames a finished directory to `path` and removes the directory that was there.

    A directory cannot be renamed over one that is not empty. The old one is renamed first; it is
    restored if the second renaming fails, and removed at the end.
    """
    aside = f"{path}.old"
    remove(aside)
    replaces = tf.io.gfile.exists(path)
    if replaces:
        tf.io.gfile.rename(path, aside)
    try:
        tf.io.gfile.rename(temporary, path)
    except BaseException:
        if replaces:
            tf.io.gfile.rename(aside, path)
        raise
    remove(aside)
