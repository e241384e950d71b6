"""Reads a network from a checkpoint of any format, completely or not at all.

Every weight of the network must be in the checkpoint, in the right shape, and every weight in the
checkpoint must belong to the network.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from absl import logging

from checkpoints_tools import formats
from checkpoints_tools import tensors as tensors_lib
from tf2 import architecture as architecture_lib
from tf2 import errors, variables
from tf2.checkpoints import checkpoint_reader, layouts, reference_checkpoints

WEIGHTS = ("online", "ema")


@dataclasses.dataclass
class Network:
    """A network whose weights can be read one at a time, under our names.

    Attributes:
        format: of its checkpoint.
        tensors: our name -> weight.
        slots: `<our name>/<kind>` -> optimizer's slot; the kinds are those of `name_map.SLOTS`.
            Empty if there are none.
        average: our name -> moving average of the weight; empty if the checkpoint has none beside
            the weights.
        metadata: its model.json; without one, what names and shapes imply.
    """

    format: formats.Format
    tensors: tensors_lib.Tensors
    slots: tensors_lib.Tensors
    average: tensors_lib.Tensors
    metadata: dict


def recognise(path: str) -> formats.Format:
    """Returns the format of the checkpoint at a path.

    Raises:
        errors.UserError: there is no checkpoint, or none of a known format.
    """
    for known in formats.load().values():
        if known.recognise(path):
            return known
    # Opening raises the reason why a checkpoint is damaged. This one is of another program.
    prefix = checkpoint_reader.find_checkpoint(path)
    checkpoint_reader.CheckpointReader(prefix)
    raise errors.UserError(
        f"A source must be of one of the formats {', '.join(formats.FORMATS)}. Received: {path}, "
        "whose tensors have other names. Give a checkpoint of SimCLR or SimCLRv2."
    )


def read(path: str, weights: str = "online", ft_proj_selector: int | None = None) -> Network:
    """Reads a network of any format, and checks that no weight is missing or left over.

    Args:
        path: of the source.
        weights: 'online', the trained weights, or 'ema', their moving average.
        ft_proj_selector: the projection layer that the supervised head is on, if the source does
            not record it. A wrong value goes unnoticed where layers have the same width.

    Raises:
        errors.UserError: there is no known checkpoint, or it is not complete.
    """
    path = os.path.expanduser(os.fspath(path))
    source = recognise(path)
    checkpoint = source.read(path)
    metadata = dict(checkpoint.metadata or {})
    architecture = _stored_architecture(metadata, path)
    if architecture is None:
        architecture = _inferred(source, checkpoint, weights)
        architecture = reference_checkpoints.with_selector(architecture, checkpoint.origin)
    if ft_proj_selector is not None:
        architecture = {**architecture, "ft_proj_selector": ft_proj_selector}
    if weights == "ema":
        architecture = _without_head(source, checkpoint, architecture)
    names = names_in(source, architecture, weights, path)
    _check_complete(checkpoint, architecture, names)
    _check_nothing_left(source, checkpoint, architecture)
    step = checkpoint.step if checkpoint.step is not None else metadata.get("global_step")
    default = reference_checkpoints.describe(architecture, step, checkpoint.origin)
    metadata = {**default, **metadata, "architecture": architecture, "global_step": int(step or 0)}
    online = weights == "online"
    slots = _slots(source, checkpoint, architecture) if online else {}
    average = _average(source, checkpoint, architecture) if online else {}
    used = {foreign for part in (names, slots, average) for foreign, _ in part.values()}
    _log_left_out(checkpoint, used)
    renamed = checkpoint.tensors.renamed
    return Network(source, renamed(names), renamed(slots), renamed(average), metadata)


def _stored_architecture(metadata: Mapping, path: str) -> dict | None:
    """Returns the architecture in a model.json, after checking that it has weights."""
    if "architecture" not in metadata:
        return None
    architecture = metadata["architecture"]
    if isinstance(architecture, Mapping) and "backbone" in architecture:
        raise errors.UserError(
            "Only ResNets are converted to and from other formats. Received: "
            f"backbone={architecture['backbone']} of {path}. Export it as a SavedModel instead "
            "(--mode=export)."
        )
    try:
        unknown = set(architecture) - set(architecture_lib.DEFAULTS)
        architecture = {**architecture_lib.BACKBONE_DEFAULTS, **architecture}
        layouts.weights(architecture)
        if unknown or architecture["stem"] not in architecture_lib.STEMS:
            raise ValueError(unknown or architecture["stem"])
    except (TypeError, ValueError, KeyError, ArithmeticError, AttributeError) as error:
        raise errors.UserError(
            "A model.json's architecture must be arguments of SimCLR. Received: "
            f"architecture={str(architecture)[:80]} of {path}. Restore it from a copy, or remove "
            "it, so that shapes tell the architecture."
        ) from error
    return architecture


def _inferred(source: formats.Format, checkpoint: tensors_lib.Checkpoint, weights: str) -> dict:
    shapes = {name: entry.shape for name, entry in checkpoint.tensors.entries.items()}

    def names(architecture: Mapping) -> layouts.Names:
        try:
            return source.names(architecture, weights)
        except errors.UserError:  # no such network in this format
            return {"": ("", None)}

    architecture = layouts.infer(shapes, names)
    if architecture is None and weights == "ema":
        raise _without_average(checkpoint.path)
    if architecture is None:
        raise errors.UserError(
            "The weights must be those of a ResNet of depth 18 to 200, all of them. Received: "
            f"{checkpoint.path} ({source.name}), whose names or shapes fit none. Give a whole "
            "checkpoint."
        )
    return architecture


def _without_head(
    source: formats.Format, checkpoint: tensors_lib.Checkpoint, architecture: dict
) -> dict:
    """Leaves out the supervised head if there is no average of it.

    Raises:
        errors.UserError: there is no average of anything.
    """
    names = source.names(architecture, "ema")
    first = "backbone/stem/conv/kernel"
    same = names[first] == source.names(architecture, "online")[first]
    if same or names[first][0] not in checkpoint.tensors.entries:
        raise _without_average(checkpoint.path)
    head = [names[n][0] for n in names if n.startswith("supervised_head/")]
    if head and not any(name in checkpoint.tensors.entries for name in head):
        return {**architecture, "num_classes": 0}
    return architecture


def _without_average(path: str) -> errors.UserError:
    return errors.UserError(
        f"--weights=ema needs a moving average of the weights. Received: {path}, which has no "
        "complete one. Use --weights=online."
    )


def names_in(
    source: formats.Format, architecture: Mapping, weights: str, path: str
) -> layouts.Names:
    """Returns the format's names of all weights.

    Raises:
        errors.UserError: the format does not support this architecture.
    """
    try:
        return source.names(architecture, weights)
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, errors.UserError):
            raise
        raise errors.UserError(
            f"The format {source.name} must have a place for every weight. Received: {path}, whose "
            f"architecture it can't hold ({error}). Choose another format."
        ) from error


def _check_complete(
    checkpoint: tensors_lib.Checkpoint, architecture: Mapping, names: layouts.Names
) -> None:
    """Raises an error if a weight is missing, or has another shape or type."""
    wrong = []
    for ours, shape in layouts.weights(architecture).items():
        foreign, axes = names[ours]
        entry = checkpoint.tensors.entries.get(foreign)
        if entry is None:
            wrong.append(f"{foreign} is missing")
            continue
        stored = entry.shape
        if axes is not None and len(axes) == len(stored):
            stored = tuple(stored[axis] for axis in axes)
        if tuple(stored) != tuple(shape):
            wrong.append(f"{foreign} has shape {entry.shape} where {ours} has {shape}")
        elif entry.dtype != np.float32:
            wrong.append(f"{foreign} is {entry.dtype}, not float32")
    _raise_if(
        wrong, checkpoint.path, "hold every weight of its network", "Give a whole checkpoint."
    )


def _check_nothing_left(
    source: formats.Format, checkpoint: tensors_lib.Checkpoint, architecture: Mapping
) -> None:
    """Raises an error if there are tensors that do not belong to the network."""
    # The checkpoint may have projection layers after the one that fine-tuning starts from.
    known: set[str] = set()
    for variant in (architecture, {**architecture, "ft_proj_selector": None}):
        for weights in WEIGHTS:
            known |= {foreign for foreign, _ in source.names(variant, weights).values()}
    left = [n for n in checkpoint.tensors if n not in known and not source.ignorable(n)]
    _raise_if(
        [f"{name} has no place" for name in left],
        checkpoint.path,
        "hold one network and nothing else",
        "Give a checkpoint of SimCLR or SimCLRv2, unchanged.",
    )


def _log_left_out(checkpoint: tensors_lib.Checkpoint, used: set[str]) -> None:
    """Logs what is left out: other optimizers' slots, the other set of weights."""
    entries = checkpoint.tensors.entries
    left = [n for n, entry in entries.items() if n not in used and len(entry.shape) > 0]
    if left:
        logging.warning(
            "Not carried over from %s: %d tensors, such as %s.", checkpoint.path, len(left), left[0]
        )


