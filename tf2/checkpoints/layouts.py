"""Names and shapes of an architecture's weights, without building it, and the inverse.

An architecture is `model.SimCLR.hyperparameters`. No weight is allocated: the largest network of
the paper, with 795 million parameters, is a dictionary of a thousand names.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from tf2 import architecture as architecture_lib
from tf2 import errors, variables

Shape = tuple[int, ...]
# Our name -> (foreign name, axes that turn the foreign tensor into ours; None if they agree).
Names = dict[str, tuple[str, tuple[int, ...] | None]]

_DEFAULTS = architecture_lib.BACKBONE_DEFAULTS
_MOST_LAYERS = 8  # in a projection head that is recognised
_USUAL_RATIOS = (architecture_lib.SK_RATIO, 0.25, 0.125, 0.5)


def weights(architecture: Mapping) -> dict[str, Shape]:
    """Returns name -> shape of all weights, in order of creation, as `named_variables` does.

    Args:
        architecture: `model.SimCLR.hyperparameters`. Arguments left out have their default
            values, and no heads.
    """
    a = {**_DEFAULTS, **architecture}
    shapes = dict(_stem(a))
    bottleneck, sizes = architecture_lib.DEPTHS[a["depth"]]
    width = base = _base(a)
    for group, blocks in enumerate(sizes):
        filters = base * 2**group
        for index in range(blocks):
            path = f"backbone/block_group{group + 1}/{index}"
            shapes.update(_block(path, a, width, filters, index == 0, bottleneck))
            width = filters * 4 if bottleneck else filters
    shapes.update(_heads(a, width))
    return shapes


def _base(a: Mapping) -> int:
    return int(round(64 * a["width_multiplier"]))


def _conv(
    path: str, size: int, inputs: int, outputs: int, bias: bool = False
) -> Iterator[tuple[str, Shape]]:
    yield f"{path}/kernel", (size, size, inputs, outputs)
    if bias:
        yield f"{path}/bias", (outputs,)


def _norm(path: str, channels: int, center: bool = True) -> Iterator[tuple[str, Shape]]:
    for role in ("gamma", "beta", "moving_mean", "moving_variance"):
        if center or role != "beta":
            yield f"{path}/{role}", (channels,)


def _stem(a: Mapping) -> Iterator[tuple[str, Shape]]:
    channels, base, path = a["channels"], _base(a), "backbone/stem"
    if a["stem"] == "imagenet" and a["sk_ratio"] > 0:
        half = base // 2
        yield from _conv(f"{path}/conv1", 3, channels, half)
        yield from _norm(f"{path}/bn1", half)
        yield from _conv(f"{path}/conv2", 3, half, half)
        yield from _norm(f"{path}/bn2", half)
        yield from _conv(f"{path}/conv", 3, half, base)
    else:
        yield from _conv(f"{path}/conv", 7 if a["stem"] == "imagenet" else 3, channels, base)
    yield from _norm(f"{path}/bn", base)


def _block(
    path: str, a: Mapping, width: int, filters: int, project: bool, bottleneck: bool
) -> Iterator[tuple[str, Shape]]:
    outputs = filters * 4 if bottleneck else filters
    if project:
        yield from _conv(f"{path}/shortcut/conv", 1, width, outputs)
        yield from _norm(f"{path}/shortcut/bn", outputs)
    yield from _conv(f"{path}/conv1", 1 if bottleneck else 3, width, filters)
    yield from _norm(f"{path}/bn1", filters)
    if bottleneck and a["sk_ratio"] > 0:
        squeezed = max(int(filters * a["sk_ratio"]), 32)
        yield from _conv(f"{path}/sk/conv", 3, filters, 2 * filters)
        yield from _norm(f"{path}/sk/bn", 2 * filters)
        yield from _conv(f"{path}/sk/squeeze", 1, filters, squeezed)
        yield from _norm(f"{path}/sk/squeeze_bn", squeezed)
        yield from _conv(f"{path}/sk/mix", 1, squeezed, 2 * filters)
    else:
        yield from _conv(f"{path}/conv2", 3, filters, filters)
        yield from _norm(f"{path}/bn2", filters)
    if bottleneck:
        yield from _conv(f"{path}/conv3", 1, filters, outputs)
        yield from _norm(f"{path}/bn3", outputs)
    if a["se_ratio"] > 0:
        reduced = max(1, int(filters * a["se_ratio"]))
        yield from _conv(f"{path}/se/reduce", 1, outputs, reduced, bias=True)
        yield from _conv(f"{path}/se/expand", 1, reduced, outputs, bias=True)


def _heads(a: Mapping, features: int) -> Iterator[tuple[str, Shape]]:
    layers = architecture_lib.num_hidden(a["proj_head_mode"], a["num_proj_layers"])
    selector, width = a["ft_proj_selector"], features
    for j in range(layers if selector is None else selector):
        last = j == layers - 1
        outputs = a["proj_out_dim"] if last else width
        yield f"projection_head/{j}/dense/kernel", (width, outputs)
        yield from _norm(f"projection_head/{j}/bn", outputs, center=not last)
        width = outputs
    if a["num_classes"]:
        width = features if selector is None else width
        yield "supervised_head/dense/kernel", (width, a["num_classes"])
        yield "supervised_head/dense/bias", (a["num_classes"],)


def canonical(architecture: Mapping) -> dict[str, str]:
    """Returns our name -> canonical (TF1) name of all weights."""
    mode = {**_DEFAULTS, **architecture}["proj_head_mode"]
    return variables.reference_names(list(weights(architecture)), mode)


def check_none_left(left: Sequence[str], architecture: Mapping, path: str, wanted: str) -> None:
    """Checks that every weight of a foreign checkpoint belongs to the network in it.

    Args:
        left: the names of those that do not, sorted.
        architecture: of the network.
        path: of the checkpoint.
        wanted: what the checkpoint should be, in words.

    Raises:
        errors.UserError: some do not.
    """
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise errors.UserError(
            "Every weight of a checkpoint must have a place in the network. Received: "
            f"{path}, of which {', '.join(left[:3])}{more} has none in a ResNet-"
            f"{architecture['depth']}. Give a checkpoint {wanted}."
        )


def infer(shapes: Mapping[str, Shape], names: Callable[[Mapping], Names]) -> dict | None:
    """Infers the architecture of a checkpoint from names and shapes.

    If several fit, it is the one with the most weights: in some formats a ResNet-101's checkpoint
    has everything that a ResNet-50 needs. What shapes do not show has its usual value: the
    classifier is on the backbone's output, and basic blocks have no selective kernels.

    Args:
        shapes: foreign name -> shape.
        names: architecture -> our name -> (foreign name, axes).

    Returns:
        `model.SimCLR.hyperparameters`; None if no architecture fits.
    """
    best, most = None, 0
    for depth, sk_ratio, se_ratio, stem in itertools.product(
        architecture_lib.DEPTHS,
        (0.0, architecture_lib.SK_RATIO),
        (0.0, 0.25),
        architecture_lib.STEMS,
    ):
        structure = {"depth": depth, "sk_ratio": sk_ratio, "se_ratio": se_ratio, "stem": stem}
        ours = _translated(shapes, names({**_DEFAULTS, **structure}))
        fitted = _fit_backbone({**_DEFAULTS, **structure}, ours) if ours else None
        if ours and fitted and len(ours) > most:
            best, most = fitted, len(ours)
    if best is None:
        return None
    backbone, headed = best, {**best, "num_classes": 1}
    classes = int(_translated(shapes, names(headed)) is not None)
    for layers in range(_MOST_LAYERS + 1):
        complete = False
        for heads in _head_candidates(layers):
            candidate = {**backbone, **heads, "num_classes": classes}
            ours = _translated(shapes, names(candidate))
            complete = complete or ours is not None
            fitted = _fit_heads(candidate, ours) if ours else None
            if ours and fitted and len(ours) > most:
                best, most = fitted, len(ours)
        if not complete and layers:
            break
    return best


def _translated(shapes: Mapping[str, Shape], names: Names) -> dict[str, Shape] | None:
    """Returns our name -> shape; None if one is missing or has another rank."""
    translated = {}
    for ours, (foreign, axes) in names.items():
        shape = shapes.get(foreign)
        if shape is None or (axes is not None and len(axes) != len(shape)):
            return None
        translated[ours] = tuple(shape if axes is None else (shape[axis] for axis in axes))
    return translated


def _fit_backbone(a: dict, shapes: Mapping[str, Shape]) -> dict | None:
    """Reads width, channels and ratios from the shapes; returns None if they do not fit."""
    deep = a["stem"] == "imagenet" and a["sk_ratio"] > 0
    first = shapes["backbone/stem/conv1/kernel" if deep else "backbone/stem/conv/kernel"]
    stem = shapes["backbone/stem/conv/kernel"]
    if len(first) != 4 or len(stem) != 4 or not 2 <= stem[-1] <= 2**14:
        return None
    width = stem[-1] / 64
    a["width_multiplier"] = int(width) if width == int(width) else width
    a["channels"] = first[2]
    filters = stem[-1] * 8
    for ratio, leaf in (("sk_ratio", "sk/squeeze"), ("se_ratio", "se/reduce")):
        reduced = shapes.get(f"backbone/block_group4/0/{leaf}/kernel", (0,))[-1]
        least = 32 if ratio == "sk_ratio" else 1
        if reduced:
            exact = (*_USUAL_RATIOS, reduced / filters, (reduced + 0.5) / filters)
            a[ratio] = next(
                (r for r in exact if max(int(filters * r), least) == reduced),
                architecture_lib.SK_RATIO,
            )
    return a if weights(a) == shapes else None


def _head_candidates(layers: int) -> Iterator[dict]:
    """Yields the arguments that a projection head with so many layers may have."""
    if layers == 0:
        yield {"proj_head_mode": "none"}
        return
    nonlinear = {"proj_head_mode": "nonlinear"}
    yield {**nonlinear, "num_proj_layers": layers}
    yield {**nonlinear, "num_proj_layers": layers, "ft_proj_selector": layers}
    # A network fine-tuned from a middle layer has no layers after it.
    more = max(3, layers + 1)
    yield {**nonlinear, "num_proj_layers": more, "ft_proj_selector": layers}
    if layers == 1:
        yield {"proj_head_mode": "linear"}
        yield {"proj_head_mode": "linear", "ft_proj_selector": 1}


def _fit_heads(a: dict, shapes: Mapping[str, Shape]) -> dict | None:
    """Reads the widths of the heads from the shapes; returns None if they do not fit."""
    layers = architecture_lib.num_hidden(a["proj_head_mode"], a["num_proj_layers"])
    last = shapes.get(f"projection_head/{layers - 1}/dense/kernel")
    if last:
        a["proj_out_dim"] = last[-1]
    if a["num_classes"]:
        a["num_classes"] = shapes["supervised_head/dense/kernel"][-1]
        if not a["num_classes"]:
            return None
    if a["ft_proj_selector"] is not None and not a["num_classes"]:
        return None
    return a if weights(a) == shapes else None
