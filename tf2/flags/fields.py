"""What is known of a flag: the metadata of the fields in `flags.Flags`.

A field carries everything that the program knows of its flag; every list of flags is computed from
there. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

GROUPS = {
    "job": "What to do, and where",
    "data": "Data",
    "augmentation": "Augmentation",
    "training": "Training",
    "loss": "Contrastive loss",
    "memory": "Memory of negatives",
    "model": "Network",
    "finetuning": "Fine-tuning",
    "distillation": "Distillation",
    "evaluation": "Evaluation and export",
    "machine": "Machine",
}

# Scope: whether the stages of --train_mode=simclrv2 share the flag.
SHARED = "shared"  # by all stages
PER_STAGE = "per stage"  # --STAGE.FLAG sets it for one stage
NETWORK = "network"  # the same for the stages that train one network; model.json records it

# Identity: what a changed flag means for a run or a stage that exists already.
TRAINS = "trains"  # it trains another network: the run can't resume, the stage is run again
LENGTH = "length"  # a run of its own may be trained for longer, a stage is run again
STARTS = "starts"  # the weights at the start and the teacher: compared as paths
RESULTS = "results"  # a finished stage is evaluated again
FREE = "free"  # reports, files, paths and devices: nothing

AUTO = "auto"  # the value of a flag that leaves the choice to `tf2.auto`

# What a number without a nearer limit must stay below: TensorFlow's int32, and no overflow.
LARGEST = {"int": 2**31 - 1, "float": 1e9}

_KINDS = {bool: "bool", int: "int", float: "float", str: "string"}


def flag(
    group: str,
    default: Any,
    help: str,
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] | None = None,
    *,
    scope: str,
    identity: str,
    range: str | None = None,
    why: str | None = None,
    auto: bool = False,
    modes: tuple[str, ...] = (),
) -> Any:
    """Returns a dataclass field for a flag.

    Args:
        group: of `GROUPS`: its heading in --help, and whether a train mode uses it.
        default: the value without the flag; its type is the flag's.
        help: what it does, in sentences.
        choices: the allowed values, or a function that returns them.
        scope: SHARED, PER_STAGE or NETWORK.
        identity: TRAINS, LENGTH, STARTS, RESULTS or FREE.
        range: the interval of a number: "[0, inf)", "(0, 1]".
        why: the reason for the range, for the message.
        auto: whether the value may also be AUTO.
        modes: of --mode that alone use it; empty if it says nothing more than its group.
    """
    metadata = {
        "group": group,
        "help": help,
        "choices": choices,
        "kind": "enum" if choices else _KINDS.get(type(default), "string"),
        "scope": scope,
        "identity": identity,
        "range": range,
        "why": why,
        "auto": auto,
        "modes": modes,
    }
    return dataclasses.field(default=default, metadata=metadata)


def choices(field: dataclasses.Field) -> tuple[str, ...] | None:
    """Returns the values that a flag may have; None where any is possible."""
    allowed = field.metadata["choices"]
    return allowed() if callable(allowed) else allowed


def is_auto(field: dataclasses.Field, value: Any) -> bool:
    """Whether a value leaves the choice to `tf2.auto`."""
    return value == AUTO and field.metadata.get("auto", False)


def in_interval(value: float, interval: str) -> bool:
    """Whether a number is in an interval such as "(0, 1]"; NaN is in none."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low or (interval[0] == "[" and value == low)
    below = value < high or (interval[-1] == "]" and value == high)
    return above and below


def describe_interval(interval: str, *, whole: bool) -> str:
    """Returns an interval in words."""
    low, high = interval[1:-1].split(", ")
    if low == "-inf" and high == "inf":
        return "a finite number"
    if whole and float(high) < 100:  # a short list, not a mere limit
        return f"from {low} to {high}"
    begin = f"at least {low}" if interval[0] == "[" else f"above {low}"
    end = f" and at most {high}" if interval[-1] == "]" else f" and below {high}"
    return begin if high == "inf" else begin + end


def values(field: dataclasses.Field) -> str:
    """Returns what a flag may be set to, for --help: its choices, or its kind."""
    allowed = choices(field) or (field.metadata["kind"],)
    return "|".join((*allowed, AUTO) if field.metadata["auto"] else allowed)


job = functools.partial(flag, "job")
data = functools.partial(flag, "data")
augmentation = functools.partial(flag, "augmentation")
training = functools.partial(flag, "training")
loss = functools.partial(flag, "loss")
memory = functools.partial(flag, "memory")
model = functools.partial(flag, "model")
finetuning = functools.partial(flag, "finetuning")
distillation = functools.partial(flag, "distillation")
evaluation = functools.partial(flag, "evaluation")
machine = functools.partial(flag, "machine")
