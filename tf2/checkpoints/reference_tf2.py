"""Training checkpoints of the reference's TF2 program: the attributes that lead to each weight.

Their keys are paths of attributes of its model, `model/resnet_model/block_groups/0/...`: pure
functions of the architecture. Optimizer slots and counters stand beside the weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from tf2 import architecture as architecture_lib
from tf2 import errors
from tf2.checkpoints import layouts

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_FIRST = "model/resnet_model/initial_conv_relu_max_pool/0/"
_COUNTER = re.compile(rf"(global_step|save_counter){re.escape(VALUE)}")


def recognise(keys: Collection[str]) -> bool:
    """Whether a checkpoint with these keys is of the reference's TF2 program."""
    return any(key.startswith(_FIRST) for key in keys)


def is_no_weight(key: str) -> bool:
    """Whether a key is that of a slot or a counter."""
    return (
        "/.OPTIMIZER_SLOT/" in key
        or key.startswith("optimizer/")
        or _COUNTER.fullmatch(key) is not None
    )


def locate(shapes: Mapping[str, layouts.Shape], path: str) -> tuple[dict, dict[str, str]]:
    """Infers the network of a training checkpoint.

    Args:
        shapes: key -> shape.
        path: of the checkpoint, for messages.

    Returns:
        `model.SimCLR.hyperparameters`, and our name -> key.

    Raises:
        errors.UserError: there is no known network, or there are other weights besides.
    """
    architecture = layouts.infer(
        shapes, lambda a: {ours: (key, None) for ours, key in keys(a).items()}
    )
    if architecture is None:
        raise errors.UserError(
            "A training checkpoint of the reference must hold a whole ResNet of depth 18 to 200. "
            f"Received: {path}, whose names or shapes fit none. Give a whole checkpoint."
        )
    names = keys(architecture)
    left = sorted(k for k in shapes if k not in names.values() and not is_no_weight(k))
    layouts.check_none_left(left, architecture, path, "as the reference's TF2 program writes it")
    return architecture, names


def keys(architecture: Mapping) -> dict[str, str]:
    """Returns our name -> key of all weights."""
    return {name: f"{path}{VALUE}" for name, path in paths(architecture).items()}


def paths(architecture: Mapping) -> dict[str, str]:
    """Returns our name -> path of attributes of all weights, in the order of creation."""
    squeezed = architecture["sk_ratio"] > 0
    bottleneck = architecture_lib.DEPTHS[architecture["depth"]][0]
    result = {}
    for name in layouts.weights(architecture):
        parts = name.split("/")
        if parts[0] == "supervised_head":
            path = f"supervised_head/linear_layer/dense/{parts[-1]}"
        elif parts[0] == "projection_head":
            leaf = "dense" if parts[2] == "dense" else "bn_relu/bn"
            path = f"_projection_head/linear_layers/{parts[1]}/{leaf}/{parts[-1]}"
        elif parts[1] == "stem":
            path = _stem_layer(parts[2], squeezed and architecture["stem"] == "imagenet")
            path = f"resnet_model/initial_conv_relu_max_pool/{path}/{parts[-1]}"
        else:
            group, index = int(parts[1].removeprefix("block_group")) - 1, parts[2]
            path = _block_layer("/".join(parts[3:-1]), bottleneck, squeezed, group)
            path = f"resnet_model/block_groups/{group}/layers/{index}/{path}/{parts[-1]}"
        result[name] = f"model/{path}"
    return result


def _stem_layer(layer: str, deep: bool) -> str:
    if not deep:
        return {"conv": "0/conv2d", "bn": "2/bn"}[layer]
    indices = {"conv1": 0, "bn1": 1, "conv2": 2, "bn2": 3, "conv": 4, "bn": 6}
    return f"{indices[layer]}/{'conv2d' if layer.startswith('conv') else 'bn'}"


def _block_layer(layer: str, bottleneck: bool, squeezed: bool, group: int) -> str:
    """Returns the path of a block's layer; in its lists, layers without weights count too."""
    leaf = "conv2d" if "conv" in layer else "bn"
    if layer.startswith("shortcut/"):
        # With selective kernels, padding (if strided) and pooling come first.
        before = (2 if group else 1) if squeezed else 0
        kind = "projection_layers" if bottleneck else "shortcut_layers"
        return f"{kind}/{before + (leaf == 'bn')}/{leaf}"
    last = 5 if squeezed else 6  # convolution of a bottleneck; then batch norm and dropblock
    if layer.startswith("se/"):
        inside = f"conv_relu_dropblock_layers/{last + 3}" if bottleneck else "se_layer"
        return f"{inside}/se_{layer.removeprefix('se/')}"
    if not bottleneck:
        return f"conv2d_bn_layers/{('conv1', 'bn1', 'conv2', 'bn2').index(layer)}/{leaf}"
    selective = {
        "sk/conv": "conv2d_fixed_padding/conv2d",
        "sk/bn": "batch_norm_relu/bn",
        "sk/squeeze": "conv2d_0",
        "sk/squeeze_bn": "batch_norm_relu_1/bn",
        "sk/mix": "conv2d_1",
    }
    if layer in selective:
        return f"conv_relu_dropblock_layers/3/{selective[layer]}"
    indices = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": last, "bn3": last + 1}
    return f"conv_relu_dropblock_layers/{indices[layer]}/{leaf}"
