"""The backbone: every depth and width, its parts against plain NumPy, batch norm over replicas."""

import functools

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import compat, resnet, variables
from tf2.parity import network as parity_network

NORM = functools.partial(resnet.BatchNormalization)


def random(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def set_weights(layer, seed=0):
    """Gives every weight of a layer a random value, so that none is neutral."""
    rng = np.random.RandomState(seed)
    for name, v in variables.named_variables(layer).items():
        value = rng.standard_normal(v.shape) * 0.3
        role = variables.role(name)
        v.assign(np.exp(value) if role == "moving_variance" else value + (role == "gamma"))


def numpy_conv(x, kernel, strides, front, back):
    """Convolution in four loops, with zeros in front and behind."""
    x = np.pad(x.astype(np.float64), [(0, 0), (front, back), (front, back), (0, 0)])
    size = kernel.shape[0]
    rows = (x.shape[1] - size) // strides + 1
    columns = (x.shape[2] - size) // strides + 1
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * strides : i * strides + size, j * strides : j * strides + size]
            out[:, i, j] = np.tensordot(patch, kernel, 3)
    return out


@pytest.mark.parametrize("height", [7, 8])
@pytest.mark.parametrize(
    ("size", "strides", "front", "back"),
    [(1, 1, 0, 0), (3, 1, 1, 1), (3, 2, 1, 1), (7, 2, 3, 3), (1, 2, 0, 0)],
)
def test_convolution_pads_by_its_kernel_alone(size, strides, front, back, height):
    x, layer = random(2, height, height, 3), resnet.Conv2D(3, 4, size, strides)
    expected = numpy_conv(x, layer.kernel.numpy(), strides, front, back)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("depth", resnet.DEPTHS)
@pytest.mark.parametrize("width", [0.25, 2])
def test_a_resnet_has_as_many_layers_as_its_name_says(depth, width):
    """N weighted layers on the main branch: N - 1 convolutions here, and the classifier."""
    with parity_network.shapes_only():
        network = resnet.ResNet(depth, width_multiplier=width)
    kernels = {n: v for n, v in variables.named_variables(network).items() if "kernel" in n}
    main = [n for n in kernels if "shortcut" not in n]
    assert len(main) == depth - 1
    assert len(kernels) - len(main) == 4
    assert kernels["stem/conv/kernel"].shape == (7, 7, 3, int(64 * width))
    assert network.feature_dim == (512 if depth < 50 else 2048) * width


