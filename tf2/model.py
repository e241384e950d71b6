"""SimCLR: a backbone, a projection head and a linear classifier that return one dict of endpoints.

SimCLRv2 (Chen et al. 2020, section 2) pretrains with a deep projection head and fine-tunes from
one of its middle layers: `ft_proj_selector` names that layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf2 import architecture, backbones, errors, resnet
from tf2 import config as config_lib


class ProjectionLayer(keras.layers.Layer):
    """Dense, then batch norm, then ReLU unless it is the head's last layer.

    As in the reference: the dense part has no bias, and the last layer's batch norm no beta.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        last: bool,
        norm: Callable[..., resnet.BatchNormalization],
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        self._last = last
        self.dense = _dense(in_features, features, use_bias=False, dtype=dtype)
        self.bn = norm(features, center=not last)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps features (n, in_features) to (n, features)."""
        x = self.bn(self.dense(inputs), training=training)
        return x if self._last else tf.nn.relu(x)


class SupervisedHead(keras.layers.Layer):
    """The linear classifier: features (n, d) -> logits (n, classes)."""

    def __init__(self, in_features: int, num_classes: int, dtype: Any = None):
        super().__init__(dtype=dtype)
        self.dense = _dense(in_features, num_classes, use_bias=True, dtype=dtype)
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps features (n, in_features) to logits (n, num_classes)."""
        return self.dense(inputs)

    def zero_init(self) -> None:
        """Sets kernel and bias to zero."""
        for weight in self.dense.weights:
            weight.assign(tf.zeros(weight.shape, weight.dtype))


def _dense(in_features: int, features: int, *, use_bias: bool, dtype: Any) -> keras.layers.Dense:
    layer = keras.layers.Dense(
        features,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype=dtype,
    )
    layer.build((None, in_features))
    return layer


