"""SimCLR: a ResNet, a projection head and a linear classifier that return one dict of endpoints.

SimCLRv2 (Chen et al. 2020, section 2) pretrains with a deep projection head and fine-tunes from
one of its middle layers: `ft_proj_selector` names that layer.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tf2 import architecture, errors, modes, resnet


class ProjectionLayer(keras.layers.Layer):
    """Dense, then batch norm, then ReLU unless it is the head's last layer.

    As in the reference: the dense part has no bias, and the last layer's batch norm no beta.
    """

    def __init__(self, in_features, features, *, last, norm, dtype=None):
        super().__init__(dtype=dtype)
        self._last = last
        self.dense = _dense(in_features, features, use_bias=False, dtype=dtype)
        self.bn = norm(features, center=not last)
        self.built = True

    def call(self, inputs, training=False):
        """Maps features (n, in_features) to (n, features)."""
        x = self.bn(self.dense(inputs), training=training)
        return x if self._last else tf.nn.relu(x)


class SupervisedHead(keras.layers.Layer):
    """The linear classifier: features (n, d) -> logits (n, classes)."""

    def __init__(self, in_features: int, num_classes: int, dtype=None):
        super().__init__(dtype=dtype)
        self.dense = _dense(in_features, num_classes, use_bias=True, dtype=dtype)
        self.built = True

    def call(self, inputs):
        """Maps features (n, in_features) to logits (n, num_classes)."""
        return self.dense(inputs)

    def zero_init(self):
        """Sets kernel and bias to zero, whatever they were restored from."""
        for weight in self.dense.weights:
            weight.assign(tf.zeros(weight.shape, weight.dtype))


def _dense(in_features, features, *, use_bias, dtype):
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
        depth, width_multiplier, sk_ratio, se_ratio, stem, channels: see `resnet.ResNet`.
        num_classes: 0 leaves the supervised head out.
        proj_head_mode: 'none' passes features through, 'linear' has one layer, 'nonlinear'
            `num_proj_layers` (3 in SimCLRv2; its last one is linear).
        proj_out_dim: width of the head's output.
        fine_tune_after_block: freezes the backbone up to that block: 0 stem, 1-4 groups.
        batch_norm_decay: decay of the moving statistics.
        global_bn: whether batch norm spans all replicas.
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
        dtype=None,
    ):
        super().__init__(dtype=dtype)
        selector = _check_selector(proj_head_mode, num_proj_layers, ft_proj_selector)
        if ft_proj_selector is None and fine_tune_after_block >= 0:
            raise errors.UserError(
                "Blocks can be frozen in fine-tuning only. Received: "
                f"fine_tune_after_block={fine_tune_after_block} without ft_proj_selector. "
                "Use fine_tune_after_block=-1 for pretraining."
            )
        self._hyperparameters = {
            "depth": depth, "width_multiplier": width_multiplier, "sk_ratio": sk_ratio,
            "se_ratio": se_ratio, "num_classes": num_classes, "proj_head_mode": proj_head_mode,
            "num_proj_layers": num_proj_layers, "proj_out_dim": proj_out_dim,
            "ft_proj_selector": selector, "fine_tune_after_block": fine_tune_after_block,
            "stem": stem, "channels": channels, "batch_norm_decay": batch_norm_decay,
            "global_bn": global_bn,
        }  # fmt: skip
        self._selector = selector
        self.backbone = resnet.ResNet(
            depth, width_multiplier=width_multiplier, sk_ratio=sk_ratio, se_ratio=se_ratio,
            stem=stem, channels=channels, frozen_blocks=fine_tune_after_block,
            batch_norm_decay=batch_norm_decay, global_bn=global_bn, dtype=dtype,
        )  # fmt: skip

        def norm(features, **kwargs):
            return resnet.BatchNormalization(
                features,
                momentum=batch_norm_decay,
                synchronized=global_bn,
                dtype=dtype,
                **kwargs,
            )

        layers = architecture.num_hidden(proj_head_mode, num_proj_layers)
        width = self.backbone.feature_dim
        head = []
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
    def hyperparameters(self) -> dict:
        """The constructor's arguments, ready for JSON: `SimCLR(**model.hyperparameters)`."""
        return dict(self._hyperparameters)

    def call(self, images, training=False):
        """Maps images (n, h, w, channels), float in [0, 1], to a dict of endpoints.

        The backbone's endpoints (see `resnet.ResNet`); proj_head_input (n, feature_dim);
        proj_head_output (n, proj_out_dim) in the pretraining form; logits_sup (n, classes) where
        there is a supervised head.
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

    def project(self, features, training=False) -> list:
        """Returns the projection head's layers: features (n, d) first, the output last."""
        hidden = [features]
        for layer in self.projection_head:
            hidden.append(layer(hidden[-1], training=training))
        return hidden


def _check_selector(proj_head_mode, num_proj_layers, ft_proj_selector) -> int | None:
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


def build_model(config, *, num_classes: int, channels: int = 3) -> SimCLR:
    """Returns the network that a configuration trains.

    Args:
        config: the `config.Config`.
        num_classes: of the data; 0 where it has no labels.
        channels: of the images as the network sees them.
    """
    pretraining = modes.get(config.train_mode).pretrains
    if pretraining and not config.lineareval_while_pretraining:
        num_classes = 0
    return SimCLR(
        depth=config.resnet_depth,
        width_multiplier=config.width_multiplier,
        sk_ratio=config.sk_ratio,
        se_ratio=config.se_ratio,
        num_classes=num_classes,
        proj_head_mode=config.proj_head_mode,
        num_proj_layers=config.num_proj_layers,
        proj_out_dim=config.proj_out_dim,
        ft_proj_selector=None if pretraining else config.ft_proj_selector,
        fine_tune_after_block=-1 if pretraining else config.fine_tune_after_block,
        stem=config.stem_name,
        channels=channels,
        batch_norm_decay=config.batch_norm_decay,
        global_bn=config.global_bn,
        dtype="mixed_bfloat16" if config.mixed_precision == "bf16" else None,
    )
