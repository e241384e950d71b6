"""The network in PyTorch: the same numbers from the same weights, at any image size.

Images are (n, channels, h, w), float in [0, 1]; endpoints keep that order of axes. Unlike in the
usual PyTorch ResNets the padding is TensorFlow's (see `torch_layers`), every first block of a group
has a projection shortcut, depths 18 and 34 too, and the last projection layer's batch norm has no
bias.

`load_weights` and `weights` move values between a network and our names (see `torch_names`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from checkpoints_tools import torch_layers, torch_names
from tf2 import architecture as architecture_lib
from tf2 import errors


class ResNet(nn.Module):
    """The backbone; its arguments are those of `tf2.resnet.ResNet`."""

    def __init__(
        self,
        depth: int,
        *,
        width_multiplier: float,
        sk_ratio: float,
        se_ratio: float,
        stem: str,
        channels: int,
        norm: torch_layers.Norm,
    ):
        super().__init__()
        bottleneck, sizes = architecture_lib.DEPTHS[depth]
        base = width = int(round(64 * width_multiplier))
        self.stem = torch_layers.Stem(channels, base, kind=stem, resnet_d=sk_ratio > 0, norm=norm)
        for group, blocks in enumerate(sizes):
            filters = base * 2**group
            group_blocks = nn.ModuleList()
            for index in range(blocks):
                stride = 2 if group > 0 and index == 0 else 1
                group_blocks.append(
                    torch_layers.Block(
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
            setattr(self, f"block_group{group + 1}", group_blocks)
        self.feature_dim = width

    def forward(self, images: torch.Tensor, frozen_blocks: int = -1) -> dict[str, torch.Tensor]:
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

    def __init__(self, in_features: int, features: int, *, last: bool, norm: torch_layers.Norm):
        super().__init__()
        self._last = last
        self.dense = nn.Linear(in_features, features, bias=False)
        self.bn = norm(features, center=not last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (n, in_features) to (n, features)."""
        x = self.bn(self.dense(x))
        return x if self._last else functional.relu(x)


class SupervisedHead(nn.Module):
    """The linear classifier: features (n, d) -> logits (n, classes)."""

    def __init__(self, in_features: int, num_classes: int):
        super().__init__()
        self.dense = nn.Linear(in_features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps features to logits."""
        return self.dense(x)


class SimCLR(nn.Module):
    """Backbone, projection head and supervised head: `SimCLR(**tf_model.hyperparameters)`.

    The arguments are those of `tf2.model.SimCLR`. `global_bn` has no effect: batch norm
    spans one process.
    """

    def __init__(self, **architecture: Any):
        super().__init__()
        unknown = set(architecture) - set(architecture_lib.DEFAULTS)
        if unknown:
            raise TypeError(f"SimCLR has no arguments {', '.join(sorted(unknown))}.")
        arguments = {**architecture_lib.DEFAULTS, **architecture}
        self.hyperparameters = arguments

        def norm(features: int, **kwargs: Any) -> nn.Module:
            return torch_layers.BatchNorm(features, decay=arguments["batch_norm_decay"], **kwargs)

        names = ("width_multiplier", "sk_ratio", "se_ratio", "stem", "channels")
        self.backbone = ResNet(
            arguments["depth"], norm=norm, **{name: arguments[name] for name in names}
        )
        self._frozen_blocks = arguments["fine_tune_after_block"]
        self._pretraining = arguments["ft_proj_selector"] is None
        layers, existing = architecture_lib.projection_layers(arguments)
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

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
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

    def train(self, mode: bool = True) -> SimCLR:
        """Sets the mode; frozen blocks stay in inference mode, and keep their statistics."""
        super().train(mode)
        for block in range(self._frozen_blocks + 1):
            name = f"block_group{block}" if block else "stem"
            getattr(self.backbone, name).eval()
        return self


def load_weights(model: SimCLR, weights: Mapping[str, np.ndarray]) -> None:
    """Loads weights under our names into a network, all of them and no others.

    Raises:
        errors.UserError: names or shapes differ.
    """
    wanted = {torch_names.our_name(name): tensor for name, tensor in model.state_dict().items()}
    if wanted.keys() != set(weights):
        differing = sorted(wanted.keys() ^ set(weights))
        raise errors.UserError(
            "The weights must be those of the network, by name. Received: "
            f"{len(differing)} names on one side only, such as {differing[0]}. Give the network "
            "the architecture of the weights."
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            value = np.asarray(weights[name])
            axes = torch_names.axes_from_torch(name, value.ndim)
            value = value if axes is None else np.transpose(value, np.argsort(axes))
            if tuple(tensor.shape) != value.shape:
                raise errors.UserError(
                    f"Shapes must agree. Received: {name} of shape {value.shape}, wanted "
                    f"{tuple(tensor.shape)}. Give the network the architecture of the weights."
                )
            tensor.copy_(torch.from_numpy(np.array(value, order="C")))


def weights(model: SimCLR) -> dict[str, np.ndarray]:
    """Returns our name -> array, in our order of axes, for all weights of a network."""
    values = {}
    for name, tensor in model.state_dict().items():
        name, value = torch_names.our_name(name), tensor.detach().cpu().numpy()
        axes = torch_names.axes_from_torch(name, value.ndim)
        values[name] = np.ascontiguousarray(value if axes is None else np.transpose(value, axes))
    return values