class SimCLR(keras.Model):
    """Backbone, projection head and supervised head.

    Two forms, by `ft_proj_selector`:

    - None, the pretraining form: the whole projection head runs, and the classifier reads the
      backbone's features behind a stop_gradient (the online linear evaluation).
    - k, the fine-tuning form: the classifier reads layer k of the projection head (0 the
      backbone's features, -1 the last layer); layers after k do not exist. SimCLRv2 section 2.

    Args:
        depth: of the ResNet: 18, 34, 50, 101, 152 or 200.
        width_multiplier: scales every layer's filters; 1 to 4, or a fraction such as 0.25.
        sk_ratio: above 0, selective kernels (0.0625 in SimCLRv2), and the ResNet-D stem and
            shortcut.
        se_ratio: above 0, squeeze-and-excitation with that reduction.
        stem: 'imagenet' (7x7, stride 2, pooling) or 'cifar' (3x3, stride 1).
        channels: of the images.
        num_classes: 0 leaves the supervised head out.
        ft_proj_selector: None, or the layer of the projection head; see above.
        proj_head_mode: 'none' passes features through, 'linear' has one layer, 'nonlinear'
            `num_proj_layers` (3 in SimCLRv2; its last one is linear).
        proj_out_dim: width of the head's output.
        fine_tune_after_block: freezes the backbone up to that block: 0 stem, 1-4 groups.
        batch_norm_decay: decay of the moving statistics.
        global_bn: whether batch norm spans all replicas.
        backbone: a name in `backbones.BACKBONES`.
        dtype: Keras dtype or policy, e.g. 'mixed_bfloat16'.

    Raises:
        errors.UserError: an argument is out of its range.
    """

    def __init__(
        self,
        depth: int = 50,
        width_multiplier: float = 1,
        sk_ratio: float = 0.0,
        se_ratio: float = 0.0,
        num_classes: int = 1000,
        *,
        proj_head_mode: str = "nonlinear",
        num_proj_layers: int = 3,
        proj_out_dim: int = 128,
        ft_proj_selector: int | None = None,
        fine_tune_after_block: int = -1,
        stem: str = "imagenet",
        channels: int = 3,
        batch_norm_decay: float = 0.9,
        global_bn: bool = True,
        backbone: str = architecture.DEFAULT_BACKBONE,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        selector = _check_selector(proj_head_mode, num_proj_layers, ft_proj_selector)
        if ft_proj_selector is None and fine_tune_after_block >= 0:
            raise errors.UserError(
                "Blocks can be frozen in fine-tuning only. Received: "
                f"fine_tune_after_block={fine_tune_after_block} without ft_proj_selector. "
                "Use fine_tune_after_block=-1 for pretraining."
            )
        entry = backbones.find_backbone(backbone)
        described = {
            "depth": depth, "width_multiplier": width_multiplier, "sk_ratio": sk_ratio,
            "se_ratio": se_ratio, "num_classes": num_classes, "proj_head_mode": proj_head_mode,
            "num_proj_layers": num_proj_layers, "proj_out_dim": proj_out_dim,
            "ft_proj_selector": selector, "fine_tune_after_block": fine_tune_after_block,
            "stem": stem, "channels": channels, "batch_norm_decay": batch_norm_decay,
            "global_bn": global_bn,
        }  # fmt: skip
        for name in backbones.unused_arguments(backbone):
            del described[name]
        if backbone != architecture.DEFAULT_BACKBONE:  # without it, as before there were others
            described["backbone"] = backbone
        self._hyperparameters = described
        self._selector = selector
        self.backbone = entry.build(
            **{name: described[name] for name in entry.arguments},
            channels=channels, frozen_blocks=fine_tune_after_block,
            batch_norm_decay=batch_norm_decay, global_bn=global_bn, dtype=dtype,
        )  # fmt: skip

        def norm(features: int, **kwargs: Any) -> resnet.BatchNormalization:
            return resnet.BatchNormalization(
                features,
                momentum=batch_norm_decay,
                synchronized=global_bn,
                dtype=dtype,
                **kwargs,
            )

        layers = architecture.num_hidden(proj_head_mode, num_proj_layers)
        width = self.backbone.feature_dim
        head: list[ProjectionLayer] = []
        for j in range(layers if selector is None else selector):
            last = j == layers - 1
            features = proj_out_dim if last else width
            head.append(ProjectionLayer(width, features, last=last, norm=norm, dtype=dtype))
            width = features
        self.projection_head = head
        if num_classes:
            features = self.backbone.feature_dim if selector is None else width
            self.supervised_head = SupervisedHead(features, num_classes, dtype=dtype)
        self.built = True

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON: `SimCLR(**model.hyperparameters)`."""
        return dict(self._hyperparameters)

    def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Maps images (n, h, w, channels), float in [0, 1], to a dict of endpoints.

        The backbone's endpoints, such as those of `resnet.ResNet`; proj_head_input (n,
        feature_dim); proj_head_output (n, proj_out_dim) in the pretraining form; logits_sup (n,
        classes) where there is a supervised head.
        """
        endpoints = self.backbone(images, training=training)
        hidden = self.project(endpoints["final_avg_pool"], training=training)
        endpoints["proj_head_input"] = hidden[0]
        head_input = hidden[-1]
        if self._selector is None:
            endpoints["proj_head_output"] = hidden[-1]
            head_input = tf.stop_gradient(hidden[0])
        if hasattr(self, "supervised_head"):
            endpoints["logits_sup"] = self.supervised_head(head_input)
        return endpoints

    def project(self, features: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """Returns the projection head's layers: features (n, d) first, the output last."""
        hidden = [features]
        for layer in self.projection_head:
            hidden.append(layer(hidden[-1], training=training))
        return hidden


def _check_selector(
    proj_head_mode: str, num_proj_layers: int, ft_proj_selector: int | None
) -> int | None:
    """Returns ft_proj_selector with -1 resolved to the last layer."""
    if proj_head_mode not in architecture.PROJ_HEAD_MODES:
        raise errors.UserError(
            f"proj_head_mode must be one of {', '.join(architecture.PROJ_HEAD_MODES)}. "
            f"Received: proj_head_mode={proj_head_mode!r}."
        )
    if proj_head_mode == "nonlinear" and num_proj_layers < 1:
        raise errors.UserError(
            "A nonlinear projection head needs at least one layer. Received: "
            f"num_proj_layers={num_proj_layers}. Use proj_head_mode='none' for no head."
        )
    layers = architecture.num_hidden(proj_head_mode, num_proj_layers)
    if ft_proj_selector is None:
        return None
    if not -1 <= ft_proj_selector <= layers:
        raise errors.UserError(
            f"ft_proj_selector must be -1 (the last layer) to {layers}, the number of layers of "
            f"the projection head. Received: ft_proj_selector={ft_proj_selector}."
        )
    return layers if ft_proj_selector == -1 else ft_proj_selector


def build_model(config: config_lib.Config, *, num_classes: int, channels: int = 3) -> SimCLR:
    """Returns the network that a configuration trains.

    Args:
        config: the settings of the run.
        num_classes: of the data; 0 where it has no labels.
        channels: of the images as the network sees them.
    """
    model = SimCLR(
        **config.architecture(num_classes, channels),
        dtype="mixed_bfloat16" if config.mixed_precision == "bf16" else None,
    )
    model.backbone.recompute = config.recompute
    return model
