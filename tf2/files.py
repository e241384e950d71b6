"""Atomic and durable file writes, and user errors for a full disk or missing permissions.

What is written gets its name once it is on the disk, and the directory is synced after that: a
crash of the machine leaves the old file or the new one. Temporary names hold the writing process,
so that two never share one, and what a killed process left can be removed.

All access goes through `tf.io.gfile`, so that a `model_dir` may also be in a bucket.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from tf2 import cells, errors, processes

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ASIDE = ".writing-"  # what temporary names begin with
_ABANDONED_SECONDS = 86_400.0
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
        deleted = isinstance(error, (FileNotFoundError, tf.errors.NotFoundError))
        if deleted and not tf.io.gfile.exists(os.path.dirname(path)):
            raise errors.UserError(
                f"Writing {what} needs its directory, which somebody has deleted. Received: "
                f"path={path}. Repeat the command, or choose another {other}."
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
    lines = [_line(list(rows[0])), *(_line([row[name] for name in rows[0]]) for row in rows)]
    # File names that are no UTF-8 are written as they are on disk.
    write_bytes(path, "".join(lines).encode("utf-8", "surrogateescape"))


def _line(values: Sequence[Any]) -> str:
    text = io.StringIO()
    # With this end of lines a carriage return inside a cell is quoted too.
    csv.writer(text, lineterminator="\r\n").writerow([cells.guard(value) for value in values])
    return f"{text.getvalue()[:-2]}\n"


def write_bytes(path: str, contents: bytes) -> None:
    """Writes a file atomically: readers see either the old file or the new one."""
    aside = temporary(path)
    with writing(path, os.path.basename(path)):
        try:
            with tf.io.gfile.GFile(aside, "wb") as f:
                f.write(contents)
            move(aside, path)
        except BaseException:
            remove(aside)
            raise


def write_json(path: str, value: Mapping) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(
    path: str, check: Callable[[dict, str], None] | None = None, *, optional: bool = False
) -> dict | None:
    """Reads a JSON object; returns None if the file does not exist.

    Args:
        path: of the file.
        check: raises `errors.DamagedFile` for a wrong content, such as `schemas.BEST.check`.
        optional: log a warning about a damaged file and return None.

    Raises:
        errors.DamagedFile: the file's content is not a JSON object, or `check` raised it.
    """
    try:
        value = _read_object(path)
        if value is not None and check is not None:
            check(value, path)
        return value
    except errors.DamagedFile as error:
        if not optional:
            raise
        logging.warning("%s Until then the file is ignored.", error)
        return None


def _read_object(path: str) -> dict | None:
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "rb") as f:
        text = f.read()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        value = None
    if not isinstance(value, dict):
        raise errors.DamagedFile(
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


def temporary(path: str) -> str:
    """Returns where this process writes a file or directory that becomes `path` at the end."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f"{_ASIDE}{name}-{processes.current().token}")


def remove_leftovers(directory: str) -> None:
    """Removes what killed processes were writing to a directory, not what others still write.

    What another machine wrote, whose processes cannot be seen, is removed after a day.
    """
    names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
    for name in (name.rstrip("/") for name in names if name.startswith(_ASIDE.rstrip("-"))):
        path = os.path.join(directory, name)
        writer = processes.parse("-".join(name.split("-")[-3:]))
        with contextlib.suppress(tf.errors.NotFoundError):
            if writer is None:
                left = time.time() - tf.io.gfile.stat(path).mtime_nsec / 1e9 > _ABANDONED_SECONDS
            else:
                left = writer.is_running() is False
            if left:
                remove(path)


def move(source: str, path: str) -> None:
    """Renames a finished file or directory, once its content is on the disk."""
    sync(source)
    tf.io.gfile.rename(source, path, overwrite=True)
    _sync(os.path.dirname(path) or ".")


def sync(path: str) -> None:
    """Waits until a file, or a directory with all that is in it, is on the disk."""
    if "://" in path:  # a bucket has what it has accepted
        return
    for directory, _, names in os.walk(path):
        for name in names:
            _sync(os.path.join(directory, name))
        _sync(directory)
    if not os.path.isdir(path):
        _sync(path)


def _sync(path: str) -> None:
    if "://" in path or os.name == "nt":  # Windows syncs no file that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(descriptor)


def replace_directory(source: str, path: str) -> None:
    """Renames a finished directory to `path` and removes the directory that was there.

    A directory cannot be renamed over one that is not empty. The old one is renamed first; it is
    restored if the second renaming fails, and removed at the end.
    """
    aside = temporary(f"{path}.old")
    remove(aside)
    replaces = tf.io.gfile.exists(path)
    sync(source)
    if replaces:
        tf.io.gfile.rename(path, aside)
    try:
        move(source, path)
    except BaseException:
        if replaces:
            tf.io.gfile.rename(aside, path)
        raise
    remove(aside)
