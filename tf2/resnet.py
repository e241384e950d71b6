"""ResNets of SimCLR and SimCLRv2: any width, selective kernels, squeeze-and-excitation.

Shapes: n images, h x w pixels, c channels, always (n, h, w, c). Every layer creates its
variables when constructed, in the reference's order of creation.

Sources: He et al. 2015 (ResNet), He et al. 2018 (ResNet-D stem and shortcut), Hu et al. 2017
(squeeze-and-excitation), Li et al. 2019 (selective kernels), Chen et al. 2020b (SimCLRv2).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf2 import architecture, compat, errors

DEPTHS = architecture.DEPTHS


# Builds a convolution or batch norm from its sizes; the rest is bound with functools.partial.
MakeLayer = Callable[..., keras.layers.Layer]


class BatchNormalization(keras.layers.Layer):
    """Batch norm over all axes but the last, with statistics shared by all replicas.

    One replica runs the fused kernel. Several replicas exchange their local mean and variance in
    one all-reduce, and the result equals one replica with the whole batch. Always float32 inside.

    As in the reference: the moving variance stores the biased variance (the fused kernel's own is
    unbiased), epsilon is 1e-5.

    Args:
        channels: size of the last axis.
        momentum: decay of the moving statistics.
        center: whether there is a beta.
        gamma_initializer: 'zeros' makes a residual branch start as the identity.
        synchronized: whether replicas share their statistics.
    """

    def __init__(
        self,
        channels: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        center: bool = True,
        gamma_initializer: str = "ones",
        synchronized: bool = True,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        self._momentum = momentum
        self._epsilon = epsilon
        self._synchronized = synchronized
        self._channels = channels
        shape = (channels,)
        self.gamma = compat.add_float32_weight(self, "gamma", shape, gamma_initializer)
        self.beta = compat.add_float32_weight(self, "beta", shape, "zeros") if center else None
        self.moving_mean = compat.add_moving_statistic(self, "moving_mean", shape, "zeros")
        self.moving_variance = compat.add_moving_statistic(self, "moving_variance", shape, "ones")
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalizes inputs (n, c) or (n, h, w, c) over all axes but the last."""
        gamma = tf.convert_to_tensor(self.gamma)
        beta = tf.zeros_like(gamma) if self.beta is None else tf.convert_to_tensor(self.beta)
        if training and self._synchronized and _replicas() > 1:
            return self._normalize_over_replicas(inputs, gamma, beta)
        rank = inputs.shape.rank
        x = inputs if rank == 4 else inputs[:, tf.newaxis, tf.newaxis, :]
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=[] if training else tf.convert_to_tensor(self.moving_mean),
            variance=[] if training else tf.convert_to_tensor(self.moving_variance),
            epsilon=self._epsilon,
            is_training=bool(training),
        )
        if training:
            count = tf.cast(tf.size(x) // self._channels, tf.float32)
            biased = variance * (tf.maximum(count - 1.0, 1.0) / count)
            self._update(mean, biased)
        return y if rank == 4 else tf.reshape(y, tf.shape(inputs))

    def _normalize_over_replicas(
        self, inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tf.Tensor:
        """Normalizes with the moments of the batches of all replicas together."""
        x = tf.cast(inputs, tf.float32)
        mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)))
        context = tf.distribute.get_replica_context()
        # The variance of a union of equal parts: mean of the variances + variance of the means.
        sums = context.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.stack([mean, variance, tf.square(mean)])
        )
        mean, within, mean_square = tf.unstack(sums / context.num_replicas_in_sync)
        variance = within + mean_square - tf.square(mean)
        self._update(mean, variance)
        y = tf.nn.batch_normalization(x, mean, variance, beta, gamma, self._epsilon)
        return tf.cast(y, inputs.dtype)

    def _update(self, mean: tf.Tensor, variance: tf.Tensor) -> None:
        for moving, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            moving = compat.unwrap(moving)
            moving.assign_sub((moving - tf.stop_gradient(value)) * (1.0 - self._momentum))


def _replicas() -> int:
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


