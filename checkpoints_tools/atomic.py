"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from tf2 import errors, files


def check_free(path: str) -> None:
    """Refuses to write over something.

    Raises:
        errors.UserError: there is something at `path`, or no directory to put it in.
    """
    if os.path.lexists(path):
        raise errors.UserError(
            "A conversion writes to a new place. Received: "
            f"{path}, which exists. Give another destination, or remove it first."
        )
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise errors.UserError(
            "The destination's directory must exist. Received: "
            f"{path}, but there is no directory {parent}. Create it, or give another destination."
        )


@contextlib.contextmanager
def place(path: str) -> Iterator[str]:
    """Yields a path to write a file or a directory to, which is renamed to `path` at the end.

    Whatever goes wrong, nothing half-written stays.

    Raises:
        errors.UserError: there is no space left, or the place can't be written to.
    """
    path = os.path.abspath(path)
    aside = os.path.join(os.path.dirname(path), f".writing-{os.path.basename(path)}")
    with files.writing(path, os.path.basename(path), "destination"):
        try:
            _remove(aside)  # of a process that was killed
            yield aside
            os.rename(aside, path)
        finally:
            _remove(aside)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)
