"""Our names <-> TF1 <-> the object graph of the reference's TF2 program <-> Keras files.

Pure functions of the architecture: name -> name; the order in a file does not matter. Those of the
reference's two programs are in `tf2.checkpoints`, because training reads their checkpoints too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from tf2.checkpoints import layouts, reference_checkpoints
from tf2.checkpoints import reference_tf2 as reference_tf2_lib

Names = layouts.Names
# Slots of our optimizers -> of the reference's (Keras's older classes).
SLOTS = {"momentum": "Momentum", "sgd_momentum": "momentum", "adam_m": "m", "adam_v": "v"}


def same_axes(names: Mapping[str, str]) -> Names:
    """Returns a map of names between tensors with the same axes."""
    return {ours: (theirs, None) for ours, theirs in names.items()}


def ours(architecture: Mapping, weights: str = "online") -> Names:
    """Our checkpoints: sections `model` and `ema`."""
    section = "model" if weights == "online" else "ema"
    return same_axes({name: f"{section}/{name}" for name in layouts.weights(architecture)})


def ours_slots(architecture: Mapping) -> Names:
    """Slots of LARS, momentum and Adam in our checkpoints."""
    names = (f"{name}/{kind}" for name in layouts.weights(architecture) for kind in SLOTS)
    return same_axes({name: f"optimizer/{name}" for name in names})


def identity(architecture: Mapping, weights: str = "online") -> Names:
    """Formats that hold one network under our own names."""
    return same_axes({name: name for name in layouts.weights(architecture)})


def tf1(architecture: Mapping, weights: str = "online") -> Names:
    """TF1 checkpoints of SimCLRv2 and SimCLRv1."""
    return same_axes(reference_checkpoints.tf1_names(architecture, weights))


def tf1_slots(architecture: Mapping) -> Names:
    """Momenta of LARS in TF1 checkpoints."""
    names = reference_checkpoints.tf1_names(architecture)
    return same_axes({f"{name}/momentum": f"{theirs}/Momentum" for name, theirs in names.items()})


def reference_tf2(architecture: Mapping, weights: str = "online") -> Names:
    """Keys of the reference's TF2 training checkpoints: paths of attributes of its model."""
    return same_axes(reference_tf2_lib.keys(architecture))


def reference_slots(architecture: Mapping) -> Names:
    """Slots of LARS, momentum and Adam in the reference's TF2 training checkpoints.

    They have the keys of the optimizers that the reference was written with. Slots that newer
    optimizers keep in a list are read under these names too.
    """
    paths = reference_tf2_lib.paths(architecture)
    return same_axes(
        {
            f"{n}/{kind}": slot_key(p, theirs)
            for n, p in paths.items()
            for kind, theirs in SLOTS.items()
        }
    )


def slot_key(path: str, slot: str) -> str:
    """Returns the key of an optimizer's slot of the variable at a path of attributes."""
    return f"{path}/.OPTIMIZER_SLOT/optimizer/{slot}{reference_tf2_lib.VALUE}"


def reference_order(paths: Iterable[str]) -> list[str]:
    """Sorts the reference's paths in the order of its `model.trainable_variables`.

    It differs from the order of creation: a basic block ends with its shortcut and its
    squeeze-and-excitation, a projection layer with its kernel. Keras 2.15's own optimizers keep
    their slots in this order.

    Args:
        paths: of `reference_tf2.paths`, in the order of creation.
    """
    ordered: list[str] = []
    for head, unit in itertools.groupby(paths, _unit):
        last = (
            ("/dense/",) if head[1] == "_projection_head" else ("/shortcut_layers/", "/se_layer/")
        )
        ordered += sorted(unit, key=lambda path: [part in path for part in reversed(last)])
    return ordered


def _unit(path: str) -> list[str]:
    """Returns the part of a path that is common to a block or a projection layer."""
    return path.split("/")[: 4 if path.startswith("model/_projection_head/") else 6]


def keras_file(architecture: Mapping, weights: str = "online") -> Names:
    """Paths in the HDF5 file of a `SimCLR`, in the layout of Keras 3."""
    shapes = layouts.weights(architecture)
    roles: dict[str, list[str]] = {}
    for name in shapes:
        layer, role = name.rsplit("/", 1)
        roles.setdefault(layer, []).append(role)
    paths = {}
    for name in shapes:
        layer, role = name.rsplit("/", 1)
        parts = layer.split("/")
        kind = {"backbone": ("block", 2), "projection_head": ("projection_layer", 1)}.get(parts[0])
        if kind and parts[kind[1]].isdigit():
            number = int(parts[kind[1]])
            parts[kind[1]] = f"{kind[0]}_{number}" if number else kind[0]
        paths[name] = f"{'/'.join(parts)}/vars/{roles[layer].index(role)}"
    return same_axes(paths)