def _raise_if(wrong: list[str], path: str, rule: str, remedy: str) -> None:
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise errors.UserError(
            f"A checkpoint must {rule}. Received: {path}, in which {'; '.join(wrong[:3])}{more}. "
            + remedy
        )


def _slots(
    source: formats.Format, checkpoint: tensors_lib.Checkpoint, architecture: Mapping
) -> layouts.Names:
    """Returns the names of the optimizer's slots in a checkpoint that have the right shape."""
    shapes = layouts.weights(architecture)
    slots = source.slots(architecture) if source.slots else {}
    entries = checkpoint.tensors.entries
    return {
        name: foreign
        for name, foreign in slots.items()
        if foreign[0] in entries and entries[foreign[0]].shape == shapes[name.rsplit("/", 1)[0]]
    }


def average_names(known: formats.Format, architecture: Mapping) -> layouts.Names:
    """Returns the names of a moving average beside the weights; empty if a format has none."""
    names, online = (known.names(architecture, weights) for weights in ("ema", "online"))
    return {
        ours: foreign
        for ours, foreign in names.items()
        if foreign != online[ours] and variables.place(ours) != "supervised_head"
    }


def _average(
    source: formats.Format, checkpoint: tensors_lib.Checkpoint, architecture: Mapping
) -> layouts.Names:
    """Returns the names of a checkpoint's moving average; empty if it is not complete."""
    names, shapes = average_names(source, architecture), layouts.weights(architecture)
    entries = checkpoint.tensors.entries
    complete = all(
        foreign in entries and entries[foreign].shape == shapes[ours]
        for ours, (foreign, _) in names.items()
    )
    return names if complete else {}
