"""Converts a checkpoint from one format to another, exactly or not at all.

    python -m checkpoints_tools.convert SRC DST --to=FORMAT [--weights=ema|online]

The source's format is recognised. Every weight of the network must be in the source, of the right
shape, and every weight in the source must have a place in the network.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Mapping

import numpy as np
import tqdm
from absl import logging

from checkpoints_tools import atomic, formats, tensors
from tf2 import checkpoint_reader, errors, layouts, published

WEIGHTS = ("online", "ema")


@dataclasses.dataclass
class Network:
    """A network that was read: its weights under our names, one at a time.

    Attributes:
        format: it was read from.
        tensors: our name -> weight.
        slots: `<our name>/<kind>` -> optimizer's slot, as far as there are any; the kinds are
            those of `name_map.SLOTS`.
        about: its model.json; what was told or, where nothing was, what shapes tell.
    """

    format: formats.Format
    tensors: tensors.Tensors
    slots: tensors.Tensors
    about: dict


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
    about = dict(found.about or {})
    architecture = _told(about, path) or _inferred(made, found, weights)
    if ft_proj_selector is not None:
        architecture = {**architecture, "ft_proj_selector": ft_proj_selector}
    if weights == "ema":
        architecture = _without_head(made, found, architecture)
    names = _names(made, architecture, weights, path)
    _check_complete(found, architecture, names)
    _check_nothing_left(made, found, architecture)
    step = found.step if found.step is not None else about.get("global_step")
    default = published.describe(architecture, step)
    about = {**default, **about, "architecture": architecture, "global_step": int(step or 0)}
    slots = _slots(made, found, architecture) if weights == "online" else {}
    _tell_left_out(found, {foreign for foreign, _ in [*names.values(), *slots.values()]})
    return Network(made, found.tensors.renamed(names), found.tensors.renamed(slots), about)


def _told(about: Mapping, path: str) -> dict | None:
    """Returns the architecture that a model.json tells, after building its list of weights."""
    if "architecture" not in about:
        return None
    architecture = about["architecture"]
    try:
        unknown = set(architecture) - set(layouts.DEFAULTS)
        architecture = {**layouts.DEFAULTS, **architecture}
        layouts.weights(architecture)
        if unknown or architecture["stem"] not in ("imagenet", "cifar"):
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


def _names(made, architecture, weights, path) -> layouts.Names:
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


def convert(
    source: str,
    destination: str,
    to: str,
    weights: str = "online",
    *,
    ft_proj_selector: int | None = None,
    stream=None,
) -> dict:
    """Converts a checkpoint.

    Args:
        source: path of the checkpoint; its format is recognised.
        destination: path that doesn't exist yet.
        to: a format that can be written.
        weights, ft_proj_selector: see `read`.
        stream: where progress goes; standard error by default.

    Returns:
        The model.json of what was written.

    Raises:
        errors.UserError: the source isn't whole, or the destination can't be written.
    """
    made = formats.load().get(to)
    writable = [name for name, known in formats.FORMATS.items() if known.write]
    if made is None or made.write is None:
        raise errors.UserError(
            f"--to must be one of {', '.join(writable)}. Received: to={to}. Choose one of them."
        )
    if weights not in WEIGHTS:
        raise errors.UserError(
            f"--weights must be online or ema. Received: weights={weights}. Choose one of them."
        )
    destination = os.path.expanduser(os.fspath(destination))
    atomic.check_free(destination)
    network = read(source, weights, ft_proj_selector)
    names = _names(made, network.about["architecture"], "online", source)
    turned = {foreign: (ours, _inverse(axes)) for ours, (foreign, axes) in names.items()}
    values = dict(network.tensors.renamed(turned).entries)
    slots = made.slots(network.about["architecture"]) if made.slots else {}
    turned = {slots[n][0]: (n, _inverse(slots[n][1])) for n in network.slots if n in slots}
    values.update(network.slots.renamed(turned).entries)
    if len(turned) < len(network.slots):
        dropped = len(network.slots) - len(turned)
        logging.warning("%s has no place for %d optimizer slots.", to, dropped)
    with _Bar(len(values), stream) as bar:
        watched = {n: bar.watch(entry) for n, entry in values.items()}
        made.write(destination, tensors.Tensors(watched), network.about)
    return network.about


def _inverse(axes):
    return None if axes is None else tuple(int(i) for i in np.argsort(axes))


class _Bar:
    """Counts the tensors that were read: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int, stream=None):
        self._stream = stream or sys.stderr
        self._total, self._done, self._said = total, 0, time.monotonic()
        terminal = getattr(self._stream, "isatty", lambda: False)()
        self._bar = tqdm.tqdm(total=total, unit="tensor", file=self._stream) if terminal else None

    def watch(self, entry: tensors.Entry) -> tensors.Entry:
        def read():
            value = entry.read()
            self._step()
            return value

        return dataclasses.replace(entry, read=read)

    def _step(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            print(f"{self._done} of {self._total} tensors", file=self._stream, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()


def summary(about: Mapping) -> str:
    """Says in a line what was written."""
    shapes = layouts.weights(about["architecture"])
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    return f"{len(shapes)} weights, {count:,} parameters, step {about['global_step']}"


if __name__ == "__main__":
    from absl import app, flags

    _TO = flags.DEFINE_string("to", None, "Format to write.", required=True)
    _WEIGHTS = flags.DEFINE_enum("weights", "online", WEIGHTS, "Which weights to take.")
    _SELECTOR = flags.DEFINE_integer(
        "ft_proj_selector", None, "Projection layer that the supervised head is on."
    )

    def main(arguments):
        """Runs the command line."""
        try:
            if len(arguments) != 3:
                raise errors.UserError(
                    "convert takes a source and a destination. Received: "
                    f"{' '.join(arguments[1:]) or 'nothing'}. Write: SRC DST --to=FORMAT."
                )
            about = convert(
                *arguments[1:], _TO.value, _WEIGHTS.value, ft_proj_selector=_SELECTOR.value
            )
        except Exception as error:
            told = errors.sentence(error)
            if told is None:
                raise
            print(told, file=sys.stderr)
            sys.exit(1)
        print(f"{arguments[2]}: {summary(about)}")

    app.run(main)
