"""The formats: how each is recognised, read and written, and how it names the weights."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping

from checkpoints_tools import tensors


@dataclasses.dataclass(frozen=True)
class Format:
    """One format of checkpoints.

    Attributes:
        name: as in `--to=NAME`.
        recognise: path -> whether it is of this format; reads little, raises nothing.
        read: path -> `tensors.Checkpoint`; raises errors.UserError if it is not readable.
        names: (architecture, weights) -> our name -> (foreign name, axes), for every weight of the
            architecture. `axes` turn the foreign tensor into ours (`np.transpose`); None if they
            agree. `architecture` is `model.SimCLR.hyperparameters`; `weights` is 'online' or 'ema'.
        ignorable: foreign name -> whether it need not be read (slots, counters).
        write: (path, tensors under the foreign names, metadata) -> None, completely or not at all;
            None if the format is only read.
        slots: architecture -> `<our name>/<kind>` -> (foreign name, axes) of the optimizer's slots;
            kinds are those of `name_map.SLOTS`. None if the format has none. A checkpoint has the
            slots of its optimizer, for trained weights only.
    """

    name: str
    recognise: Callable[[str], bool]
    read: Callable[[str], tensors.Checkpoint]
    names: Callable[[Mapping, str], dict[str, tuple[str, tuple[int, ...] | None]]]
    ignorable: Callable[[str], bool]
    write: Callable[[str, tensors.Tensors, Mapping], None] | None = None
    slots: Callable[[Mapping], dict[str, tuple[str, tuple[int, ...] | None]]] | None = None


FORMATS: dict[str, Format] = {}

# Modules that register formats, in the order of recognition; missing ones are skipped.
_MODULES = ("tensorflow_formats", "savedmodel", "safetensors_file", "keras_file", "torch_formats")


def load() -> dict[str, Format]:
    """Imports the modules that register formats, and returns the formats by name."""
    for name in _MODULES:
        full = f"checkpoints_tools.{name}"
        if importlib.util.find_spec(full) is not None:
            importlib.import_module(full)
    return FORMATS


def register(new: Format) -> None:
    """Adds a format; the order of registration is the order of recognition."""
    FORMATS[new.name] = new
