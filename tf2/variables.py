"""Names for weights that stay the same whatever Keras version builds the network.

A name is the path of attributes from the model to the leaf layer that holds the weight, then the
weight's own name: `backbone/block_group1/0/conv1/kernel`. Checkpoints, decay masks and converters
all speak these names; nothing in the package matches Keras's own variable names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import keras
import tensorflow as tf

from tf2 import compat

ROLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


def _leaves(layer, path: tuple[str, ...]) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path, layer) of the layers without sublayers, in order of creation."""
    children = []
    for attribute, value in vars(layer).items():
        if attribute.startswith("_"):
            continue
        if isinstance(value, keras.layers.Layer):
            children.append((attribute, value))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            children += [
                (f"{attribute}/{i}", item)
                for i, item in enumerate(value)
                if isinstance(item, keras.layers.Layer)
            ]
    if not children:
        yield "/".join(path), layer
    for name, child in children:
        yield from _leaves(child, (*path, name))


def named_variables(model: keras.layers.Layer) -> dict[str, tf.Variable]:
    """Maps our stable names to the `tf.Variable`s of a model, in order of creation.

    The order is the reference's: stem, then per block the shortcut before the main branch, then
    the projection head, then the supervised head.
    """
    named = {}
    for path, leaf in _leaves(model, ()):
        for weight in leaf.weights:
            role_name = weight.name.split("/")[-1].split(":")[0]
            named[f"{path}/{role_name}"] = compat.unwrap(weight)
    return named


def role(name: str) -> str:
    """Returns what a weight is: one of `ROLES`.

    Raises:
        ValueError: the last part of the name is no role.
    """
    kind = name.rsplit("/", 1)[-1]
    if kind not in ROLES:
        raise ValueError(f"A weight's name must end in one of {ROLES}. Received: name={name!r}.")
    return kind


def place(name: str) -> str:
    """Returns the part a weight is in: backbone, projection_head or supervised_head."""
    return name.split("/", 1)[0]


def block_index(name: str) -> int | None:
    """Returns the fine-tuning block of a weight: 0 stem, 1-4 block groups, 5 supervised head.

    The projection head is in no block (None), as in the reference.
    """
    parts = name.split("/")
    if parts[0] == "supervised_head":
        return 5
    if parts[0] != "backbone":
        return None
    return 0 if parts[1] == "stem" else int(parts[1].removeprefix("block_group"))


def is_trainable(name: str, fine_tune_after_block: int = -1) -> bool:
    """Whether training moves a weight: no moving statistic, and not in a frozen block."""
    block = block_index(name)
    frozen = block is not None and block <= fine_tune_after_block
    return not frozen and not role(name).startswith("moving_")


def trainable_variables(
    named: Mapping[str, tf.Variable], fine_tune_after_block: int = -1
) -> dict[str, tf.Variable]:
    """Selects the variables that training moves, in the order of `named`."""
    return {k: v for k, v in named.items() if is_trainable(k, fine_tune_after_block)}


def reference_names(names: Sequence[str], proj_head_mode: str = "nonlinear") -> dict[str, str]:
    """Maps our names to the canonical (TF1) names of the reference's checkpoints.

    The reference numbers convolutions and batch norms in order of creation, each kind counted
    apart: `base_model/conv2d_3/kernel`, `head_contrastive/nl_0/dense/kernel`,
    `head_supervised/linear_layer/dense/kernel`.

    Args:
        names: all names of a model, in order of creation (`named_variables(model)`).
        proj_head_mode: 'linear' names its one layer `l_0`, 'nonlinear' its layers `nl_<j>`.
    """
    counts = {"conv2d": 0, "batch_normalization": 0}
    layers: dict[str, str] = {}
    mapping = {}
    prefix = "l" if proj_head_mode == "linear" else "nl"
    for name in names:
        layer, kind = name.rsplit("/", 1)
        if layer not in layers:
            parts = layer.split("/")
            if parts[0] == "backbone":
                stem = "conv2d" if kind in ("kernel", "bias") else "batch_normalization"
                number = counts[stem]
                counts[stem] += 1
                layers[layer] = f"base_model/{stem}_{number}" if number else f"base_model/{stem}"
            elif parts[0] == "projection_head":
                leaf = "dense" if kind == "kernel" else "batch_normalization"
                layers[layer] = f"head_contrastive/{prefix}_{parts[-2]}/{leaf}"
            else:
                layers[layer] = "head_supervised/linear_layer/dense"
        mapping[name] = f"{layers[layer]}/{kind}"
    return mapping
