"""Names for weights that stay the same whatever Keras version builds the network.

A name is the path of attributes from the model to the leaf layer that holds the weight, then the
weight's own name: `backbone/block_group1/0/conv1/kernel`. Checkpoints, decay masks and converters
all speak these names; nothing in the package matches Keras's own variable names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tf2 import compat

# What training never moves: batch norm's moving statistics, and what keras.layers.Normalization
# was adapted to.
STATISTICS = ("moving_mean", "moving_variance", "mean", "variance", "count")
ROLES = ("kernel", "bias", "gamma", "beta", *STATISTICS)


def sublayers(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (name, sublayer) in order of creation."""
    found = False
    for attribute, value in vars(layer).items():
        if attribute.startswith("_"):
            continue
        if isinstance(value, keras.layers.Layer):
            found = True
            yield attribute, value
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for i, item in enumerate(value):
                if isinstance(item, keras.layers.Layer):
                    found = True
                    yield f"{attribute}/{i}", item
    if not found and isinstance(layer, keras.Model):  # functional or sequential: no attributes
        yield from graph_layers(layer)


def graph_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (name, layer) of a functional or sequential model.

    Keras numbers the layers that were given no name through the whole process: the same model has
    a `dense_1` once and a `dense_7` another time. Those are numbered within the model here.
    """
    counts: dict[str, int] = {}
    for layer in model.layers:
        kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)  # as Keras does
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
        default = "functional|model" if kind == "functional" else kind
        if re.fullmatch(rf"({default})(_\d+)?", layer.name):
            number = counts[kind] = counts.get(kind, -1) + 1
            yield f"{kind}_{number}" if number else kind, layer
        else:
            yield layer.name, layer


def _weights(layer: keras.layers.Layer, path: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    """Yields (name, weight): those of the sublayers, then the layer's own.

    A weight that two layers share is yielded once for each.
    """
    below = set()
    for name, sublayer in sublayers(layer):
        for full_name, weight in _weights(sublayer, (*path, name)):
            below.add(id(weight))
            yield full_name, weight
    for weight in layer.weights:
        if id(weight) not in below:
            yield "/".join((*path, compat.weight_name(layer, weight))), weight


def named_variables(model: keras.layers.Layer) -> dict[str, tf.Variable]:
    """Maps our stable names to the `tf.Variable`s of a model, in order of creation.

    The order is the reference's: stem, then per block the shortcut before the main branch, then
    the projection head, then the supervised head.

    Args:
        model: a `SimCLR` network, or another layer.

    Returns:
        A dict such as {"backbone/stem/conv/kernel": variable, ...}.

    Raises:
        ValueError: two weights would have the same name.
    """
    named: dict[str, tf.Variable] = {}
    seen = set()
    for name, weight in _weights(model, ()):
        if id(weight) in seen:  # shared: the first name holds
            continue
        seen.add(id(weight))
        if name in named:
            raise ValueError(
                "Every weight of a network needs a name of its own. Received: two weights named "
                f"{name!r}. Give their layers different names, or make them attributes of a layer."
            )
        named[name] = compat.unwrap(weight)
    return named


def role(name: str) -> str:
    """Returns what a weight is: one of `ROLES`.

    Raises:
        ValueError: the last part of the name is no role.
    """
    kind = name.rsplit("/", 1)[-1]
    if kind.endswith("_kernel"):  # depthwise_kernel and pointwise_kernel of a separable convolution
        return "kernel"
    if kind not in ROLES:
        raise ValueError(f"A weight's name must end in one of {ROLES}. Received: name={name!r}.")
    return kind


def place(name: str) -> str:
    """Returns the part a weight is in: backbone, projection_head or supervised_head."""
    return name.split("/", 1)[0]


def block_index(name: str) -> int | None:
    """Returns the fine-tuning block of a weight: 0 stem, 1-4 block groups, 5 supervised head.

    The projection head is in no block (None), as in the reference.

    Raises:
        ValueError: a weight of the backbone is in none of its blocks.
    """
    parts = name.split("/")
    if parts[0] == "supervised_head":
        return 5
    if parts[0] != "backbone":
        return None
    match = re.fullmatch(r"stem|block_group([1-4])", parts[1])
    if match is None:
        raise ValueError(
            "A backbone keeps its layers in the attributes stem and block_group1 to block_group4. "
            f"Received: name={name!r}."
        )
    return int(match[1] or 0)


def is_trainable(name: str, fine_tune_after_block: int = -1) -> bool:
    """Whether training moves a weight: no statistic, and not in a frozen block."""
    block = block_index(name)
    frozen = block is not None and block <= fine_tune_after_block
    return not frozen and role(name) not in STATISTICS


def trainable_variables(
    named: Mapping[str, tf.Variable], fine_tune_after_block: int = -1
) -> dict[str, tf.Variable]:
    """Selects the variables that training moves, in the order of `named`."""
    return {k: v for k, v in named.items() if is_trainable(k, fine_tune_after_block)}


def count_parameters(named: Mapping[str, tf.Variable]) -> int:
    """Returns the number of parameters: all weights, frozen ones too, without statistics.

    That is how the literature counts; batch norm's moving mean and variance are not learned.
    """
    return sum(int(np.prod(v.shape)) for name, v in named.items() if role(name) not in STATISTICS)


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
