"""One training per directory: a lock file that names the process that trains there.

The lock is taken before TensorFlow is imported, and removed at the end. One that a killed process
left is recognised: on the same machine by its process, which is gone, and on others, where the
directory may be shared, by the time since the owner last touched it. A directory in a bucket is not
locked. Nothing that only reads a run or evaluates it takes the lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator

from tf2 import errors, processes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE_NAME = ".lock"
HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0  # without a heartbeat, of a process that this machine cannot see
_FIELDS = [field.name for field in dataclasses.fields(processes.Process)]


@contextlib.contextmanager
def hold(directory: str, needed: bool = True) -> Iterator[None]:
    """Holds the lock of a directory inside the block; this process may hold it already.

    Args:
        directory: created if it doesn't exist.
        needed: False does nothing: for a run that doesn't train, or a worker that isn't the chief.

    Raises:
        errors.UserError: another process holds it.
    """
    path = os.path.join(os.path.expanduser(directory), FILE_NAME)
    if not needed or "://" in directory or not _take(path):
        yield
        return
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if (_read(file.fileno()) or ("",))[0] == processes.current():
                os.remove(path)


def _take(path: str) -> bool:
    """Takes a lock; returns False if this process holds it, or where no file can be written.

    `job.make_writable` has the error message for such a directory.
    """
    own = processes.current()
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _opened(path) as lock:
            owner, since = _read(lock) or (None, "")
            if owner == own:
                return False
            if owner is not None and _is_held(owner, lock, os.path.dirname(path)):
                raise _refusal(path, owner, since)
            since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
            os.ftruncate(lock, 0)
            os.lseek(lock, 0, os.SEEK_SET)
            os.write(lock, json.dumps({**dataclasses.asdict(own), "since": since}).encode())
        return True
    return False


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """Opens a lock file, which no other process opens meanwhile; yields its descriptor."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_file(lock, path):
                yield lock
                return
        finally:
            os.close(lock)


def _is_file(lock: int, path: str) -> bool:
    """Whether an open file still has its path: its owner may just have removed it."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _read(lock: int) -> tuple[processes.Process, str] | None:
    """Returns the owner of an open lock file and its start; None if nobody is named."""
    os.lseek(lock, 0, os.SEEK_SET)
    try:
        stored = json.loads(os.read(lock, 4096))
        owner = processes.Process(**{name: stored[name] for name in _FIELDS})
        return (owner, str(stored["since"])) if isinstance(owner.pid, int) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_held(owner: processes.Process, lock: int, directory: str) -> bool:
    running = owner.is_running()
    if running is not None:
        return running
    with tempfile.TemporaryFile(dir=directory) as now:  # by the clock of the file system
        return os.fstat(now.fileno()).st_mtime - os.fstat(lock).st_mtime < STALE_SECONDS


def _refusal(path: str, owner: processes.Process, since: str) -> errors.UserError:
    remedy = "Wait for it, stop it, or choose another --model_dir"
    if owner.is_running() is None:
        remedy += f"; its lock ends {STALE_SECONDS:.0f} seconds after it"
    return errors.UserError(
        "One process at a time trains in a directory. Received: "
        f"model_dir={os.path.dirname(path)}, where process {owner.pid} on {owner.host} has been "
        f"training since {since}. {remedy}."
    )


def _beat(path: str, ended: threading.Event) -> None:
    """Touches the lock file until the end, so that other machines see it in use."""
    while not ended.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
