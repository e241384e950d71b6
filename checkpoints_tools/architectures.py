"""Which layers an architecture has, under our names, without building the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# depth -> (bottleneck blocks, number of blocks in each of the four groups)
DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
    200: (True, (3, 24, 36, 3)),
}
HEAD_LAYERS = {"none": 0, "linear": 1}  # 'nonlinear': num_proj_layers

KERNEL = ("kernel",)
DENSE = ("kernel", "bias")
NORM = ("gamma", "beta", "moving_mean", "moving_variance")
NORM_WITHOUT_BETA = ("gamma", "moving_mean", "moving_variance")

# What model.SimCLR takes when nothing is said.
DEFAULTS = {
    "depth": 50, "width_multiplier": 1, "sk_ratio": 0.0, "se_ratio": 0.0, "num_classes": 1000,
    "proj_head_mode": "nonlinear", "num_proj_layers": 3, "proj_out_dim": 128,
    "ft_proj_selector": None, "fine_tune_after_block": -1, "stem": "imagenet", "channels": 3,
    "batch_norm_decay": 0.9, "global_bn": True,
}  # fmt: skip


def head_layers(architecture: Mapping) -> tuple[int, int]:
    """Returns how many layers the whole projection head has, and how many of them exist."""
    mode = architecture["proj_head_mode"]
    layers = HEAD_LAYERS.get(mode, architecture["num_proj_layers"])
    selector = architecture["ft_proj_selector"]
    return layers, layers if selector is None or selector == -1 else selector


def layers(architecture: Mapping) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (our name of a layer, its weights' kinds), in the order of creation."""
    yield from _stem(architecture)
    bottleneck, sizes = DEPTHS[architecture["depth"]]
    for group, blocks in enumerate(sizes, start=1):
        for index in range(blocks):
            for name, kinds in _block(architecture, bottleneck, project=index == 0):
                yield f"backbone/block_group{group}/{index}/{name}", kinds
    all_layers, existing = head_layers(architecture)
    for j in range(existing):
        yield f"projection_head/{j}/dense", KERNEL
        yield f"projection_head/{j}/bn", NORM_WITHOUT_BETA if j == all_layers - 1 else NORM
    if architecture["num_classes"]:
        yield "supervised_head/dense", DENSE


def names(architecture: Mapping) -> list[str]:
    """Returns our names of all weights, in the order of creation."""
    return [f"{layer}/{kind}" for layer, kinds in layers(architecture) for kind in kinds]


def _stem(architecture):
    if architecture["stem"] == "imagenet" and architecture["sk_ratio"] > 0:
        for j in ("1", "2"):
            yield f"backbone/stem/conv{j}", KERNEL
            yield f"backbone/stem/bn{j}", NORM
    yield "backbone/stem/conv", KERNEL
    yield "backbone/stem/bn", NORM


def _block(architecture, bottleneck, project):
    if project:
        yield from (("shortcut/conv", KERNEL), ("shortcut/bn", NORM))
    yield from (("conv1", KERNEL), ("bn1", NORM))
    if bottleneck and architecture["sk_ratio"] > 0:
        yield from (("sk/conv", KERNEL), ("sk/bn", NORM))
        yield from (("sk/squeeze", KERNEL), ("sk/squeeze_bn", NORM), ("sk/mix", KERNEL))
    else:
        yield from (("conv2", KERNEL), ("bn2", NORM))
    if bottleneck:
        yield from (("conv3", KERNEL), ("bn3", NORM))
    if architecture["se_ratio"] > 0:
        yield from (("se/reduce", DENSE), ("se/expand", DENSE))
