"""Files and directories that appear complete or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from tf2 import errors, files


def check_free(path: str) -> None:
    """Checks that a destination is free.

    Raises:
        errors.UserError: `path` exists, or its directory does not.
    """
    if os.path.lexists(path):
        raise errors.UserError(
            "A conversion writes to a new path. Received: "
            f"{path}, which exists. Give another destination, or remove it first."
        )
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise errors.UserError(
            "The destination's directory must exist. Received: "
            f"{path}, but there is no directory {parent}. Create it, or give another destination."
        )


@contextlib.contextmanager
def writing(path: str) -> Iterator[str]:
    """Yields a temporary path for a file or directory, and renames it to `path` at the end.

    Removes it if anything fails.

    Raises:
        errors.UserError: the disk is full, or the destination is not writable.
    """
    path = os.path.abspath(path)
    aside = files.temporary(path)
    with files.writing(path, os.path.basename(path), "destination"):
        try:
            files.remove_leftovers(os.path.dirname(path))
            yield aside
            files.move(aside, path)
        finally:
            _remove(aside)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)
