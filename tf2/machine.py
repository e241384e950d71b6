"""The device and memory of this machine, as far as the system tells. No TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess

_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_PROC = pathlib.Path("/proc")


@dataclasses.dataclass(frozen=True)
class MachineFacts:
    """A machine as a run finds it.

    Attributes:
        device: "cpu", "gpu" or "tpu".
        memory: bytes that this process may take, with those that it has already; 0 if unknown.
        gpu_memory: bytes of one GPU; 0 without one, or if unknown.
        replicas: that share a batch and have memory of their own.
    """

    device: str = "cpu"
    memory: int = 0
    gpu_memory: int = 0
    replicas: int = 1

    @property
    def training_memory(self) -> int:
        """The bytes that one replica's training must fit into; 0 if unknown."""
        return {"cpu": self.memory, "gpu": self.gpu_memory}.get(self.device, 0)


def read(gpus: int = 0, replicas: int = 1) -> MachineFacts:
    """Returns the facts of this machine.

    Args:
        gpus: those that TensorFlow can use.
        replicas: over which a batch is divided.
    """
    return MachineFacts(
        device="gpu" if gpus else "cpu",
        memory=usable_memory(),
        gpu_memory=smallest_gpu() if gpus else 0,
        replicas=replicas,
    )


def usable_memory(proc: pathlib.Path = _PROC, cgroups: pathlib.Path = _CGROUPS) -> int:
    """Returns the bytes that this process may take, with those that it has; 0 if unknown.

    The system's estimate of what is available (MemAvailable), or less where the limit of a control
    group, such as a container's, leaves less.

    Args:
        proc: where the system's files are.
        cgroups: where the control groups are.
    """
    free = _read_kib(proc / "meminfo", "MemAvailable")
    if not free:
        return 0
    own = _read_kib(proc / "self" / "status", "VmRSS")
    return min([free, *_free_in_cgroups(proc, cgroups)]) + own


def _read_kib(path: pathlib.Path, name: str) -> int:
    """Returns the bytes on a line such as `MemAvailable:  123 kB`; 0 without such a line."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) * 1024 if values else 0


def _free_in_cgroups(proc: pathlib.Path, cgroups: pathlib.Path) -> list[int]:
    """Returns the bytes that the limits of this process's control groups leave."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    free = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":  # version 1
            names, root = ("memory.limit_in_bytes", "memory.usage_in_bytes"), cgroups / "memory"
        elif not controllers:  # version 2
            names, root = ("memory.max", "memory.current"), cgroups
        else:
            continue
        group = root / path.strip("/")
        # In a container the path is the host's; its own group is then at the root.
        for directory in {root, *(p for p in (group, *group.parents) if root in p.parents)}:
            limit, used = (_read_number(directory / name) for name in names)
            if limit is not None and used is not None:
                free.append(max(limit - used + _cached(directory / "memory.stat"), 0))
    return free


def _read_number(path: pathlib.Path) -> int | None:
    """Returns the number in a file; None where there is none, such as "max"."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cached(path: pathlib.Path) -> int:
    """Returns the bytes of cached files, which count as used but are freed when needed."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))


def smallest_gpu() -> int:
    """Returns the memory of the machine's smallest NVIDIA GPU in bytes; 0 if unknown."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    sizes = [int(line) for line in output.stdout.split() if line.isdecimal()]
    return min(sizes, default=0) * 2**20


def is_chief_task() -> bool:
    """Whether TF_CONFIG makes this process the one of several workers that writes files."""
    try:
        content = json.loads(os.environ.get("TF_CONFIG") or "{}")
        task, has_chief = content.get("task", {}), "chief" in content.get("cluster", {})
        return task.get("type") == "chief" if has_chief else not int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError):
        return True  # `distribute.make_strategy` refuses it