class Conv2D(keras.layers.Conv2D):
    """Convolution whose padding depends on the kernel alone, not on the image size.

    As in the reference: strides above 1 pad (kernel - 1) zeros, half of them (rounded down) in
    front, where TensorFlow's own SAME would depend on the parity of the input.

    A 1x1 kernel with strides drops the rows and columns that it would skip, then runs without
    strides: the same numbers, and oneDNN's gradient of the strided form writes out of bounds for
    8 channels and an odd batch (seen with TensorFlow 2.15.1 and 2.21).
    """

    def __init__(
        self, in_channels: int, filters: int, kernel_size: int, strides: int = 1, **kw: Any
    ):
        skip = strides if kernel_size == 1 else 1
        super().__init__(
            filters,
            kernel_size,
            strides=strides // skip,
            padding="same" if strides == 1 else "valid",
            kernel_initializer=keras.initializers.VarianceScaling(),
            **{"use_bias": False, **kw},
        )
        self._skip = skip
        self._fixed_padding = kernel_size - 1 if strides > 1 else 0
        self.build((None, None, None, in_channels))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps (n, h, w, in_channels) to (n, h / strides, w / strides, filters)."""
        if self._skip > 1:
            inputs = inputs[:, :: self._skip, :: self._skip]
        return super().call(fixed_padding(inputs, self._fixed_padding))


def fixed_padding(images: tf.Tensor, total: int) -> tf.Tensor:
    """Pads height and width with `total` zeros, total // 2 of them in front."""
    if total == 0:
        return images
    front = total // 2
    pads = [front, total - front]
    return tf.pad(images, [[0, 0], pads, pads, [0, 0]])


class Shortcut(keras.layers.Layer):
    """Projection shortcut; ResNet-D's (average pool, then 1x1) where selective kernels are on."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        strides: int,
        *,
        resnet_d: bool,
        conv: MakeLayer,
        norm: MakeLayer,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        self._pool_strides = strides if resnet_d else 0
        self.conv = conv(in_channels, filters, 1, 1 if resnet_d else strides)
        self.bn = norm(filters)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps (n, h, w, in_channels) to (n, h / strides, w / strides, filters)."""
        x = inputs
        if self._pool_strides > 1:
            x = tf.nn.avg_pool2d(fixed_padding(x, 1), 2, self._pool_strides, "VALID")
        elif self._pool_strides == 1:
            x = tf.nn.avg_pool2d(x, 2, 1, "SAME")
        return self.bn(self.conv(x), training=training)


class SelectiveKernel(keras.layers.Layer):
    """Two 3x3 paths mixed per channel by attention (Li et al. 2019; SimCLRv2 section 2)."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        strides: int,
        *,
        sk_ratio: float,
        conv: MakeLayer,
        norm: MakeLayer,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        squeezed = max(int(filters * sk_ratio), 32)
        self.conv = conv(in_channels, 2 * filters, 3, strides)
        self.bn = norm(2 * filters)
        self.squeeze = conv(filters, squeezed, 1)
        self.squeeze_bn = norm(squeezed)
        self.mix = conv(squeezed, 2 * filters, 1)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps (n, h, w, in_channels) to (n, h / strides, w / strides, filters)."""
        x = tf.nn.relu(self.bn(self.conv(inputs), training=training))
        first, second = tf.split(x, 2, axis=-1)  # each (n, h, w, filters)
        pooled = tf.reduce_mean(first + second, [1, 2], keepdims=True)
        squeezed = tf.nn.relu(self.squeeze_bn(self.squeeze(pooled), training=training))
        # softmax over two paths: the sigmoid of the difference of their logits
        logit_first, logit_second = tf.split(self.mix(squeezed), 2, axis=-1)
        attention = tf.sigmoid(logit_first - logit_second)  # (n, 1, 1, filters)
        return attention * first + (1.0 - attention) * second


