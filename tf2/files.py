"""Files of a run: written whole or not at all, and one sentence when the disk refuses.

Paths go through `tf.io.gfile`, so that a `model_dir` may be in a bucket as well.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping

import tensorflow as tf

from tf2 import errors

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextlib.contextmanager
def writing(path: str, what: str, other: str = "--model_dir"):
    """Turns a refusal of the file system inside the block into one sentence.

    Args:
        path: where the block writes.
        what: it writes, as the sentence is to name it.
        other: what the user may choose another of.

    Raises:
        errors.UserError: there is no space left, or `path` can't be written. Whatever isn't the
            file system's doing passes through.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if _is_one_of(error, _FULL):
            raise errors.UserError(
                f"Writing {what} needs space, and none is left (what was saved before is kept). "
                f"Received: path={path}. Free some space, or choose another {other}."
            ) from error
        if _is_one_of(error, _FORBIDDEN) or isinstance(error, tf.errors.PermissionDeniedError):
            raise errors.UserError(
                f"Writing {what} needs a directory that can be written to. Received: path={path}. "
                f"Change its permissions, or choose another {other}."
            ) from error
        raise


def _is_one_of(error: Exception, codes) -> bool:
    # TensorFlow gives these errors several classes; what they share is the system's own text.
    text = str(error).lower()
    return getattr(error, "errno", None) in codes or any(
        os.strerror(code).lower() in text for code in codes
    )


def place(path: str) -> str:
    """Returns the one spelling of a path: absolute, without `..`, links or a slash at its end."""
    if "://" in path:  # in a bucket, where there is no directory that a path could be relative to
        return path.rstrip("/")
    return os.path.realpath(os.path.expanduser(path))


def make_directory(path: str) -> None:
    """Creates a directory and its parents, where they don't exist yet."""
    with writing(path, "the run's files"):
        tf.io.gfile.makedirs(path)


def write_text(path: str, text: str) -> None:
    """Writes a text file whole or not at all; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: str, contents: bytes) -> None:
    """Writes a file whole or not at all: readers see the old one or the new one."""
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
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str) -> dict | None:
    """Reads a JSON object; returns None where there is no such file.

    Raises:
        errors.UserError: the file holds something else.
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
            f"begins with {text[:20].decode(errors='replace')!r}. Restore the file from a copy, or "
            "delete it."
        )
    return value


def remove(path: str) -> None:
    """Removes a file, or a directory with all that is in it, if it is there."""
    with contextlib.suppress(tf.errors.NotFoundError):
        if tf.io.gfile.isdir(path):
            tf.io.gfile.rmtree(path)
        else:
            tf.io.gfile.remove(path)


def replace_directory(temporary: str, path: str) -> None:
    """Puts a finished directory in the place of `path`.

    No directory can be renamed over one that isn't empty: an old one steps aside first, comes back
    if the renaming fails, and is removed last.
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
