"""The network in PyTorch, with TensorFlow's padding: the same numbers from the same weights.

Images are (n, channels, h, w), float in [0, 1]; endpoints keep that order of axes. What differs
from the usual PyTorch ResNets, and makes the numbers equal:

- max pooling pads as TensorFlow's SAME: (0, 1) for even sizes, (1, 1) for odd ones;
- ResNet-D's 2x2 average pooling of stride 1 leaves padding out of the mean, that of stride 2 pads
  one zero at the end and counts it;
- batch norm stores the biased variance when training, and the last projection layer has no bias;
- every first block of a group has a projection shortcut, depths 18 and 34 too.

Names of the state_dict are our names with dots: `backbone/block_group1/0/conv1/kernel` is
`backbone.block_group1.0.conv1.weight`; gamma is `weight`, beta `bias`, moving_mean `running_mean`,
moving_variance `running_var`. `our_name` and `state_name` translate, `load_weights` and `weights`
move values, whose axes differ: kernels are (h, w, in, out) and (in, out) in ours, (out, in, h, w)
and (out, in) here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from checkpoints_tools import architectures

_ROLES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "kernel": "weight",
    "bias": "bias",
}
_NORM_ROLES = {"weight": "gamma", "bias": "beta"}
_OTHER_ROLES = {
    "weight": "kernel",
    "bias": "bias",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


class BatchNorm(nn.Module):
    """Batch norm over all axes but the second; the moving variance stores the biased variance."""

    def __init__(self, channels: int, *, decay: float = 0.9, center: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if center else None)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self._decay = decay

    def forward(self, x):
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


def _conv(in_channels, filters, kernel_size, stride=1, *, bias=False) -> nn.Conv2d:
    # For odd kernels fixed padding and TensorFlow's SAME at stride 1 are the same: k // 2 in front
    # and behind, whatever the size of the image.
    return nn.Conv2d(in_channels, filters, kernel_size, stride, kernel_size // 2, bias=bias)


def max_pool_same(x):
    """Pools 3x3 with stride 2 as TensorFlow's SAME: (n, c, h, w) -> (n, c, ceil(h/2), ...)."""
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = 2 if size % 2 else 1
        pads += [total // 2, total - total // 2]
    return functional.max_pool2d(functional.pad(x, pads, value=float("-inf")), 3, 2)


class Shortcut(nn.Module):
    """Projection shortcut; ResNet-D's (average pool, then 1x1) where selective kernels are on."""

    def __init__(self, in_channels, filters, stride, *, resnet_d, norm):
        super().__init__()
        self._pool_stride = stride if resnet_d else 0
        self.conv = _conv(in_channels, filters, 1, 1 if resnet_d else stride)
        self.bn = norm(filters)

    def forward(self, x):
        """Maps (n, in_channels, h, w) to (n, filters, h / stride, w / stride)."""
        if self._pool_stride == 1:
            # Repeating the edge is leaving the padding out: a mean of (a, a, b, b) is that of a, b.
            x = functional.avg_pool2d(functional.pad(x, [0, 1, 0, 1], mode="replicate"), 2, 1)
        elif self._pool_stride:
            x = functional.avg_pool2d(functional.pad(x, [0, 1, 0, 1]), 2, self._pool_stride)
        return self.bn(self.conv(x))


class SelectiveKernel(nn.Module):
    """Two 3x3 paths mixed per channel by attention."""

    def __init__(self, in_channels, filters, stride, *, sk_ratio, norm):
        super().__init__()
        squeezed = max(int(filters * sk_ratio), 32)
        self.conv = _conv(in_channels, 2 * filters, 3, stride)
        self.bn = norm(2 * filters)
        self.squeeze = _conv(filters, squeezed, 1)
        self.squeeze_bn = norm(squeezed)
        self.mix = _conv(squeezed, 2 * filters, 1)

    def forward(self, x):
        """Maps (n, in_channels, h, w) to (n, filters, h / stride, w / stride)."""
        first, second = functional.relu(self.bn(self.conv(x))).chunk(2, dim=1)
        pooled = (first + second).mean([2, 3], keepdim=True)
        squeezed = functional.relu(self.squeeze_bn(self.squeeze(pooled)))
        logit_first, logit_second = self.mix(squeezed).chunk(2, dim=1)
        attention = torch.sigmoid(logit_first - logit_second)  # (n, filters, 1, 1)
        return attention * first + (1 - attention) * second


class SqueezeExcitation(nn.Module):
    """Scales channels by a gate computed from their means."""

    def __init__(self, channels, filters, *, se_ratio):
        super().__init__()
        reduced = max(1, int(filters * se_ratio))
        self.reduce = _conv(channels, reduced, 1, bias=True)
        self.expand = _conv(reduced, channels, 1, bias=True)

    def forward(self, x):
        """Gates x (n, channels, h, w)."""
        pooled = x.mean([2, 3], keepdim=True)
        return torch.sigmoid(self.expand(functional.relu(self.reduce(pooled)))) * x


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1 - 3x3 - 1x1 with a fourfold exit."""

    def __init__(
        self, in_channels, filters, stride, *, project, bottleneck, sk_ratio, se_ratio, norm
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

    def forward(self, inputs):
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
    """The entry: 7x7/2, three 3x3 (with selective kernels) or, for small images, one 3x3."""

    def __init__(self, channels, filters, *, kind, resnet_d, norm):
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

    def forward(self, x):
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


class ResNet(nn.Module):
    """The backbone; its arguments are those of `tf2.resnet.ResNet`."""

    def __init__(self, depth, *, width_multiplier, sk_ratio, se_ratio, stem, channels, norm):
        super().__init__()
        bottleneck, sizes = architectures.DEPTHS[depth]
        base = width = int(round(64 * width_multiplier))
        self.stem = Stem(channels, base, kind=stem, resnet_d=sk_ratio > 0, norm=norm)
        for group, blocks in enumerate(sizes):
            filters = base * 2**group
            made = nn.ModuleList()
            for index in range(blocks):
                stride = 2 if group > 0 and index == 0 else 1
                made.append(
                    Block(
                        width,
                        filters,
                        stride,
                        project=index == 0,
                        bottleneck=bottleneck,
                        sk_ratio=sk_ratio,
                        se_ratio=se_ratio,
                        norm=norm,
                    )  # fmt: skip
                )
                width = filters * 4 if bottleneck else filters
            setattr(self, f"block_group{group + 1}", made)
        self.feature_dim = width

    def forward(self, images, frozen_blocks: int = -1):
        """Maps images (n, channels, h, w) to the endpoints; final_avg_pool is the last."""
        endpoints = self.stem(images)
        x = endpoints["initial_max_pool"]
        for block in range(5):
            if block > 0:
                for layer in getattr(self, f"block_group{block}"):
                    x = layer(x)
                endpoints[f"block_group{block}"] = x
            if block == frozen_blocks:
                x = x.detach()
        endpoints["final_avg_pool"] = x.mean([2, 3])
        return endpoints


class ProjectionLayer(nn.Module):
    """Dense, then batch norm, then ReLU unless it is the head's last layer."""

    def __init__(self, in_features, features, *, last, norm):
        super().__init__()
        self._last = last
        self.dense = nn.Linear(in_features, features, bias=False)
        self.bn = norm(features, center=not last)

    def forward(self, x):
        """Maps (n, in_features) to (n, features)."""
        x = self.bn(self.dense(x))
        return x if self._last else functional.relu(x)


class SupervisedHead(nn.Module):
    """The linear classifier: features (n, d) -> logits (n, classes)."""

    def __init__(self, in_features, num_classes):
        super().__init__()
        self.dense = nn.Linear(in_features, num_classes)

    def forward(self, x):
        """Maps features to logits."""
        return self.dense(x)


class SimCLR(nn.Module):
    """Backbone, projection head and supervised head: `SimCLR(**tf_model.hyperparameters)`.

    The arguments are those of `tf2.model.SimCLR`. `global_bn` is taken and has no effect: batch
    norm spans one process.
    """

    def __init__(self, **architecture):
        super().__init__()
        unknown = set(architecture) - set(architectures.DEFAULTS)
        if unknown:
            raise TypeError(f"SimCLR has no arguments {', '.join(sorted(unknown))}.")
        arguments = {**architectures.DEFAULTS, **architecture}
        self.hyperparameters = arguments

        def norm(features, **kwargs):
            return BatchNorm(features, decay=arguments["batch_norm_decay"], **kwargs)

        names = ("width_multiplier", "sk_ratio", "se_ratio", "stem", "channels")
        self.backbone = ResNet(
            arguments["depth"], norm=norm, **{name: arguments[name] for name in names}
        )
        self._frozen_blocks = arguments["fine_tune_after_block"]
        self._pretraining = arguments["ft_proj_selector"] is None
        layers, existing = architectures.head_layers(arguments)
        features = width = self.backbone.feature_dim
        self.projection_head = nn.ModuleList()
        for j in range(existing):
            last = j == layers - 1
            out = arguments["proj_out_dim"] if last else width
            self.projection_head.append(ProjectionLayer(width, out, last=last, norm=norm))
            width = out
        if arguments["num_classes"]:
            head_width = features if self._pretraining else width
            self.supervised_head = SupervisedHead(head_width, arguments["num_classes"])

    def forward(self, images):
        """Maps images (n, channels, h, w), float in [0, 1], to a dict of endpoints.

        initial_conv, initial_max_pool, block_group1..4 (n, c, h', w'); final_avg_pool and
        proj_head_input (n, feature_dim); proj_head_output (n, proj_out_dim) in the pretraining
        form; logits_sup (n, classes) where there is a supervised head.
        """
        endpoints = self.backbone(images, self._frozen_blocks)
        hidden = [endpoints["final_avg_pool"]]
        for layer in self.projection_head:
            hidden.append(layer(hidden[-1]))
        endpoints["proj_head_input"] = hidden[0]
        head_input = hidden[-1]
        if self._pretraining:
            endpoints["proj_head_output"] = hidden[-1]
            head_input = hidden[0].detach()
        if hasattr(self, "supervised_head"):
            endpoints["logits_sup"] = self.supervised_head(head_input)
        return endpoints

    def train(self, mode: bool = True):
        """Sets the mode; frozen blocks stay in inference mode, and their statistics at rest."""
        super().train(mode)
        for block in range(self._frozen_blocks + 1):
            name = f"block_group{block}" if block else "stem"
            getattr(self.backbone, name).eval()
        return self


def state_name(our_name: str) -> str:
    """Returns the name in the state_dict of a weight under our name."""
    *path, kind = our_name.split("/")
    return ".".join([*path, _ROLES[kind]])


def our_name(state_name: str) -> str:
    """Returns our name of an entry of the state_dict."""
    *path, kind = state_name.split(".")
    is_norm = "bn" in path[-1]
    return "/".join([*path, (is_norm and _NORM_ROLES.get(kind)) or _OTHER_ROLES[kind]])


def axes_from_torch(name: str, rank: int) -> tuple[int, ...] | None:
    """Returns the permutation that turns PyTorch's weight into ours; None for none."""
    if not name.endswith("/kernel"):
        return None
    return (2, 3, 1, 0) if rank == 4 else (1, 0)


def load_weights(model: SimCLR, weights: Mapping[str, np.ndarray]) -> None:
    """Fills a network with weights under our names, all of them and no others.

    Raises:
        ValueError: names or shapes don't fit.
    """
    wanted = {our_name(name): tensor for name, tensor in model.state_dict().items()}
    if wanted.keys() != set(weights):
        odd = sorted(wanted.keys() ^ set(weights))
        raise ValueError(
            "The weights must be those of the network, by name. Received: "
            f"{len(odd)} names on one side only, such as {odd[0]}. Give the network the "
            "architecture of the weights."
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            value = np.asarray(weights[name])
            axes = axes_from_torch(name, value.ndim)
            value = value if axes is None else np.transpose(value, np.argsort(axes))
            if tuple(tensor.shape) != value.shape:
                raise ValueError(
                    f"Shapes must agree. Received: {name} of shape {value.shape}, wanted "
                    f"{tuple(tensor.shape)}. Give the network the architecture of the weights."
                )
            tensor.copy_(torch.from_numpy(np.array(value, order="C")))


def weights(model: SimCLR) -> dict[str, np.ndarray]:
    """Returns our name -> array, with our order of axes, of all weights of a network."""
    found = {}
    for name, tensor in model.state_dict().items():
        name, value = our_name(name), tensor.detach().cpu().numpy()
        axes = axes_from_torch(name, value.ndim)
        found[name] = np.ascontiguousarray(value if axes is None else np.transpose(value, axes))
    return found