@pytest.mark.parametrize(("stem", "divisors"), [("imagenet", (2, 4)), ("cifar", (1, 1))])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 32)])
def test_endpoints_and_their_shapes(stem, divisors, height, width):
    network = resnet.ResNet(18, width_multiplier=0.125, stem=stem)
    endpoints = network(random(2, height, width, 3))
    assert list(endpoints) == [
        "initial_conv", "initial_max_pool", "block_group1", "block_group2", "block_group3",
        "block_group4", "final_avg_pool",
    ]  # fmt: skip
    conv, pool = divisors
    sides = [conv, pool, pool, 2 * pool, 4 * pool, 8 * pool]
    filters = [8, 8, 8, 16, 32, 64]
    for name, side, f in zip(endpoints, sides, filters, strict=False):
        assert endpoints[name].shape == (2, height // side, width // side, f), name
    assert endpoints["final_avg_pool"].shape == (2, 64)
    np.testing.assert_allclose(
        endpoints["final_avg_pool"], np.mean(endpoints["block_group4"], (1, 2)), rtol=1e-5,
        atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels):
    network = resnet.ResNet(18, width_multiplier=0.125, stem="cifar", channels=channels)
    assert network(random(1, 16, 16, channels))["final_avg_pool"].shape == (1, 64)


def test_a_width_of_a_32nd_is_the_narrowest():
    assert resnet.ResNet(18, width_multiplier=1 / 32).feature_dim == 16
    with pytest.raises(ValueError, match="Received: width_multiplier=0.01"):
        resnet.ResNet(18, width_multiplier=0.01)


def test_wrong_depth_and_stem_are_refused():
    with pytest.raises(ValueError, match="18, 34, 50, 101, 152, 200. Received: depth=42"):
        resnet.ResNet(42)
    with pytest.raises(ValueError, match="Received: stem='mnist'"):
        resnet.ResNet(18, stem="mnist")


def test_residual_branches_start_as_the_identity():
    """The last gamma of each branch is 0 at first: blocks without a shortcut pass through."""
    network = resnet.ResNet(50, width_multiplier=0.125)
    named = variables.named_variables(network)
    zeros = {n for n, v in named.items() if "gamma" in n and not np.any(v.numpy())}
    assert zeros == {n for n in named if n.endswith("bn3/gamma")}
    block = network.block_group1[1]
    x = np.abs(random(2, 8, 8, 32))
    np.testing.assert_array_equal(block(x), x)


# --- Parts, in NumPy ---------------------------------------------------------------------------


def numpy_norm(x, layer):
    """Batch norm over the batch, in float64."""
    x = np.asarray(x, np.float64)
    axes = tuple(range(x.ndim - 1))
    y = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * layer.gamma.numpy()
    return y + (0 if layer.beta is None else layer.beta.numpy())


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 4, 4)])
def test_batch_norm_and_its_moving_statistics(shape, center):
    layer = resnet.BatchNormalization(4, momentum=0.8, center=center)
    set_weights(layer)
    x = random(*shape, seed=1)
    axes = tuple(range(x.ndim - 1))
    start = [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
    np.testing.assert_allclose(layer(x, training=True), numpy_norm(x, layer), atol=1e-5)
    # Biased, as in the reference: the mean of squares, not n / (n - 1) of it.
    for moving, before, batch in zip(
        (layer.moving_mean, layer.moving_variance), start, (x.mean(axes), x.var(axes)), strict=True
    ):
        np.testing.assert_allclose(moving.numpy(), 0.8 * before + 0.2 * batch, rtol=1e-5)
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    expected = (x - mean) / np.sqrt(variance + 1e-5) * layer.gamma.numpy()
    expected += 0 if layer.beta is None else layer.beta.numpy()
    np.testing.assert_allclose(layer(x, training=False), expected, atol=1e-5)


def test_batch_norm_of_one_vector_is_beta():
    layer = resnet.BatchNormalization(4)
    set_weights(layer)
    np.testing.assert_allclose(layer(random(1, 4), training=True)[0], layer.beta.numpy(), atol=1e-6)


def test_batch_norm_stays_float32_in_mixed_precision():
    layer = resnet.BatchNormalization(4, dtype="mixed_bfloat16")
    y = layer(tf.cast(random(8, 2, 2, 4), tf.bfloat16), training=True)
    assert y.dtype == tf.bfloat16
    assert {v.dtype for v in variables.named_variables(layer).values()} == {tf.float32}


def plain_gradients(x, upstream, layer):
    """Gradients by autodiff of batch norm written out in float64."""
    x, gamma = tf.constant(x, tf.float64), tf.constant(layer.gamma.numpy(), tf.float64)
    beta = tf.constant(layer.beta.numpy(), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        axes = list(range(x.shape.rank - 1))
        mean = tf.reduce_mean(x, axes)
        variance = tf.reduce_mean(tf.square(x - mean), axes)
        y = (x - mean) / tf.sqrt(variance + 1e-5) * gamma + beta
        loss = tf.reduce_sum(y * upstream)
    return tape.gradient(loss, [x, gamma, beta])


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 2, 5)])
def test_batch_norm_over_replicas_is_that_of_the_whole_batch(replicas, shape):
    """Outputs, gradients and statistics equal one process with all images."""
    x, upstream = random(*shape), random(*shape, seed=1)
    strategy = small.mirrored(replicas)
    with strategy.scope():
        layer = resnet.BatchNormalization(5)
        set_weights(layer)
    start = layer.moving_variance.numpy()
    parts = list(zip(np.split(x, replicas), np.split(upstream, replicas), strict=True))

    def step(part):
        rows, up = part
        trainable = [compat.unwrap(layer.gamma), compat.unwrap(layer.beta)]
        with tf.GradientTape() as tape:
            tape.watch(rows)
            y = layer(rows, training=True)
            loss = tf.reduce_sum(y * up)
        return y, tape.gradient(loss, [rows, *trainable])

    outputs, gradients = small.run_on(strategy, parts, step)
    expected = plain_gradients(x, upstream, layer)
    np.testing.assert_allclose(np.concatenate(outputs), numpy_norm(x, layer), atol=2e-5)
    np.testing.assert_allclose(np.concatenate(gradients[0]), expected[0], atol=5e-5)
    for part, wanted in zip(gradients[1:], expected[1:], strict=True):
        np.testing.assert_allclose(np.sum(part, 0), wanted, atol=5e-5)
    variance = x.var(tuple(range(x.ndim - 1)))
    np.testing.assert_allclose(
        layer.moving_variance.numpy(), 0.9 * start + 0.1 * variance, rtol=1e-5
    )


def test_local_batch_norm_keeps_to_its_replica_and_averages_its_statistics():
    x = random(8, 5)
    strategy = small.mirrored(2)
    with strategy.scope():
        layer = resnet.BatchNormalization(5, synchronized=False)
    parts = np.split(x, 2)
    outputs = small.run_on(strategy, parts, lambda rows: layer(rows, training=True))
    for part, y in zip(parts, outputs, strict=True):
        np.testing.assert_allclose(y, numpy_norm(part, layer), atol=1e-5)
    means = np.mean([p.mean(0) for p in parts], 0)
    np.testing.assert_allclose(layer.moving_mean.numpy(), 0.1 * means, atol=1e-6)


def infer(x, layer):
    """Inference-mode batch norm in NumPy."""
    scale = layer.gamma.numpy() / np.sqrt(layer.moving_variance.numpy() + 1e-5)
    return (x - layer.moving_mean.numpy()) * scale + layer.beta.numpy()


