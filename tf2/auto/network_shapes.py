"""The layers of a ResNet and its heads as numbers: sizes, weights and work for one image.

Arithmetic that follows `resnet.ResNet` and `model.SimCLR` layer by layer, without building them.
Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tf2 import architecture


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution or dense layer with the batch norm and rectifier after it, for one image.

    Attributes:
        output: numbers in its output.
        kept: numbers that training holds until the backward pass: inputs of operations.
        trained: weights that training moves.
        statistics: moving means and variances.
        multiply_adds: of the forward pass.
    """

    output: int
    kept: int
    trained: int
    statistics: int
    multiply_adds: int


def layers(arguments: Mapping[str, Any], image_size: int) -> list[Layer]:
    """Returns the layers of a ResNet with its heads; see `parts`."""
    return [layer for part in parts(arguments, image_size) for layer in part]


def parts(arguments: Mapping[str, Any], image_size: int) -> list[list[Layer]]:
    """Returns the layers of a ResNet by part: the stem, each residual block, the heads.

    Args:
        arguments: of `model.SimCLR`.
        image_size: side of the input, in pixels.
    """
    of_backbone = {name: arguments[name] for name in architecture.RESNET_ARGUMENTS}
    heads_only = ("proj_head_mode", "num_proj_layers", "proj_out_dim", "num_classes")
    body = backbone(**of_backbone, channels=arguments["channels"], image_size=image_size)
    of_heads = heads(
        feature_dim(arguments["depth"], arguments["width_multiplier"]),
        **{name: arguments[name] for name in (*heads_only, "ft_proj_selector")},
    )
    return [*body, of_heads]


def kept(parts: Sequence[Sequence[Layer]], *, recompute: bool) -> int:
    """Returns the numbers that training holds for one image until the backward pass.

    Args:
        parts: the stem, each residual block, the heads.
        recompute: whether only the inputs of blocks are held, and all of the block that is computed
            again; the backward pass has no more use for what is behind it.
    """
    stem, *blocks, of_heads = [sum(layer.kept for layer in part) for part in parts]
    if not recompute:
        return stem + sum(blocks) + of_heads
    outputs = (part[-1].output for part in parts[1:-1])
    inputs = itertools.accumulate(outputs, initial=stem)  # up to each block, and to the heads
    return max(map(sum, zip(inputs, [*blocks, of_heads], strict=True)))


def convolution(
    side: int,
    in_channels: int,
    channels: int,
    kernel: int,
    strides: int = 1,
    *,
    rectified: bool = True,
    norm: bool = True,
    bias: bool = False,
) -> Layer:
    """Returns a convolution of a square input of side `side`; see `resnet.Conv2D`."""
    small = after_stride(side, strides)
    output = small * small * channels
    copied = 0  # with strides, the input is padded or thinned out first
    if strides > 1:
        copied = in_channels * (small**2 if kernel == 1 else (side + kernel - 1) ** 2)
    weights = kernel * kernel * in_channels * channels
    return Layer(
        output=output,
        kept=output * (1 + rectified) + copied,  # batch norm's input, the next layer's input
        trained=weights + channels * (2 * norm + bias),
        statistics=2 * channels * norm,
        multiply_adds=small * small * weights,
    )