class SqueezeExcitation(keras.layers.Layer):
    """Scales channels by a gate computed from their means (Hu et al. 2017).

    As in the reference: the bottleneck width is a share of the block's inner `filters`, not of
    the channels that are gated.
    """

    def __init__(
        self, channels: int, filters: int, *, se_ratio: float, conv: MakeLayer, dtype: Any = None
    ):
        super().__init__(dtype=dtype)
        reduced = max(1, int(filters * se_ratio))
        self.reduce = conv(channels, reduced, 1, use_bias=True)
        self.expand = conv(reduced, channels, 1, use_bias=True)
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Gates inputs (n, h, w, channels)."""
        pooled = tf.reduce_mean(inputs, [1, 2], keepdims=True)
        return tf.sigmoid(self.expand(tf.nn.relu(self.reduce(pooled)))) * inputs


class Block(keras.layers.Layer):
    """A residual block: two 3x3 convolutions, or 1x1 - 3x3 - 1x1 with a fourfold exit."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        strides: int,
        *,
        project: bool,
        bottleneck: bool,
        sk_ratio: float,
        se_ratio: float,
        conv: MakeLayer,
        norm: MakeLayer,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        out_channels = filters * 4 if bottleneck else filters
        last_norm = functools.partial(norm, gamma_initializer="zeros")
        if project:
            self.shortcut = Shortcut(
                in_channels, out_channels, strides,
                resnet_d=sk_ratio > 0, conv=conv, norm=norm, dtype=dtype,
            )  # fmt: skip
        if bottleneck:
            self.conv1 = conv(in_channels, filters, 1)
            self.bn1 = norm(filters)
            if sk_ratio > 0:
                self.sk = SelectiveKernel(
                    filters,
                    filters,
                    strides,
                    sk_ratio=sk_ratio,
                    conv=conv,
                    norm=norm,
                    dtype=dtype,
                )
            else:
                self.conv2 = conv(filters, filters, 3, strides)
                self.bn2 = norm(filters)
            self.conv3 = conv(filters, out_channels, 1)
            self.bn3 = last_norm(out_channels)
        else:
            self.conv1 = conv(in_channels, filters, 3, strides)
            self.bn1 = norm(filters)
            self.conv2 = conv(filters, filters, 3)
            self.bn2 = last_norm(filters)
        if se_ratio > 0:
            self.se = SqueezeExcitation(
                out_channels, filters, se_ratio=se_ratio, conv=conv, dtype=dtype
            )
        self._bottleneck = bottleneck
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps (n, h, w, in_channels) to (n, h / strides, w / strides, out_channels)."""
        shortcut = getattr(self, "shortcut", None)
        residual = inputs if shortcut is None else shortcut(inputs, training=training)
        x = tf.nn.relu(self.bn1(self.conv1(inputs), training=training))
        if not self._bottleneck:
            x = self.bn2(self.conv2(x), training=training)
        else:
            if hasattr(self, "sk"):
                x = self.sk(x, training=training)
            else:
                x = tf.nn.relu(self.bn2(self.conv2(x), training=training))
            x = self.bn3(self.conv3(x), training=training)
        if hasattr(self, "se"):
            x = self.se(x)
        return tf.nn.relu(x + residual)


class Stem(keras.layers.Layer):
    """The entry of the network, ending in the endpoints initial_conv and initial_max_pool.

    'imagenet': 7x7/2, or three 3x3 (ResNet-D) where selective kernels are on, then 3x3/2 max
    pooling. 'cifar': 3x3/1 and no pooling.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        *,
        kind: str,
        resnet_d: bool,
        conv: MakeLayer,
        norm: MakeLayer,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        self._pool = kind == "imagenet"
        self._deep = kind == "imagenet" and resnet_d
        if self._deep:
            half = filters // 2
            self.conv1 = conv(channels, half, 3, 2)
            self.bn1 = norm(half)
            self.conv2 = conv(half, half, 3)
            self.bn2 = norm(half)
            self.conv = conv(half, filters, 3)
        elif kind == "imagenet":
            self.conv = conv(channels, filters, 7, 2)
        else:
            self.conv = conv(channels, filters, 3)
        self.bn = norm(filters)
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Maps images (n, h, w, channels) to the two endpoints."""
        x = images
        if self._deep:
            x = tf.nn.relu(self.bn1(self.conv1(x), training=training))
            x = tf.nn.relu(self.bn2(self.conv2(x), training=training))
        initial_conv = x = self.conv(x)
        x = tf.nn.relu(self.bn(x, training=training))
        if self._pool:
            x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        return {"initial_conv": initial_conv, "initial_max_pool": x}


@contextlib.contextmanager
def kept(moving_averages: Iterable[tf.Variable]) -> Iterator[None]:
    """Gives moving averages back the values that they had before the `with` block."""
    before = [(average, tf.identity(average)) for average in moving_averages]
    yield
    for average, value in before:
        average.assign(value)


def recomputed(block: keras.layers.Layer) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function x -> block(x, training=True) that computes twice to save memory.

    The backward pass computes the block's activations again from its input, which alone is held
    until then (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost).
    """
    moving_averages = [compat.unwrap(v) for v in block.non_trainable_weights]
    calls = itertools.count()

    def call(x: tf.Tensor) -> tf.Tensor:
        if next(calls) == 0:
            return block(x, training=True)
        with kept(moving_averages):
            return block(x, training=True)

    return tf.recompute_grad(call)


