"""The reference's checkpoints under our names: TF1 checkpoints, and SavedModels for TF2.

Both are recognised by the names of their variables alone. A number in a name (`conv2d_7`,
`batch_normalization_3`) identifies the layer; the order in the file never does. A variable that is
none of our weights must be a known slot or counter.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from tf2 import architecture as architecture_lib
from tf2 import errors, variables
from tf2.checkpoints import layouts

# In a checkpoint of the reference besides weights: slots, counters, decayed powers.
_NO_WEIGHT = re.compile(
    r"(.*/)?(Momentum|Adam|Adam_1|ExponentialMovingAverage)|global_step|save_counter"
    r"|beta[12]_power|_CHECKPOINTABLE_OBJECT_GRAPH"
)
EMA = "ema_model/"
_LARGEST_IMAGE = 2**13


def is_no_weight(name: str) -> bool:
    """Whether a TF1 name is that of a slot or a counter, which need not be read."""
    return _NO_WEIGHT.fullmatch(name) is not None


def tf1_names(architecture: Mapping, weights: str = "online") -> dict[str, str]:
    """Returns our name -> name in a TF1 checkpoint of SimCLRv2 or SimCLRv1.

    Args:
        architecture: `model.SimCLR.hyperparameters`.
        weights: 'online', or 'ema', the moving average; the supervised head has none.
    """
    names = layouts.canonical(architecture)
    if weights == "online":
        return names
    return {
        ours: name if variables.place(ours) == "supervised_head" else EMA + name
        for ours, name in names.items()
    }


def locate(shapes: Mapping, path: str, weights: str = "online") -> tuple[dict, dict[str, str]]:
    """Infers the network of variables with TF1 names.

    Args:
        shapes: name -> shape.
        path: of the checkpoint, for messages.
        weights: 'online' or 'ema'.

    Returns:
        `model.SimCLR.hyperparameters`, and our name -> TF1 name.

    Raises:
        errors.UserError: there is no known network, or there are other weights besides.
    """
    if weights == "ema" and not any(name.startswith(EMA) for name in shapes):
        raise errors.UserError(
            "The moving average of the weights is in pretrained SimCLRv2 checkpoints, under "
            f"ema_model/. Received: weights=ema for {path}, which has none. Use --weights=online."
        )
    architecture = layouts.infer(
        shapes, lambda a: {ours: (name, None) for ours, name in tf1_names(a, weights).items()}
    )
    if architecture is None:
        raise errors.UserError(
            "A TF1 checkpoint must hold a ResNet of depth 18 to 200 under base_model/, with all "
            f"its weights. Received: {path}, whose names or shapes fit none. Give a whole "
            "checkpoint of SimCLR or SimCLRv2."
        )
    names = tf1_names(architecture, weights)
    others = {n for kind in ("online", "ema") for n in tf1_names(architecture, kind).values()}
    left = sorted(n for n in shapes if n not in others and not is_no_weight(n))
    layouts.check_none_left(left, architecture, path, "of SimCLR or SimCLRv2 as released")
    return architecture, names


_NUMBERED = re.compile(r"(?:^|/)(conv2d|(?:sync_)?batch_normalization)(?:_(\d+))?/(\w+)$")
_PROJECTION = re.compile(r"(?:projection_head|head_contrastive)/(n?l_\d+)/(.+)")


def canonical_variables(names: list[str], path: str) -> dict[str, str]:
    """Maps the variable names of a SavedModel to TF1 names.

    Keras numbers the layers of a process: `resnet/.../conv2d_fixed_padding_4/conv2d_7/kernel`. Only
    the rank of the last layer's number counts, because the process may have built other layers
    before.

    Args:
        names: without `:0`.
        path: of the SavedModel, for messages.

    Returns:
        Variable name -> TF1 name; other names do not change.

    Raises:
        errors.UserError: two variables have one TF1 name.
    """
    result: dict[str, str] = {}
    numbered: dict[str, dict[int, list[tuple[str, str]]]] = {
        "conv2d": {},
        "batch_normalization": {},
    }
    for name in names:
        match = _NUMBERED.search(name)
        if name.startswith("resnet/") and match:
            kind = match[1].removeprefix("sync_")
            numbered[kind].setdefault(int(match[2] or 0), []).append((name, match[3]))
        else:
            result[name] = _canonical_head(name)
    for kind, layers in numbered.items():
        for rank, number in enumerate(sorted(layers)):
            layer = f"base_model/{kind}_{rank}" if rank else f"base_model/{kind}"
            result.update({name: f"{layer}/{role}" for name, role in layers[number]})
    if len(set(result.values())) != len(names):
        raise errors.UserError(
            "Each variable of a SavedModel must have a name of its own. Received: "
            f"{path}, in which several share one. Give a SavedModel as the reference exports it."
        )
    return result


def _canonical_head(name: str) -> str:
    match = _PROJECTION.fullmatch(name)
    role = name.rsplit("/", 1)[-1]
    if match:
        leaf = "dense" if role in ("kernel", "bias") else "batch_normalization"
        return f"head_contrastive/{match[1]}/{leaf}/{role}"
    if re.fullmatch(r"head_supervised/linear_layer/dense(_\d+)?/(kernel|bias)", name):
        return f"head_supervised/linear_layer/dense/{role}"
    return name


def check_groups(names: Mapping[str, str], path: str) -> None:
    """Raises an error if a variable's name has another block group than its weight of ours.

    Args:
        names: our name -> variable name.
        path: of the SavedModel, for the message.
    """
    for ours, theirs in names.items():
        group = re.search(r"/block_group(\d)/", theirs)
        if group and variables.block_index(ours) != int(group[1]):
            raise errors.UserError(
                "The layers of a SavedModel must be numbered in the network's order. Received: "
                f"{path}, where {theirs} would become {ours}. Give one as the reference exports it."
            )


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a checkpoint of the reference comes from, as far as it tells how images are prepared.

    Attributes:
        resize: the pixel grid, 'half_pixel' of its TF2 program or 'legacy' of its TF1 program.
        flags: its flags.json; empty where there is none, as beside the released networks.
    """

    resize: str = "legacy"
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def with_selector(architecture: Mapping, origin: Origin) -> dict:
    """Returns an architecture with the projection layer that fine-tuning started from.

    It is in the flags alone: the reference's checkpoints have all projection layers.
    """
    selector = origin.flags.get("ft_proj_selector")
    fine_tuned = origin.flags.get("train_mode") == "finetune" and architecture["num_classes"]
    if not fine_tuned or type(selector) is not int or architecture["ft_proj_selector"] is not None:
        return dict(architecture)
    layers = architecture_lib.projection_layers(architecture)[1]
    selector = layers if selector == -1 else selector
    if not 0 <= selector <= layers:
        return dict(architecture)
    changed = {**architecture, "ft_proj_selector": selector}
    head = "supervised_head/dense/kernel"
    fits = layouts.weights(changed)[head] == layouts.weights(architecture)[head]
    return changed if fits else dict(architecture)


def describe(architecture: Mapping, step: int | None = None, origin: Origin = Origin()) -> dict:
    """Returns the metadata of a checkpoint without model.json, a released network by default.

    Args:
        architecture: `model.SimCLR.hyperparameters`.
        step: training steps; None if unknown.
        origin: of the checkpoint.
    """
    preprocessing = architecture_lib.released_preprocessing(
        architecture["stem"], architecture["channels"]
    )
    size = origin.flags.get("image_size")
    if type(size) is not int or not 0 < size <= _LARGEST_IMAGE:
        size = preprocessing["image_size"]
    preprocessing |= architecture_lib.preprocessing(
        size, channels=architecture["channels"], resize=origin.resize
    )
    named = {n: origin.flags[n] for n in ("dataset", "train_mode") if n in origin.flags}
    return {
        "format": 1,
        "architecture": dict(architecture),
        "preprocessing": preprocessing,
        "class_names": None,
        "global_step": int(step or 0),
        **{n: value for n, value in named.items() if isinstance(value, str)},
    }