def after_stride(side: int, strides: int) -> int:
    """Returns the side of a feature map after a layer with strides, as padded in `resnet`."""
    return -(-side // strides)


def backbone(
    *,
    depth: int,
    width_multiplier: float,
    stem: str,
    channels: int,
    image_size: int,
    sk_ratio: float = 0.0,
    se_ratio: float = 0.0,
) -> list[list[Layer]]:
    """Returns the layers of the stem and of each block; see `resnet.ResNet` for the arguments."""
    base = int(round(64 * width_multiplier))
    bottleneck, sizes = architecture.DEPTHS[depth]
    of_stem, side = _stem(image_size, channels, base, stem, deep=sk_ratio > 0)
    parts = [of_stem]
    width = base
    for group, blocks in enumerate(sizes):
        filters = base * 2**group
        for index in range(blocks):
            strides = 2 if group > 0 and index == 0 else 1
            block = _block(
                side, width, filters, strides,
                project=index == 0, bottleneck=bottleneck, sk_ratio=sk_ratio, se_ratio=se_ratio,
            )  # fmt: skip
            parts.append(list(block))
            side = after_stride(side, strides)
            width = filters * 4 if bottleneck else filters
    return parts


def feature_dim(depth: int, width_multiplier: float) -> int:
    """Returns the width of a ResNet's features."""
    return int(round(64 * width_multiplier)) * 8 * (4 if architecture.DEPTHS[depth][0] else 1)


def _stem(side: int, channels: int, base: int, kind: str, *, deep: bool) -> tuple[list[Layer], int]:
    """Returns the layers of the stem, and the side of their output."""
    if kind == "cifar":
        return [convolution(side, channels, base, 3)], side
    half = after_stride(side, 2)
    if deep:
        layers = [
            convolution(side, channels, base // 2, 3, 2),
            convolution(half, base // 2, base // 2, 3),
            convolution(half, base // 2, base, 3),
        ]
    else:
        layers = [convolution(side, channels, base, 7, 2)]
    pooled = after_stride(half, 2)
    return [*layers, _plain(pooled * pooled * base)], pooled


def _block(
    side: int,
    width: int,
    filters: int,
    strides: int,
    *,
    project: bool,
    bottleneck: bool,
    sk_ratio: float,
    se_ratio: float,
) -> Iterator[Layer]:
    """Yields the layers of `resnet.Block`."""
    out, small = filters * (4 if bottleneck else 1), after_stride(side, strides)
    if project:
        yield convolution(side, width, out, 1, strides, rectified=False)
    if bottleneck:
        yield convolution(side, width, filters, 1)
        if sk_ratio > 0:
            yield convolution(side, filters, 2 * filters, 3, strides)
            yield _plain(4 * small * small * filters)  # both paths, and both weighed
            squeezed = max(int(filters * sk_ratio), 32)
            yield convolution(1, filters, squeezed, 1)
            yield convolution(1, squeezed, 2 * filters, 1, rectified=False, norm=False)
        else:
            yield convolution(side, filters, filters, 3, strides)
        yield convolution(small, filters, out, 1, rectified=False)
    else:
        yield convolution(side, width, filters, 3, strides)
        yield convolution(small, filters, filters, 3, rectified=False)
    if se_ratio > 0:
        reduced = max(1, int(filters * se_ratio))
        yield convolution(1, out, reduced, 1, norm=False, bias=True)
        yield convolution(1, reduced, out, 1, rectified=False, norm=False, bias=True)
        yield _plain(small * small * out)  # gated
    yield _plain(small * small * out)  # the sum, rectified


def _plain(numbers: int) -> Layer:
    """Returns an operation without weights whose output is kept."""
    return Layer(numbers, numbers, 0, 0, 0)


def dense(in_features: int, features: int, *, norm: bool, center: bool = True) -> Layer:
    """Returns a dense layer with the batch norm of the projection head, or with a bias."""
    weights = in_features * features
    return Layer(
        output=features,
        kept=2 * features,
        trained=weights + features * (1 + (norm and center)),
        statistics=2 * features * norm,
        multiply_adds=weights,
    )


def heads(
    features: int,
    *,
    proj_head_mode: str,
    num_proj_layers: int,
    proj_out_dim: int,
    num_classes: int,
    ft_proj_selector: int | None,
) -> list[Layer]:
    """Returns the projection head and the classifier; see `model.SimCLR` for the arguments."""
    total = architecture.num_hidden(proj_head_mode, num_proj_layers)
    selector = total if ft_proj_selector in (None, -1) else ft_proj_selector
    layers, width = [], features
    for index in range(selector):
        last = index == total - 1
        out = proj_out_dim if last else width
        layers.append(dense(width, out, norm=True, center=not last))
        width = out
    if num_classes:
        classified = features if ft_proj_selector is None else width
        layers.append(dense(classified, num_classes, norm=False))
    return layers
