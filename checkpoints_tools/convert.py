"""Converts a checkpoint from one format to another, exactly or not at all.

    python -m checkpoints_tools.convert SRC DST --to=FORMAT [--weights=ema|online]

The source's format is recognised. Every weight of the network must be in the source, in the right
shape, and every weight in the source must belong to the network.
"""

from __future__ import annotations

if not __package__:  # run as a script
    import script_path  # noqa: F401

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import TextIO

import numpy as np
import tqdm
from absl import logging

from checkpoints_tools import atomic, formats, tensors
from checkpoints_tools import network as network_lib
from tf2 import errors, progress
from tf2.checkpoints import layouts

WEIGHTS = network_lib.WEIGHTS
read = network_lib.read


def convert(
    source: str,
    destination: str,
    to: str,
    weights: str = "online",
    *,
    ft_proj_selector: int | None = None,
    stream: TextIO | None = None,
) -> dict:
    """Converts a checkpoint.

    Args:
        source: path of a checkpoint of any format.
        destination: path that does not exist yet.
        to: name of a format that can be written.
        weights, ft_proj_selector: see `read`.
        stream: where progress goes; see `progress.default_stream`.

    Returns:
        The metadata of what was written.

    Raises:
        errors.UserError: the source is not complete, or the destination is not writable.
    """
    target = formats.load().get(to)
    writable = [name for name, known in formats.FORMATS.items() if known.write]
    if target is None or target.write is None:
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
    values = _named_for(target, network, source)
    with _Bar(len(values), stream) as bar:
        watched = {n: bar.watch(entry) for n, entry in values.items()}
        target.write(destination, tensors.Tensors(watched), network.metadata)
    return network.metadata


def _named_for(
    target: formats.Format, network: network_lib.Network, source: str
) -> dict[str, tensors.Entry]:
    """Returns a network's tensors under a format's names; logs what the format cannot hold."""
    architecture = network.metadata["architecture"]
    names = network_lib.names_in(target, architecture, "online", source)
    slots = target.slots(architecture) if target.slots else {}
    average = network_lib.average_names(target, architecture)
    values: dict[str, tensors.Entry] = {}
    for what, ours, foreign in (
        ("weights of the network", network.tensors, names),
        ("optimizer slots", network.slots, slots),
        ("weights of the moving average", network.average, average),
    ):
        sources = {foreign[n][0]: (n, _inverse(foreign[n][1])) for n in ours if n in foreign}
        values.update(ours.renamed(sources).entries)
        lost = [n for n in ours if n not in foreign]
        if lost:
            # Nobody expects slots in a format that is for weights only.
            expected = ours is network.slots and target.slots is None
            level = logging.INFO if expected else logging.WARNING
            text = "%s has no place for %d %s, such as %s."
            logging.log(level, text, target.name, len(lost), what, lost[0])
    return values


def _inverse(axes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(int(i) for i in np.argsort(axes))


class _Bar:
    """Shows how many tensors were read: a bar on a terminal, otherwise a line every 5 seconds."""

    def __init__(self, total: int, stream: TextIO | None = None):
        self._stream = stream or progress.default_stream()
        self._total, self._done, self._printed = total, 0, time.monotonic()
        terminal = getattr(self._stream, "isatty", lambda: False)()
        self._bar = tqdm.tqdm(total=total, unit="tensor", file=self._stream) if terminal else None

    def watch(self, entry: tensors.Entry) -> tensors.Entry:
        def read() -> np.ndarray:
            value = entry.read()
            self._step()
            return value

        return dataclasses.replace(entry, read=read)

    def _step(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif time.monotonic() - self._printed > 5:
            self._printed = time.monotonic()
            print(f"{self._done} of {self._total} tensors", file=self._stream, flush=True)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def summary(metadata: Mapping) -> str:
    """Returns one line on what was written."""
    shapes = layouts.weights(metadata["architecture"])
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    return f"{len(shapes)} weights, {count:,} parameters, step {metadata['global_step']}"


if __name__ == "__main__":
    from absl import flags

    from checkpoints_tools import cli

    _TO = flags.DEFINE_string("to", None, "Format to write.", required=True)
    _WEIGHTS = flags.DEFINE_enum("weights", "online", WEIGHTS, "Which weights to convert.")
    _SELECTOR = flags.DEFINE_integer(
        "ft_proj_selector", None, "Projection layer that the supervised head is on."
    )

    def main(arguments: list[str]) -> None:
        """Runs the command line."""
        cli.check_arguments(
            arguments,
            2,
            "convert takes a source and a destination.",
            "Write: SRC DST --to=FORMAT.",
        )
        source, destination = arguments[1:]
        metadata = convert(
            source, destination, _TO.value, _WEIGHTS.value, ft_proj_selector=_SELECTOR.value
        )
        print(f"{destination}: {summary(metadata)}")

    cli.run(main)
