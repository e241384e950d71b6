"""Reads a network from a checkpoint of any format, whole or not at all.

Every weight of the network must be in the checkpoint, of the right shape, and every weight in the
checkpoint must have a place in the network.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from absl import logging

from checkpoints_tools import formats, tensors
from tf2 import architecture as architecture_lib
from tf2 import errors, variables
from tf2.checkpoints import checkpoint_reader, layouts, reference_checkpoints

WEIGHTS = ("online", "ema")


@dataclasses.dataclass
class Network:
    """A network that was read: its weights under our names, one at a time.

    Attributes:
        format: it was read from.
        tensors: our name -> weight.
        slots: `<our name>/<kind>` -> optimizer's slot, as far as there are any; the kinds are
            those of `name_map.SLOTS`.
        average: our name -> moving average of the weight, where the source keeps one beside the
            weights; else empty.
        metadata: its model.json; what was told or, where nothing was, what shapes tell.
    """

    format: formats.Format
    tensors: tensors.Tensors
    slots: tensors.Tensors
    average: tensors.Tensors
    metadata: dict


def recognise(path: str) -> formats.Format:
    """Returns the format of what a path holds.

    Raises:
        errors.UserError: there is nothing, or nothing that we know.
    """
    for made in formats.load().values():
        if made.recognise(path):
            return made
    # A checkpoint that can't be opened says why; one that can is of another program.
    prefix = checkpoint_reader.find_checkpoint(path)
    checkpoint_reader.CheckpointReader(prefix)
    raise errors.UserError(
        f"A source must be of one of the formats {', '.join(formats.FORMATS)}. Received: {path}, "
        "whose tensors have other names. Give a checkpoint of SimCLR or SimCLRv2."
    )


def read(path: str, weights: str = "online", ft_proj_selector: int | None = None) -> Network:
    """Reads a network of any format, and checks that nothing is missing or left over.

    Args:
        path: of the source.
        weights: 'online', those that were trained, or 'ema', their moving average.
        ft_proj_selector: the projection layer that the supervised head is on, where the source
            doesn't tell. Of equal widths, a wrong one is silent.

    Raises:
        errors.UserError: the path leads to nothing that we know, or not to a whole network.
    """
    path = os.path.expanduser(os.fspath(path))
    made = recognise(path)
    found = made.read(path)
    metadata = dict(found.metadata or {})
    architecture = _told(metadata, path) or _inferred(made, found, weights)
    if ft_proj_selector is not None:
        architecture = {**architecture, "ft_proj_selector": ft_proj_selector}
    if weights == "ema":
        architecture = _without_head(made, found, architecture)
    names = names_in(made, architecture, weights, path)
    _check_complete(found, architecture, names)
    _check_nothing_left(made, found, architecture)
    step = found.step if found.step is not None else metadata.get("global_step")
    default = reference_checkpoints.describe(architecture, step)
    metadata = {**default, **metadata, "architecture": architecture, "global_step": int(step or 0)}
    beside = weights == "online"
    parts = (
        names,
        _slots(made, found, architecture) if beside else {},
        _average(made, found, architecture) if beside else {},
    )
    _tell_left_out(found, {foreign for part in parts for foreign, _ in part.values()})
    return Network(made, *map(found.tensors.renamed, parts), metadata)


def _told(metadata: Mapping, path: str) -> dict | None:
    """Returns the architecture that a model.json tells, after building its list of weights."""
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


def _inferred(made: formats.Format, found: tensors.Checkpoint, weights: str) -> dict:
    shapes = {name: entry.shape for name, entry in found.tensors.entries.items()}

    def names(architecture):
        try:
            return made.names(architecture, weights)
        except errors.UserError:  # no such network in this format
            return {"": ("", None)}

    architecture = layouts.infer(shapes, names)
    if architecture is None and weights == "ema":
        raise _without_average(found.path)
    if architecture is None:
        raise errors.UserError(
            "The weights must be those of a ResNet of depth 18 to 200, all of them. Received: "
            f"{found.path} ({made.name}), whose names or shapes fit none. Give a whole checkpoint."
        )
    return architecture


def _without_head(made, found, architecture) -> dict:
    """Leaves the supervised head out where there is no average of it.

    Raises:
        errors.UserError: there is no average of anything.
    """
    names = made.names(architecture, "ema")
    first = "backbone/stem/conv/kernel"
    same = names[first] == made.names(architecture, "online")[first]
    if same or names[first][0] not in found.tensors.entries:
        raise _without_average(found.path)
    head = [names[n][0] for n in names if n.startswith("supervised_head/")]
    if head and not any(name in found.tensors.entries for name in head):
        return {**architecture, "num_classes": 0}
    return architecture


def _without_average(path: str) -> errors.UserError:
    return errors.UserError(
        f"--weights=ema needs a moving average of the weights. Received: {path}, which has none "
        "that is whole. Use --weights=online."
    )


def names_in(made: formats.Format, architecture: Mapping, weights: str, path: str) -> layouts.Names:
    """Returns the format's names of all weights.

    Raises:
        errors.UserError: the format can't hold this architecture.
    """
    try:
        return made.names(architecture, weights)
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, errors.UserError):
            raise
        raise errors.UserError(
            f"The format {made.name} must have a place for every weight. Received: {path}, whose "
            f"architecture it can't hold ({error}). Choose another format."
        ) from error


def _check_complete(found: tensors.Checkpoint, architecture: Mapping, names: Mapping) -> None:
    """Refuses a source that lacks a weight, or has one of another shape or type."""
    wrong = []
    for ours, shape in layouts.weights(architecture).items():
        foreign, axes = names[ours]
        entry = found.tensors.entries.get(foreign)
        if entry is None:
            wrong.append(f"{foreign} is missing")
            continue
        there = entry.shape
        if axes is not None and len(axes) == len(there):
            there = tuple(there[axis] for axis in axes)
        if tuple(there) != tuple(shape):
            wrong.append(f"{foreign} has shape {entry.shape} where {ours} has {shape}")
        elif entry.dtype != np.float32:
            wrong.append(f"{foreign} is {entry.dtype}, not float32")
    _refuse(wrong, found.path, "hold every weight of its network", "Give a whole checkpoint.")


def _check_nothing_left(made, found: tensors.Checkpoint, architecture: Mapping) -> None:
    """Refuses a source with tensors that have no place in the network."""
    # Layers behind the one that fine-tuning starts from aren't needed, and may be there.
    claimed = set()
    for variant in (architecture, {**architecture, "ft_proj_selector": None}):
        for weights in WEIGHTS:
            claimed |= {foreign for foreign, _ in made.names(variant, weights).values()}
    left = [n for n in found.tensors if n not in claimed and not made.ignorable(n)]
    _refuse(
        [f"{name} has no place" for name in left],
        found.path,
        "hold one network and nothing else",
        "Give a checkpoint of SimCLR or SimCLRv2, unchanged.",
    )


def _tell_left_out(found: tensors.Checkpoint, taken: set[str]) -> None:
    """Warns of what isn't carried over: other optimizers' slots, the other set of weights."""
    left = [n for n, e in found.tensors.entries.items() if n not in taken and len(e.shape) > 0]
    if left:
        logging.warning(
            "Not carried over from %s: %d tensors, such as %s.", found.path, len(left), left[0]
        )


def _refuse(wrong: list[str], path: str, rule: str, remedy: str) -> None:
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise errors.UserError(
            f"A checkpoint must {rule}. Received: {path}, in which {'; '.join(wrong[:3])}{more}. "
            + remedy
        )


def _slots(made: formats.Format, found: tensors.Checkpoint, architecture: Mapping) -> dict:
    """Returns those of the optimizer's slots that the source has, of the right shape."""
    shapes = layouts.weights(architecture)
    slots = made.slots(architecture) if made.slots else {}
    there = found.tensors.entries
    return {
        name: source
        for name, source in slots.items()
        if source[0] in there and there[source[0]].shape == shapes[name.rsplit("/", 1)[0]]
    }


def average_names(made: formats.Format, architecture: Mapping) -> layouts.Names:
    """Returns where a format keeps a moving average beside the weights; empty where it doesn't."""
    names, online = (made.names(architecture, weights) for weights in ("ema", "online"))
    return {
        ours: place
        for ours, place in names.items()
        if place != online[ours] and variables.place(ours) != "supervised_head"
    }


def _average(made: formats.Format, found: tensors.Checkpoint, architecture: Mapping) -> dict:
    """Returns the moving average that the source keeps, if it is whole."""
    names, shapes = average_names(made, architecture), layouts.weights(architecture)
    there = found.tensors.entries
    whole = all(
        foreign in there and there[foreign].shape == shapes[ours]
        for ours, (foreign, _) in names.items()
    )
    return names if whole else {}