@pytest.mark.parametrize("strides", [1, 2])
def test_selective_kernel_is_a_softmax_over_two_paths(strides):
    layer = resnet.SelectiveKernel(6, 4, strides, sk_ratio=0.0625, conv=resnet.Conv2D, norm=NORM)
    set_weights(layer)
    assert layer.squeeze.kernel.shape == (1, 1, 4, 32)  # never narrower than 32
    x = random(2, 6, 6, 6)
    both = infer(numpy_conv(x, layer.conv.kernel.numpy(), strides, 1, 1), layer.bn)
    paths = np.stack(np.split(np.maximum(both, 0), 2, -1))  # (2, n, h, w, 4)
    pooled = paths.sum(0).mean((1, 2)) @ layer.squeeze.kernel.numpy()[0, 0]
    mixed = np.maximum(infer(pooled, layer.squeeze_bn), 0) @ layer.mix.kernel.numpy()[0, 0]
    logits = np.stack(np.split(mixed, 2, -1))
    attention = np.exp(logits) / np.exp(logits).sum(0)
    expected = (paths * attention[:, :, None, None]).sum(0)
    np.testing.assert_allclose(layer(x), expected, atol=2e-4)


@pytest.mark.parametrize(("filters", "ratio", "width"), [(256, 0.25, 64), (1024, 0.0625, 64)])
def test_squeezed_width_of_selective_kernels(filters, ratio, width):
    with parity_network.shapes_only():
        layer = resnet.SelectiveKernel(8, filters, 1, sk_ratio=ratio, conv=resnet.Conv2D, norm=NORM)
    assert layer.squeeze.kernel.shape[-1] == width


def test_squeeze_and_excitation_gates_by_channel_means():
    layer = resnet.SqueezeExcitation(8, 4, se_ratio=0.5, conv=resnet.Conv2D)
    set_weights(layer)
    assert layer.reduce.kernel.shape == (1, 1, 8, 2)  # a share of the inner filters
    x = random(2, 5, 5, 8)
    inner = x.mean((1, 2)) @ layer.reduce.kernel.numpy()[0, 0] + layer.reduce.bias.numpy()
    outer = np.maximum(inner, 0) @ layer.expand.kernel.numpy()[0, 0] + layer.expand.bias.numpy()
    gate = 1 / (1 + np.exp(-outer))
    np.testing.assert_allclose(layer(x), x * gate[:, None, None], atol=1e-5)


def test_resnet_d_shortcut_pools_before_it_projects():
    """Strides 2: one zero behind, counted in the mean. Strides 1: TensorFlow's SAME, which leaves
    what lies outside out of the mean."""
    x = random(1, 4, 4, 3)
    for strides in (1, 2):
        layer = resnet.Shortcut(3, 5, strides, resnet_d=True, conv=resnet.Conv2D, norm=NORM)
        set_weights(layer)
        side = 4 // strides
        pooled = np.zeros((1, side, side, 3))
        for i in range(side):
            for j in range(side):
                window = x[:, i * strides : i * strides + 2, j * strides : j * strides + 2]
                count = 4 if strides == 2 else window.shape[1] * window.shape[2]
                pooled[:, i, j] = window.sum((1, 2)) / count
        expected = infer(pooled @ layer.conv.kernel.numpy()[0, 0], layer.bn)
        np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_selective_kernels_in_basic_blocks_give_the_shortcut_and_stem_only(stem):
    network = resnet.ResNet(18, width_multiplier=0.125, sk_ratio=0.0625, stem=stem)
    names = list(variables.named_variables(network))
    assert not any("/sk/" in n for n in names)
    assert ("stem/conv1/kernel" in names) == (stem == "imagenet")
    shortcut = network.block_group2[0].shortcut
    assert shortcut.conv.strides in (1, (1, 1))  # pooling makes it smaller


# --- Freezing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [-1, 0, 2, 4])
def test_frozen_blocks_get_no_gradient_and_do_not_move(frozen):
    network = resnet.ResNet(18, width_multiplier=0.125, stem="cifar", frozen_blocks=frozen)
    set_weights(network)
    named = variables.named_variables(network)
    before = {n: v.numpy() for n, v in named.items()}
    trainable = {n: v for n, v in named.items() if "/moving_" not in n}
    with tf.GradientTape() as tape:
        features = network(random(4, 16, 16, 3), training=True)["final_avg_pool"]
        loss = tf.reduce_sum(tf.square(features))
    gradients = dict(zip(trainable, tape.gradient(loss, list(trainable.values())), strict=True))
    for name, variable in named.items():
        part = name.split("/")[0]
        block = 0 if part == "stem" else int(part[-1])
        if name in gradients:
            assert (gradients[name] is None) == (block <= frozen), name
        else:
            same = np.array_equal(variable.numpy(), before[name])
            assert same == (block <= frozen), name


def test_weights_follow_the_seed():
    keras.utils.set_random_seed(3)
    first = resnet.ResNet(18, width_multiplier=0.125).stem.conv.kernel.numpy()
    keras.utils.set_random_seed(3)
    again = resnet.ResNet(18, width_multiplier=0.125).stem.conv.kernel.numpy()
    np.testing.assert_array_equal(first, again)
    assert first.std() > 0
