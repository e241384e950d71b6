"""Locks between processes: fcntl, msvcrt on Windows, no protection without either."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import IO, Any

from absl import logging

_WAIT_SECONDS = 0.1


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


_fcntl, _msvcrt = _import("fcntl"), _import("msvcrt")


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Holds a lock on a file, which is created, and removed at the end.

    Waits while another process holds it. The lock goes with the process, even one that is killed.
    """
    with open(path, "w") as lock:
        _acquire(lock)
        try:
            yield
        finally:
            # Windows removes no open file, which another process may be waiting for.
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.remove(path)


def _acquire(lock: IO[str]) -> None:
    if _fcntl is not None:
        _fcntl.flock(lock, _fcntl.LOCK_EX)
    elif _msvcrt is not None:
        while not _try_msvcrt(lock):
            time.sleep(_WAIT_SECONDS)
    else:
        logging.warning(
            "This system has no file locks: do not download the same network in two processes at "
            "the same time."
        )


def _try_msvcrt(lock: IO[str]) -> bool:
    try:
        _msvcrt.locking(lock.fileno(), _msvcrt.LK_NBLCK, 1)
    except OSError:  # another process holds it
        return False
    return True
