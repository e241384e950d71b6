"""Converts a checkpoint from one format to another, exactly or not at all.

    python -m checkpoints_tools.convert SRC DST --to=FORMAT [--weights=ema|online]

The source's format is recognised. Every weight of the network must be in the source, of the right
shape, and every weight in the source must have a place in the network.
"""

from __future__ import annotations

if not __package__:  # run as a script
    import script_path  # noqa: F401

import dataclasses
import os
import time
from collections.abc import Mapping

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
    stream=None,
) -> dict:
    """Converts a checkpoint.

    Args:
        source: path of the checkpoint; its format is recognised.
        destination: path that doesn't exist yet.
        to: a format that can be written.
        weights, ft_proj_selector: see `read`.
        stream: where progress goes; see `progress.default_stream`.

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
    values = _foreign(made, network, source)
    with _Bar(len(values), stream) as bar:
        watched = {n: bar.watch(entry) for n, entry in values.items()}
        made.write(destination, tensors.Tensors(watched), network.metadata)
    return network.metadata


def _foreign(made: formats.Format, network: network_lib.Network, source: str) -> dict:
    """Returns foreign name -> entry of all of a network that a format has a place for."""
    architecture = network.metadata["architecture"]
    names = network_lib.names_in(made, architecture, "online", source)
    slots = made.slots(architecture) if made.slots else {}
    average = network_lib.average_names(made, architecture)
    values = {}
    for found, places in (
        (network.tensors, names),
        (network.slots, slots),
        (network.average, average),
    ):
        turned = {places[n][0]: (n, _inverse(places[n][1])) for n in found if n in places}
        values.update(found.renamed(turned).entries)
        if len(turned) < len(found):
            what = "optimizer slots" if found is network.slots else "weights' moving average"
            # A format of weights alone is chosen without slots in mind.
            expected = found is network.slots and made.slots is None
            level = logging.INFO if expected else logging.WARNING
            lost = len(found) - len(turned)
            logging.log(level, "%s has no place for %d %s.", made.name, lost, what)
    return values


def _inverse(axes):
    return None if axes is None else tuple(int(i) for i in np.argsort(axes))


class _Bar:
    """Counts the tensors that were read: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int, stream=None):
        self._stream = stream or progress.default_stream()
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


def summary(metadata: Mapping) -> str:
    """Says in a line what was written."""
    shapes = layouts.weights(metadata["architecture"])
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    return f"{len(shapes)} weights, {count:,} parameters, step {metadata['global_step']}"


if __name__ == "__main__":
    from absl import flags

    from checkpoints_tools import cli

    _TO = flags.DEFINE_string("to", None, "Format to write.", required=True)
    _WEIGHTS = flags.DEFINE_enum("weights", "online", WEIGHTS, "Which weights to take.")
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
