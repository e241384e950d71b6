"""Comparisons with the reference: the fill rule, layouts of weights, forward passes.

Each function takes a `golden.Pack` and returns a list of `golden.Comparison`.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops

from tf2 import architecture, model, variables
from tf2.parity import golden


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Models built in this context have weights with names and shapes, but no memory."""

    def spec(self: Any, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.TensorSpec:
        return tf.TensorSpec(shape, dtype or "float32")

    def creator(next_creator: Any, initial_value: Any = None, **kwargs: Any) -> Any:
        value = initial_value() if callable(initial_value) else initial_value
        if not isinstance(value, tf.TensorSpec):
            return next_creator(initial_value=initial_value, **kwargs)
        return resource_variable_ops.UninitializedVariable(
            trainable=kwargs.get("trainable"),
            shape=value.shape,
            dtype=value.dtype,
            name=kwargs.get("name"),
        )

    with contextlib.ExitStack() as stack:
        for name in ("VarianceScaling", "RandomNormal", "Zeros", "Ones"):
            initializer = getattr(keras.initializers, name)
            stack.enter_context(mock.patch.object(initializer, "__call__", spec))
        stack.enter_context(tf.variable_creator_scope(creator))
        yield


def fill_rule(pack: golden.Pack) -> list[golden.Comparison]:
    """The rule that generates weights and batches, against the pack's worked examples."""
    data = pack.json("00_fill_rule.json")
    results = []
    for e in data["examples"]:
        value = golden.fill(e["name"], tuple(e["shape"]), data["weight_salt"])
        flat: np.ndarray = value.ravel().astype(np.float64)
        ours = [*flat[:4], flat[-1], flat.sum(), np.abs(flat).sum(), np.square(flat).sum()]
        expected = [*e["first_4"], e["last"], e["sum"], e["abs_sum"], e["sq_sum"]]
        results.append(golden.compare("fill rule", e["name"], "values", expected, ours, rtol=1e-9))
    for e in data["training_batches"]:
        views = golden.training_batch(e["data_seed"], e["i"], e["B"], e["S"], e["num_classes"])
        both = np.concatenate(views[:2], -1).astype(np.float64)
        case = f"batch {e['i']} of seed {e['data_seed']}"
        results.append(golden.compare("fill rule", case, "labels", e["labels"], views[2]))
        ours = [*both.ravel()[:4], both.sum(), np.square(both).sum()]
        expected = [*e["first_4"], e["sum"], e["sq_sum"]]
        results.append(golden.compare("fill rule", case, "pixels", expected, ours, rtol=1e-9))
    return results


@functools.lru_cache(maxsize=32)
def layout_of(
    depth: int,
    width: int,
    sk_ratio: float,
    se_ratio: float,
    stem: str,
    num_classes: int,
    layers: int,
    selector: int | None = None,
) -> tuple[tuple[str, str, tuple[int, ...], bool, int | None], ...]:
    """Returns the variables of a network, without allocating them.

    Returns:
        Rows (our name, canonical name, shape, trainable, block).
    """
    with shapes_only():
        built = model.SimCLR(
            depth,
            width,
            sk_ratio,
            se_ratio,
            num_classes,
            stem=stem,
            proj_head_mode="nonlinear" if layers else "none",
            num_proj_layers=layers or 1,
            ft_proj_selector=selector,
        )
    named = variables.named_variables(built)
    canonical = variables.reference_names(list(named))
    return tuple(
        (
            ours,
            canonical[ours],
            tuple(variable.shape),
            variables.is_trainable(ours),
            variables.block_index(ours) if variables.is_trainable(ours) else None,
        )
        for ours, variable in named.items()
    )


def layout(pack: golden.Pack, name: str) -> list[golden.Comparison]:
    """Names, shapes, trainability, blocks and parameter counts of one architecture."""
    data = pack.json(f"01_tf1_layouts/{name}.json")
    c = data["config"]
    rows = layout_of(
        c["resnet_depth"], c["width_multiplier"], c["sk_ratio"], c["se_ratio"],
        architecture.default_stem(c["image_size"]), c["num_classes"], c["num_proj_layers"],
    )  # fmt: skip
    ours: list[list[Any]] = [
        [name, list(shape), trainable, block] for _, name, shape, trainable, block in rows
    ]
    results = [golden.compare_tables("layout", name, "rows of variables", data["variables"], ours)]

    def count(scope: str, trainable: bool) -> int:
        return sum(
            int(np.prod(shape)) for n, shape, t, _ in ours if n.startswith(scope) and t == trainable
        )

    expected = {
        "params_base_model_trainable": count("base_model/", True),
        "params_base_model_moving_stats": count("base_model/", False),
        "params_head_contrastive_trainable": count("head_contrastive/", True),
        "params_head_supervised_trainable": count("head_supervised/", True),
        "params_all_trainable": count("", True),
        "params_all_variables": count("", True) + count("", False),
    }
    results += [
        golden.compare("layout", name, key, c[key], value) for key, value in expected.items()
    ]
    if c.get("published_params_M"):
        millions = round((count("base_model/", True) + count("base_model/", False)) / 1e6)
        results.append(
            golden.compare(
                "layout", name, "published size in millions", c["published_params_M"], millions
            )
        )
    return results


def build(
    config: Mapping, *, selector: int | None = None, **kwargs: Any
) -> tuple[model.SimCLR, dict[str, tf.Variable]]:
    """Returns a network of a pack's `config`, with weights by the fill rule, and its variables."""
    built = model.SimCLR(
        config["resnet_depth"],
        config["width_multiplier"],
        config["sk_ratio"],
        config.get("se_ratio", 0.0),
        config["num_classes"],
        num_proj_layers=config["num_proj_layers"],
        ft_proj_selector=selector,
        stem=architecture.default_stem(config["image_size"]),
        **kwargs,
    )
    return built, golden.fill_model(built, config["weight_salt"])


def forward(pack: golden.Pack, case: str) -> list[golden.Comparison]:
    """Every endpoint and projection layer of one forward pass; in training, the moments too."""
    data = pack.json(f"02_forward/{case}.json")
    config = data["config"]
    arrays = pack.arrays(f"02_forward/{data['arrays']}")
    images = golden.images(config)
    local = {"global_bn": config.get("global_bn", True)}
    network, named = build(config, **local)
    training = config["training"]
    outputs = dict(network(images, training=training))
    moments = {n: v.numpy() for n, v in named.items() if "/moving_" in n}
    hidden = network.project(outputs["final_avg_pool"], training=training)
    outputs.update({f"proj_hidden_{j}": h for j, h in enumerate(hidden)})
    last = f"proj_hidden_{len(hidden) - 1}"
    if "logits_sup_ft_proj_selector_1" in data["endpoints"]:
        tuned, _ = build(config, selector=1, **local)
        logits = tuned(images, training=training)["logits_sup"]
        outputs["logits_sup_ft_proj_selector_1"] = logits
    results = []

    def add(quantity: str, reference: Any, ours: Any, atol: Any) -> None:
        results.append(golden.compare("forward", case, quantity, reference, ours, atol=atol))

    for name, e in data["endpoints"].items():
        ours = outputs[name].numpy()
        results.append(
            golden.compare_tables("forward", case, f"{name}: shape", e["shape"], ours.shape)
        )
        if not e["usable"]:
            continue
        if name in arrays:
            reference = arrays[name]
        else:
            reference = arrays[f"{name}/value"]
            ours = ours.ravel()[arrays[f"{name}/index"]]
        add(name, reference, ours, e["recommended_atol"])
        if name == last:
            add("proj_head_output", reference, outputs["proj_head_output"], e["recommended_atol"])
    if training:
        results += _moving_statistics(data, case, moments)
    return results


def _moving_statistics(
    data: Mapping, case: str, moments: Mapping[str, np.ndarray]
) -> list[golden.Comparison]:
    """Moving statistics after one pass: the sums of their changes, at the pack's own noise.

    With local batch norm the TF1 code stores the unbiased variance, the TF2 code and ours the
    biased one. So the TF1 numbers of the backbone, which uses a fused kernel, are multiplied by
    (n - 1) / n. (Its projection head, of rank 2, has no fused kernel.)
    """
    config = data["config"]
    results = []
    for name, total, abs_total, noise in data["moving_statistics_after_one_training_pass"]["rows"]:
        start = golden.fill(name, moments[name].shape, config["weight_salt"])
        ours: np.ndarray = moments[name].astype(np.float64)
        fused = name.startswith("base_model") and not config.get("global_bn", True)
        if fused and name.endswith("moving_variance"):
            decayed = 0.9 * start.astype(np.float64).sum()
            n = _elements_per_channel(config, name)
            total = abs_total = decayed + (total - decayed) * (n - 1) / n
            noise = 0.0  # the pack's noise is this factor
        tolerance = 4 * noise * ours.size + 3e-6 * abs_total
        for quantity, reference, value in (
            ("sum", total, ours.sum()),
            ("abs_sum", abs_total, np.abs(ours).sum()),
        ):
            results.append(
                golden.compare(
                    "forward", case, f"{name}: {quantity}", reference, value, atol=tolerance
                )
            )
    return results


def _elements_per_channel(config: Mapping, name: str) -> int:
    """Returns how many elements a batch norm in the CIFAR ResNet-18 averages over."""
    number = re.search(r"batch_normalization_(\d+)/", name)
    group = (int(number[1]) - 1) // 5 if number else 0  # five batch norms in each group
    side = config["image_size"] // 2**group
    return config["batch"] * side * side
