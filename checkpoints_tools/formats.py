"""The formats: how each is recognised, read and written, and how it names the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from checkpoints_tools import tensors


@dataclasses.dataclass(frozen=True)
class Format:
    """One format of checkpoints.

    Attributes:
        name: as in `--to=NAME`.
        recognise: path -> whether it is of this format; reads little, raises nothing.
        read: path -> `tensors.Checkpoint`; raises errors.UserError for what can't be read.
        names: (architecture, weights) -> our name -> (foreign name, axes), with every weight of
            that architecture. `axes` turn the foreign tensor into ours (`np.transpose`), None where
            they are the same. `architecture` is `model.SimCLR.hyperparameters`; `weights` is
            'online' or 'ema'.
        ignorable: foreign name -> whether it may stay unread (slots, counters): the short list.
        write: (path, tensors under the foreign names, model.json) -> None, whole or not at all;
            None where the format is only read.
    """

    name: str
    recognise: Callable[[str], bool]
    read: Callable[[str], tensors.Checkpoint]
    names: Callable[[Mapping, str], dict[str, tuple[str, tuple[int, ...] | None]]]
    ignorable: Callable[[str], bool]
    write: Callable[[str, tensors.Tensors, Mapping], None] | None = None


FORMATS: dict[str, Format] = {}


def register(made: Format) -> None:
    """Adds a format; the order of registration is the order of recognition."""
    FORMATS[made.name] = made
