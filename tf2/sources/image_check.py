"""Finds image files that cannot be decoded, before training reads them.

The result is written to a log, keyed by a fingerprint of the files, so that a run decodes every
image once for this check, however many stages it has and however often it is resumed.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import os
import pathlib
import time
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from tf2 import errors, files

LOG_NAME = "unreadable_images.txt"
# Directories above a log's own that are searched for a log of the same files: a stage's directory
# is one level below its run, and three levels below a study.
_LEVELS_ABOVE = 3
_PROGRESS_SECONDS = 10.0
_AT_ONCE = 4096  # images that are queued for the threads


def find_unreadable(
    root: str,
    names: Sequence[str],
    *,
    max_bad_fraction: float = 0.01,
    log_path: str | None = None,
) -> dict[str, str]:
    """Returns the images that cannot be decoded, with the reason.

    Decodes every image, in parallel, unless a log shows that it was done for the same files.

    Args:
        root: folder that the names are relative to.
        names: paths of the images.
        max_bad_fraction: fraction of the images that may be unreadable.
        log_path: file to list the unreadable images in. A log of the same files (names, sizes and
            modification times), there or under the same name up to three directories above, is
            read instead of checking again. None neither reads nor writes a log.

    Returns:
        Dict, name -> reason.

    Raises:
        errors.UserError: more images than allowed are unreadable.
    """
    paths = [os.path.join(root, name) for name in names]
    state = fingerprint(root, paths)
    used_log, unreadable = _read_logs(log_path, state)
    if unreadable is None:
        unreadable = {names[index]: reason for index, reason in _check_all(paths).items()}
        _write_log(log_path, state, unreadable)
        used_log = log_path
    where = f", listed in {used_log}" if used_log else ""
    if len(unreadable) > max_bad_fraction * len(names):
        name, reason = next(iter(unreadable.items()))
        raise errors.UserError(
            f"At most a fraction --max_bad_fraction of the images may be unreadable. Received: "
            f"max_bad_fraction={max_bad_fraction}, but {len(unreadable)} of {len(names)} images "
            f"cannot be read, such as {os.path.join(root, name)} ({reason}){where}. Repair or "
            "remove them, or set a higher --max_bad_fraction."
        )
    if unreadable:  # a log from above: the run's stages have seen this warning
        level = logging.WARNING if used_log == log_path else logging.INFO
        logging.log(level, "Skipped %d of %d images%s.", len(unreadable), len(names), where)
    return unreadable


def _check_all(paths: Sequence[str]) -> dict[int, str]:
    """Decodes every image, in parallel; returns index -> why it cannot be read."""
    unreadable = {}
    start = last_log = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = (paths[at : at + _AT_ONCE] for at in range(0, len(paths), _AT_ONCE))
        reasons = itertools.chain.from_iterable(pool.map(read_error, chunk) for chunk in chunks)
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


def read_error(path: str) -> str | None:
    """Returns why an image cannot be decoded; None if it can."""
    try:
        with open(path, "rb") as file:
            contents = file.read()
        if not contents:
            return "empty file"
        if contents[:2] == b"BM" and int.from_bytes(contents[28:30], "little") <= 8:
            if not _has_gray_palette(contents):
                return "bitmaps with a color palette are not supported"
        tf.io.decode_image(contents, channels=3, expand_animations=False)
    except OSError as error:
        return error.strerror or type(error).__name__
    except tf.errors.OpError as error:
        lines = (error.message or "").strip().splitlines()
        text = lines[0] if lines else ""
        # Drop TensorFlow's "{{function_node ...}}" and "[Op:...]".
        return text.split("}} ")[-1].split(" [Op:")[0] or type(error).__name__
    return None


def _has_gray_palette(contents: bytes) -> bool:
    start = 14 + int.from_bytes(contents[14:18], "little")
    pixels = int.from_bytes(contents[10:14], "little")
    palette = np.frombuffer(contents[start:pixels], np.uint8)
    palette = palette[: len(palette) // 4 * 4].reshape(-1, 4)[:, :3]
    # TensorFlow reads the pixels as gray levels, so color i must be gray level i.
    return np.array_equal(palette, np.arange(len(palette))[:, None].repeat(3, 1))


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
                lines = file.read().splitlines()
        except OSError:
            continue
        if lines and lines[0] == _log_head(state):
            return path, dict(line.split("\t", 1) for line in lines[1:] if "\t" in line)
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
    lines = [_log_head(state), *(f"{name}\t{reason}" for name, reason in unreadable.items())]
    # A name of its own: several workers of a distributed run may write the same log.
    temporary = f"{log_path}.{uuid.uuid4().hex}"
    with files.writing(log_path, LOG_NAME):
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n".join(lines) + "\n")
        os.replace(temporary, log_path)


def _log_head(state: str) -> str:
    return f"# unreadable images, with the reason; fingerprint of the files: {state}"
