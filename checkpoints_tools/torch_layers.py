"""The layers of the networks in PyTorch, with TensorFlow's padding.

Images and feature maps are (n, channels, h, w). What differs from the usual PyTorch ResNets, and
makes the numbers equal:

- max pooling pads as TensorFlow's SAME: (0, 1) for even sizes, (1, 1) for odd ones;
- ResNet-D's 2x2 average pooling leaves padding out of the mean at stride 1; at stride 2 it pads one
  zero at the end and counts it;
- batch norm stores the biased variance when training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

Norm = Callable[..., nn.Module]  # channels -> batch norm


class BatchNorm(nn.Module):
    """Batch norm over all axes but the second; the moving variance stores the biased variance."""

    def __init__(self, channels: int, *, decay: float = 0.9, center: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if center else None)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self._decay = decay

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalizes x (n, c) or (n, c, h, w)."""
        if not self.training:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5
            )
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x, dim=axes, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, 1 - self._decay)
            self.running_var.lerp_(variance, 1 - self._decay)
        shape = [-1] + [1] * (x.ndim - 2)
        scale = self.weight * torch.rsqrt(variance + 1e-5)
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return x * scale.view(shape) + shift.view(shape)


def _conv(
    in_channels: int, filters: int, kernel_size: int, stride: int = 1, *, bias: bool = False
) -> nn.Conv2d:
    # For odd kernels, fixed padding equals TensorFlow's SAME at stride 1: k // 2 on either side,
    # whatever the size of the image.
    return nn.Conv2d(in_channels, filters, kernel_size, stride, kernel_size // 2, bias=bias)


def max_pool_same(x: torch.Tensor) -> torch.Tensor:
    """Pools 3x3, stride 2, TensorFlow's SAME padding: (n, c, h, w) -> (n, c, ceil(h / 2), ...)."""
    pads: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):
        total = 2 if size % 2 else 1
        pads += [total // 2, total - total // 2]
    return functional.max_pool2d(functional.pad(x, pads, value=float("-inf")), 3, 2)


class Shortcut(nn.Module):
    """Projection shortcut; with selective kernels ResNet-D's (average pool, then 1x1)."""

    def __init__(self, in_channels: int, filters: int, stride: int, *, resnet_d: bool, norm: Norm):
        super().__init__()
        self._pool_stride = stride if resnet_d else 0
        self.conv = _conv(in_channels, filters, 1, 1 if resnet_d else stride)
        self.bn = norm(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (n, in_channels, h, w) to (n, filters, h / stride, w / stride)."""
        if self._pool_stride == 1:
            # Repeating the edge leaves the padding out: the mean of (a, a, b, b) is that of (a, b).
            x = functional.avg_pool2d(functional.pad(x, [0, 1, 0, 1], mode="replicate"), 2, 1)
        elif self._pool_stride:
            x = functional.avg_pool2d(functional.pad(x, [0, 1, 0, 1]), 2, self._pool_stride)
        return self.bn(self.conv(x))


class SelectiveKernel(nn.Module):
    """Two 3x3 paths mixed per channel by attention."""

    def __init__(self, in_channels: int, filters: int, stride: int, *, sk_ratio: float, norm: Norm):
        super().__init__()
        squeezed = max(int(filters * sk_ratio), 32)
        self.conv = _conv(in_channels, 2 * filters, 3, stride)
        self.bn = norm(2 * filters)
        self.squeeze = _conv(filters, squeezed, 1)
        self.squeeze_bn = norm(squeezed)
        self.mix = _conv(squeezed, 2 * filters, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (n, in_channels, h, w) to (n, filters, h / stride, w / stride)."""
        first, second = functional.relu(self.bn(self.conv(x))).chunk(2, dim=1)
        pooled = (first + second).mean([2, 3], keepdim=True)
        squeezed = functional.relu(self.squeeze_bn(self.squeeze(pooled)))
        logit_first, logit_second = self.mix(squeezed).chunk(2, dim=1)
        attention = torch.sigmoid(logit_first - logit_second)  # (n, filters, 1, 1)
        return attention * first + (1 - attention) * second


class SqueezeExcitation(nn.Module):
    """Scales channels by a gate computed from their means."""

    def __init__(self, channels: int, filters: int, *, se_ratio: float):
        super().__init__()
        reduced = max(1, int(filters * se_ratio))
        self.reduce = _conv(channels, reduced, 1, bias=True)
        self.expand = _conv(reduced, channels, 1, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gates x (n, channels, h, w)."""
        pooled = x.mean([2, 3], keepdim=True)
        return torch.sigmoid(self.expand(functional.relu(self.reduce(pooled)))) * x


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1 - 3x3 - 1x1 with four times the filters."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        stride: int,
        *,
        project: bool,
        bottleneck: bool,
        sk_ratio: float,
        se_ratio: float,
        norm: Norm,
    ):
        super().__init__()
        out_channels = filters * 4 if bottleneck else filters
        if project:
            self.shortcut = Shortcut(
                in_channels, out_channels, stride, resnet_d=sk_ratio > 0, norm=norm
            )
        if bottleneck:
            self.conv1 = _conv(in_channels, filters, 1)
            self.bn1 = norm(filters)
            if sk_ratio > 0:
                self.sk = SelectiveKernel(filters, filters, stride, sk_ratio=sk_ratio, norm=norm)
            else:
                self.conv2 = _conv(filters, filters, 3, stride)
                self.bn2 = norm(filters)
            self.conv3 = _conv(filters, out_channels, 1)
            self.bn3 = norm(out_channels)
        else:
            self.conv1 = _conv(in_channels, filters, 3, stride)
            self.bn1 = norm(filters)
            self.conv2 = _conv(filters, filters, 3)
            self.bn2 = norm(filters)
        nn.init.zeros_((self.bn3 if bottleneck else self.bn2).weight)
        if se_ratio > 0:
            self.se = SqueezeExcitation(out_channels, filters, se_ratio=se_ratio)
        self._bottleneck = bottleneck

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        residual = self.shortcut(inputs) if hasattr(self, "shortcut") else inputs
        x = functional.relu(self.bn1(self.conv1(inputs)))
        if not self._bottleneck:
            x = self.bn2(self.conv2(x))
        else:
            if hasattr(self, "sk"):
                x = self.sk(x)
            else:
                x = functional.relu(self.bn2(self.conv2(x)))
            x = self.bn3(self.conv3(x))
        if hasattr(self, "se"):
            x = self.se(x)
        return functional.relu(x + residual)


class Stem(nn.Module):
    """The first layers: 7x7/2, three 3x3 (with selective kernels) or, for small images, one 3x3."""

    def __init__(self, channels: int, filters: int, *, kind: str, resnet_d: bool, norm: Norm):
        super().__init__()
        self._pool = kind == "imagenet"
        self._deep = kind == "imagenet" and resnet_d
        if self._deep:
            half = filters // 2
            self.conv1 = _conv(channels, half, 3, 2)
            self.bn1 = norm(half)
            self.conv2 = _conv(half, half, 3)
            self.bn2 = norm(half)
            self.conv = _conv(half, filters, 3)
        else:
            self.conv = _conv(channels, filters, *((7, 2) if self._pool else (3, 1)))
        self.bn = norm(filters)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps images (n, channels, h, w) to the endpoints initial_conv, initial_max_pool."""
        if self._deep:
            x = functional.relu(self.bn1(self.conv1(x)))
            x = functional.relu(self.bn2(self.conv2(x)))
        initial_conv = x = self.conv(x)
        x = functional.relu(self.bn(x))
        return {
            "initial_conv": initial_conv,
            "initial_max_pool": max_pool_same(x) if self._pool else x,
        }
