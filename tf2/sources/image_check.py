"""Finds image files that cannot be decoded, before training reads them.

The result is written to a log, keyed by a fingerprint of the files, so that a run decodes every
image once for this check, however many stages it has and however often it is resumed.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import itertools
import os
import pathlib
import stat
import time
from collections.abc import Iterator, Sequence

import tensorflow as tf
from absl import logging

from tf2 import errors, files
from tf2.sources import image_decoding, scan

LOG_NAME = "unreadable_images.txt"
# Directories above a log's own that are searched for a log of the same files: a stage's directory
# is one level below its run, and three levels below a study.
_LEVELS_ABOVE = 3
_PROGRESS_SECONDS = 10.0
_LARGEST_FILE = 2**30  # bytes
_AT_ONCE = 4096  # images that are queued for the threads


def find_unreadable(
    root: str,
    names: Sequence[str],
    *,
    max_bad_fraction: float = 0.01,
    max_pixels: int = image_decoding.MAX_PIXELS,
    log_path: str | None = None,
) -> dict[str, str]:
    """Returns the images that cannot be decoded, with the reason.

    Decodes every image, in parallel, unless a log shows that it was done for the same files.

    Args:
        root: folder that the names are relative to.
        names: paths of the images.
        max_bad_fraction: fraction of the images that may be unreadable.
        max_pixels: of the largest image that is decoded.
        log_path: file to list the unreadable images in. A log of the same files (names, sizes and
            modification times), there or under the same name up to three directories above, is
            read instead of checking again. None neither reads nor writes a log.

    Returns:
        Dict, name -> reason.

    Raises:
        errors.UserError: more images than allowed are unreadable.
    """
    paths = [os.path.join(root, name) for name in names]
    state = f"{fingerprint(root, paths)}, at most {max_pixels} pixels"
    used_log, unreadable = _read_logs(log_path, state)
    if unreadable is None:
        found = check_all(paths, max_pixels)
        unreadable = {names[index]: reason for index, reason in found.items()}
        _write_log(log_path, state, unreadable)
        used_log = log_path
    where = f", listed in {used_log}" if used_log else ""
    if len(unreadable) > max_bad_fraction * len(names):
        name, reason = next(iter(unreadable.items()))
        path = scan.image_id(os.path.join(root, name))
        raise errors.UserError(
            f"At most a fraction --max_bad_fraction of the images may be unreadable. Received: "
            f"max_bad_fraction={max_bad_fraction}, but {len(unreadable)} of {len(names)} images "
            f"cannot be read, such as {path} ({reason}){where}. Repair or "
            "remove them, or set a higher --max_bad_fraction."
        )
    if unreadable:  # a log from above: the run's stages have seen this warning
        level = logging.WARNING if used_log == log_path else logging.INFO
        logging.log(level, "Skipped %d of %d images%s.", len(unreadable), len(names), where)
    return unreadable


def check_all(paths: Sequence[str], max_pixels: int) -> dict[int, str]:
    """Decodes every image, in parallel; returns index -> why it cannot be read."""
    unreadable = {}
    start = last_log = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = (paths[at : at + _AT_ONCE] for at in range(0, len(paths), _AT_ONCE))
        check = functools.partial(read_error, max_pixels=max_pixels)
        reasons = itertools.chain.from_iterable(pool.map(check, chunk) for chunk in chunks)
        for index, reason in enumerate(reasons):
            if reason:
                unreadable[index] = reason
            now = time.monotonic()
            if now - last_log > _PROGRESS_SECONDS:
                last_log = now
                rate = (index + 1) / (now - start)
                logging.info(
                    "Checked %d of %d images, %.0f images/s, %d unreadable.",
                    *(index + 1, len(paths), rate, len(unreadable)),
                )
    return unreadable


def read_error(path: str, max_pixels: int = image_decoding.MAX_PIXELS) -> str | None:
    """Returns why an image cannot be decoded; None if it can.

    Args:
        path: of the file.
        max_pixels: of an image that is decoded; its header says how many it has.
    """
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            return "no regular file"
        if state.st_size > _LARGEST_FILE:
            return f"more than {_LARGEST_FILE:,} bytes"
        with open(path, "rb") as file:
            contents = file.read(_LARGEST_FILE)
        if not contents:
            return "empty file"
        width, height = image_decoding.read_size(contents)
        if width * height > max_pixels:
            return f"{width} x {height} pixels, more than --max_pixels"
        image_decoding.decode(tf.constant(contents))
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error).partition(" <")[0]
    except tf.errors.OpError as error:
        lines = (error.message or "").strip().splitlines()
        text = lines[0] if lines else ""
        # Drop TensorFlow's "{{function_node ...}}" and "[Op:...]".
        return text.split("}} ")[-1].split(" [Op:")[0] or type(error).__name__
    return None


def fingerprint(root: str, paths: Sequence[str]) -> str:
    """Returns a hash of names, sizes and modification times, which changes with the files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.path.relpath(path, root).encode("utf-8", "surrogateescape"))
        try:
            state = os.stat(path)
            digest.update(f" {state.st_size} {state.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b" missing\n")
    return digest.hexdigest()


def _read_logs(log_path: str | None, state: str) -> tuple[str | None, dict[str, str] | None]:
    """Returns the nearest log of the same files and what it lists; (None, None) without one."""
    for path in _log_places(log_path):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().split("\n")
        except OSError:
            continue
        if lines and lines[0] == _log_head(state):
            pairs = [line.split("\t", 1) for line in lines[1:] if "\t" in line]
            return path, {scan.path_of(name): reason for name, reason in pairs}
    return None, None


def _log_places(log_path: str | None) -> Iterator[str]:
    if log_path:
        path = pathlib.Path(log_path)
        yield log_path
        for directory in path.absolute().parents[1 : 1 + _LEVELS_ABOVE]:
            yield str(directory / path.name)


def _write_log(log_path: str | None, state: str, unreadable: dict[str, str]) -> None:
    if not log_path:
        return
    files.make_directory(os.path.dirname(log_path) or ".")
    lines = [
        _log_head(state),
        *(f"{scan.image_id(n)}\t{scan.image_id(why)}" for n, why in unreadable.items()),
    ]
    files.write_text(log_path, "\n".join(lines) + "\n")


def _log_head(state: str) -> str:
    return f"# unreadable images, with the reason; fingerprint of the files: {state}"