class ResNet(keras.layers.Layer):
    """ResNet that returns every named intermediate.

    Args:
        depth: 18, 34, 50, 101, 152 or 200.
        width_multiplier: scales every layer's filters; 1, 2, 3, 4 in the papers, fractions such
            as 0.25 for small machines.
        sk_ratio: above 0, selective kernels in bottleneck blocks (0.0625 in SimCLRv2) and the
            ResNet-D stem and shortcut. As in the reference: basic blocks (depth 18, 34) get the
            ResNet-D shortcut only.
        se_ratio: above 0, squeeze-and-excitation with that reduction.
        stem: 'imagenet' or 'cifar'.
        channels: of the images.
        frozen_blocks: blocks 0 (stem) to this one are frozen: no gradient passes, and their batch
            norm runs in inference mode. -1 freezes none.
        batch_norm_decay, global_bn: see `BatchNormalization`.

    Attributes:
        recompute: whether training computes each block's activations twice; see `recomputed`.

    Raises:
        errors.UserError: the depth or stem is unknown, or the width leaves no filter.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        width_multiplier: float = 1,
        sk_ratio: float = 0.0,
        se_ratio: float = 0.0,
        stem: str = "imagenet",
        channels: int = 3,
        frozen_blocks: int = -1,
        batch_norm_decay: float = 0.9,
        global_bn: bool = True,
        dtype: Any = None,
    ):
        super().__init__(dtype=dtype)
        if depth not in DEPTHS:
            raise errors.UserError(
                f"A ResNet's depth must be one of {', '.join(map(str, DEPTHS))}. "
                f"Received: depth={depth}."
            )
        if stem not in architecture.STEMS:
            raise errors.UserError(f"stem must be 'imagenet' or 'cifar'. Received: stem={stem!r}.")
        base = int(round(64 * width_multiplier))
        if base < 2:
            raise errors.UserError(
                "The first layer must keep at least 2 of its 64 filters. Received: "
                f"width_multiplier={width_multiplier}. Use 1/32 or more."
            )
        bottleneck, sizes = DEPTHS[depth]
        conv = functools.partial(Conv2D, dtype=dtype)
        norm = functools.partial(
            BatchNormalization,
            momentum=batch_norm_decay,
            synchronized=global_bn,
            dtype=dtype,
        )
        self._frozen_blocks = frozen_blocks
        self.stem = Stem(
            channels,
            base,
            kind=stem,
            resnet_d=sk_ratio > 0,
            conv=conv,
            norm=norm,
            dtype=dtype,
        )
        width = base
        for group, blocks in enumerate(sizes):
            filters = base * 2**group
            layers = []
            for index in range(blocks):
                strides = 2 if group > 0 and index == 0 else 1
                layers.append(
                    Block(
                        width,
                        filters,
                        strides,
                        project=index == 0,
                        bottleneck=bottleneck,
                        sk_ratio=sk_ratio,
                        se_ratio=se_ratio,
                        conv=conv,
                        norm=norm,
                        dtype=dtype,
                    )  # fmt: skip
                )
                width = filters * 4 if bottleneck else filters
            setattr(self, f"block_group{group + 1}", layers)
        self._feature_dim = width
        self.recompute = False
        self.built = True

    @property
    def feature_dim(self) -> int:
        """Width of `final_avg_pool`."""
        return self._feature_dim

    def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Maps images (n, h, w, channels) in [0, 1] to a dict of endpoints.

        initial_conv (before batch norm), initial_max_pool, block_group1..4: (n, h', w', c);
        final_avg_pool: (n, feature_dim).
        """
        endpoints = self.stem(images, training=training and self._frozen_blocks < 0)
        x = endpoints["initial_max_pool"]
        for block in range(5):
            if block > 0:
                for layer in getattr(self, f"block_group{block}"):
                    trains = training and self._frozen_blocks < block
                    again = trains and self.recompute
                    x = recomputed(layer)(x) if again else layer(x, training=trains)
                endpoints[f"block_group{block}"] = x
            if block == self._frozen_blocks:
                x = tf.stop_gradient(x)
        endpoints["final_avg_pool"] = tf.reduce_mean(x, [1, 2])
        return endpoints
