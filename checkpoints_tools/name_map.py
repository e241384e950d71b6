"""Our names <-> TF1 <-> the object graph of the reference's TF2 program <-> Keras files.

Pure functions of the architecture: name -> name; the order in a file does not matter. TF1's are in
`tf2.checkpoints.reference_checkpoints`, because training reads TF1 checkpoints too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from tf2 import architecture as architecture_lib
from tf2 import errors
from tf2.checkpoints import layouts, reference_checkpoints

Names = layouts.Names
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
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
    """Keys of the reference's TF2 training checkpoints: paths of attributes of its model.

    Raises:
        errors.UserError: the paths of squeeze-and-excitation are not known.
    """
    names = {name: f"{path}{_VALUE}" for name, path in reference_paths(architecture).items()}
    return same_axes(names)


def reference_slots(architecture: Mapping) -> Names:
    """Slots of LARS, momentum and Adam in the reference's TF2 training checkpoints.

    They have the keys of the optimizers that the reference was written with. Slots that newer
    optimizers keep in a list are read under these names too.
    """
    paths = reference_paths(architecture)
    return same_axes(
        {
            f"{n}/{kind}": slot_key(p, theirs)
            for n, p in paths.items()
            for kind, theirs in SLOTS.items()
        }
    )


def slot_key(path: str, slot: str) -> str:
    """Returns the key of an optimizer's slot of the variable at a path of attributes."""
    return f"{path}/.OPTIMIZER_SLOT/optimizer/{slot}{_VALUE}"


def reference_order(paths: Iterable[str]) -> list[str]:
    """Sorts the reference's paths in the order of its `model.trainable_variables`.

    It differs from the order of creation: the shortcut of a basic block comes last, and so does the
    kernel of a projection layer. Keras 2.15's own optimizers keep their slots in this order.

    Args:
        paths: of `reference_paths`, in the order of creation.
    """
    ordered: list[str] = []
    for head, unit in itertools.groupby(paths, _unit):
        last = "/dense/" if head[1] == "_projection_head" else "/shortcut_layers/"
        layers = list(unit)
        ordered += [path for path in layers if last not in path]
        ordered += [path for path in layers if last in path]
    return ordered


def _unit(path: str) -> list[str]:
    """Returns the part of a path that is common to a block or a projection layer."""
    return path.split("/")[: 4 if path.startswith("model/_projection_head/") else 6]


def reference_paths(architecture: Mapping) -> dict[str, str]:
    """Returns our name -> path of attributes in the reference's TF2 program."""
    if architecture["se_ratio"] > 0:
        raise errors.UserError(
            "The reference's TF2 checkpoints are known without squeeze-and-excitation only. "
            f"Received: se_ratio={architecture['se_ratio']}. Use --to=tf1, or another format."
        )
    squeezed = architecture["sk_ratio"] > 0
    bottleneck = architecture_lib.DEPTHS[architecture["depth"]][0]
    paths = {}
    for name in layouts.weights(architecture):
        parts = name.split("/")
        if parts[0] == "supervised_head":
            path = f"supervised_head/linear_layer/dense/{parts[-1]}"
        elif parts[0] == "projection_head":
            leaf = "dense" if parts[2] == "dense" else "bn_relu/bn"
            path = f"_projection_head/linear_layers/{parts[1]}/{leaf}/{parts[-1]}"
        elif parts[1] == "stem":
            path = _reference_stem(parts[2], squeezed and architecture["stem"] == "imagenet")
            path = f"resnet_model/initial_conv_relu_max_pool/{path}/{parts[-1]}"
        else:
            group, index = int(parts[1].removeprefix("block_group")) - 1, parts[2]
            path = _reference_layer("/".join(parts[3:-1]), bottleneck, squeezed, group)
            path = f"resnet_model/block_groups/{group}/layers/{index}/{path}/{parts[-1]}"
        paths[name] = f"model/{path}"
    return paths


def _reference_stem(layer: str, deep: bool) -> str:
    if not deep:
        return {"conv": "0/conv2d", "bn": "2/bn"}[layer]
    indices = {"conv1": 0, "bn1": 1, "conv2": 2, "bn2": 3, "conv": 4, "bn": 6}
    return f"{indices[layer]}/{'conv2d' if layer.startswith('conv') else 'bn'}"


def _reference_layer(layer: str, bottleneck: bool, squeezed: bool, group: int) -> str:
    leaf = "conv2d" if "conv" in layer else "bn"
    if layer.startswith("shortcut/"):
        # With selective kernels, padding (if strided) and pooling come first.
        before = (2 if group else 1) if squeezed else 0
        kind = "projection_layers" if bottleneck else "shortcut_layers"
        return f"{kind}/{before + (leaf == 'bn')}/{leaf}"
    if not bottleneck:
        return f"conv2d_bn_layers/{('conv1', 'bn1', 'conv2', 'bn2').index(layer)}/{leaf}"
    inside = {
        "sk/conv": "conv2d_fixed_padding/conv2d",
        "sk/bn": "batch_norm_relu/bn",
        "sk/squeeze": "conv2d_0",
        "sk/squeeze_bn": "batch_norm_relu_1/bn",
        "sk/mix": "conv2d_1",
    }
    if layer in inside:
        return f"conv_relu_dropblock_layers/3/{inside[layer]}"
    last = 5 if squeezed else 6
    indices = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": last, "bn3": last + 1}
    return f"conv_relu_dropblock_layers/{indices[layer]}/{leaf}"


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
