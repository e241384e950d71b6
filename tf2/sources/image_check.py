"""Finds pictures that cannot be decoded, before anything trains on them."""

import concurrent.futures
import hashlib
import os
import time

import numpy as np
import tensorflow as tf
from absl import logging

from tf2 import errors

_PROGRESS_SECONDS = 10.0


def find_unreadable(root, names, max_bad_fraction=0.01, bad_log=None):
    """Decodes every picture once, in parallel, and says which cannot be.

    Args:
      root: folder that the names are relative to.
      names: paths of the pictures.
      max_bad_fraction: part of the pictures that may be unreadable.
      bad_log: file to write the unreadable ones to, with the reason. If it is there
        already and names, sizes and times of the pictures are as they were, it is
        trusted. None writes none.

    Returns:
      Dict, name -> reason.

    Raises:
      errors.UserError: more than the allowed part is unreadable.
    """
    paths = [os.path.join(root, name) for name in names]
    stamp = fingerprint(root, paths)
    broken = _read_log(bad_log, stamp)
    if broken is None:
        broken = {names[number]: reason for number, reason in _check_all(paths).items()}
        _write_log(bad_log, stamp, broken)
    where = f", listed in {bad_log}" if bad_log else ""
    if len(broken) > max_bad_fraction * len(names):
        raise errors.UserError(
            f"{len(broken)} of {len(names)} pictures cannot be read, the first of them "
            f"{next(iter(broken))}{where}. Received: max_bad_fraction={max_bad_fraction}; "
            "repair or remove them, or set a higher --max_bad_fraction."
        )
    if broken:
        logging.warning("Left out %d of %d pictures%s.", len(broken), len(names), where)
    return broken


def _check_all(paths):
    """Decodes every picture once, in parallel: place -> what is wrong with it."""
    broken = {}
    begin = said = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, fault in enumerate(pool.map(what_is_wrong, paths)):
            if fault:
                broken[number] = fault
            now = time.monotonic()
            if now - said > _PROGRESS_SECONDS:
                said = now
                rate = (number + 1) / (now - begin)
                logging.info(
                    "Checked %d of %d pictures, %.0f/s, %d unreadable.",
                    number + 1,
                    len(paths),
                    rate,
                    len(broken),
                )
    return broken


def what_is_wrong(path):
    """Returns why a picture cannot be decoded, or None where it can."""
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
        # Leaves out TensorFlow's "{{function_node ...}}" and "[Op:...]".
        return text.split("}} ")[-1].split(" [Op:")[0] or type(error).__name__
    return None


def _has_gray_palette(contents):
    start = 14 + int.from_bytes(contents[14:18], "little")
    pixels = int.from_bytes(contents[10:14], "little")
    palette = np.frombuffer(contents[start:pixels], np.uint8)
    palette = palette[: len(palette) // 4 * 4].reshape(-1, 4)[:, :3]
    # Gray level i must be color i, for the pixels are taken as gray levels.
    return np.array_equal(palette, np.arange(len(palette))[:, None].repeat(3, 1))


def fingerprint(root, paths):
    """Hashes names, sizes and times of change, so that edited pictures are seen."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.path.relpath(path, root).encode("utf-8", "surrogateescape"))
        try:
            state = os.stat(path)
            digest.update(f" {state.st_size} {state.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b" missing\n")
    return digest.hexdigest()


def _read_log(bad_log, stamp):
    if not bad_log or not os.path.isfile(bad_log):
        return None
    with open(bad_log, encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    if not lines or lines[0] != _log_head(stamp):
        return None
    return dict(line.split("\t", 1) for line in lines[1:] if "\t" in line)


def _write_log(bad_log, stamp, broken):
    if not bad_log:
        return
    os.makedirs(os.path.dirname(bad_log) or ".", exist_ok=True)
    lines = [_log_head(stamp), *(f"{path}\t{reason}" for path, reason in broken.items())]
    with open(f"{bad_log}.part", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("\n".join(lines) + "\n")
    os.replace(f"{bad_log}.part", bad_log)


def _log_head(stamp):
    return f"# unreadable pictures, with the reason; pictures checked: {stamp}"
