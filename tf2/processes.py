"""Which process did something, and whether it is still running. No TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import socket

_PROC = pathlib.Path("/proc")


@dataclasses.dataclass(frozen=True)
class Process:
    """A process of this or another machine.

    Attributes:
        host: name of the machine.
        machine: its present boot and the process's namespace, which together make process ids
            unique; empty where the system doesn't tell.
        pid: process id.
        started: when, in the system's unit; empty where the system doesn't tell.
    """

    host: str
    machine: str
    pid: int
    started: str

    @property
    def token(self) -> str:
        """A short name for files: machine, process id and start."""
        place = hashlib.sha256(f"{self.host} {self.machine}".encode()).hexdigest()[:8]
        return f"{place}-{self.pid}-{self.started}"

    def is_running(self) -> bool | None:
        """Whether the process is running; None where this machine cannot tell."""
        own = current()
        here = (self.host, self.machine) == (own.host, own.machine)
        if not here or os.name != "posix" or self.pid <= 0:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            pass  # another user's
        started = _started(self.pid)
        if not started or not self.started:
            return None if not self.machine else started is not None
        return started == self.started  # else another process has got its id


def current() -> Process:
    """Returns this process."""
    pid = os.getpid()
    return Process(socket.gethostname(), _machine(), pid, _started(pid) or "")


def parse(token: str) -> Process | None:
    """Returns the process of a `Process.token`; None if it is none of this machine."""
    own = current()
    place, _, rest = token.partition("-")
    pid, _, started = rest.partition("-")
    if place != own.token.partition("-")[0] or not pid.isdecimal():
        return None
    return dataclasses.replace(own, pid=int(pid), started=started)


@functools.cache
def _machine() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Returns the start of a process in clock ticks; "" if unknown, None if it has ended."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return None if fields[0] in "ZX" else fields[19]  # a zombie has ended
