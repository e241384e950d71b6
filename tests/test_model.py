"""SimCLR's two forms: which endpoints and layers exist, where gradients go, what is refused."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tf2 import model, variables

SMALL = {"depth": 18, "width_multiplier": 0.125, "stem": "cifar", "num_classes": 5}
DIM = 64  # features of a ResNet-18 of an eighth of the width


def images(n=4, seed=0, size=16):  # 3 crash the kernel of TensorFlow for narrow convolutions
    return np.random.RandomState(seed).uniform(size=(n, size, size, 3)).astype(np.float32)


def build(**kwargs):
    return model.SimCLR(**{**SMALL, **kwargs})


def head_layers(network):
    names = variables.named_variables(network)
    return {n.split("/")[1] for n in names if n.startswith("projection_head/")}


BACKBONE = {
    "initial_conv", "initial_max_pool", "block_group1", "block_group2", "block_group3",
    "block_group4", "final_avg_pool", "proj_head_input",
}  # fmt: skip


def test_endpoints_of_pretraining():
    out = build()(images())
    assert set(out) == BACKBONE | {"proj_head_output", "logits_sup"}
    assert out["proj_head_output"].shape == (4, 128)
    assert out["logits_sup"].shape == (4, 5)
    np.testing.assert_array_equal(out["proj_head_input"], out["final_avg_pool"])


def test_endpoints_without_a_classifier():
    assert set(build(num_classes=0)(images())) == BACKBONE | {"proj_head_output"}


def test_endpoints_of_fine_tuning():
    assert set(build(ft_proj_selector=1)(images())) == BACKBONE | {"logits_sup"}


@pytest.mark.parametrize(
    ("mode", "layers", "width"), [("none", 0, DIM), ("linear", 1, 20), ("nonlinear", 2, 20)]
)
def test_the_three_projection_heads(mode, layers, width):
    network = build(proj_head_mode=mode, num_proj_layers=2, proj_out_dim=20)
    out = network(images())
    assert len(head_layers(network)) == layers
    assert out["proj_head_output"].shape == (4, width)
    if mode == "none":
        np.testing.assert_array_equal(out["proj_head_output"], out["final_avg_pool"])
        return
    hidden = out["final_avg_pool"].numpy().astype(np.float64)
    for j, layer in enumerate(network.projection_head):  # dense, batch norm, ReLU; in NumPy
        hidden = hidden @ layer.dense.kernel.numpy()
        scale = layer.bn.gamma.numpy() / np.sqrt(layer.bn.moving_variance.numpy() + 1e-5)
        hidden = (hidden - layer.bn.moving_mean.numpy()) * scale
        if j < layers - 1:
            hidden = np.maximum(hidden + layer.bn.beta.numpy(), 0)
        else:
            assert layer.bn.beta is None  # the last layer is linear, without an offset
        assert layer.dense.bias is None
    np.testing.assert_allclose(out["proj_head_output"], hidden, atol=1e-5)
    assert np.any(out["proj_head_output"] < 0)


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_any_number_of_projection_layers(layers):
    network = build(num_proj_layers=layers)
    assert len(head_layers(network)) == layers
    widths = [layer.dense.kernel.shape for layer in network.projection_head]
    assert widths == [(DIM, DIM)] * (layers - 1) + [(DIM, 128)]


@pytest.mark.parametrize(
    ("selector", "layers", "width"),
    [(0, 0, DIM), (1, 1, DIM), (2, 2, DIM), (3, 3, 128), (-1, 3, 128)],
)
def test_layers_beyond_the_selector_are_absent(selector, layers, width):
    network = build(ft_proj_selector=selector)
    assert head_layers(network) == {str(j) for j in range(layers)}
    assert network.supervised_head.dense.kernel.shape == (width, 5)
    hidden = network.project(network(images())["final_avg_pool"])
    assert len(hidden) == layers + 1
    head = network.supervised_head.dense
    expected = hidden[-1] @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(network(images())["logits_sup"], expected, atol=1e-5)


def test_the_online_classifier_teaches_the_network_nothing():
    """In pretraining its gradient stops at the features; in fine-tuning it goes through."""
    for selector, reaches in ((None, False), (1, True)):
        network = build(ft_proj_selector=selector)
        named = variables.trainable_variables(variables.named_variables(network))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(network(images(), training=True)["logits_sup"] - 1))
        gradients = dict(zip(named, tape.gradient(loss, list(named.values())), strict=True))
        assert gradients["supervised_head/dense/kernel"] is not None
        assert (gradients["backbone/stem/conv/kernel"] is not None) == reaches


@pytest.mark.parametrize("frozen", [0, 2, 4])
def test_frozen_is_frozen_bit_for_bit(frozen):
    network = build(ft_proj_selector=1, fine_tune_after_block=frozen)
    named = variables.named_variables(network)
    before = {n: v.numpy() for n, v in named.items()}
    trained = [v for n, v in named.items() if "/moving_" not in n]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(network(images(), training=True)["logits_sup"] - 1))
    gradients = dict(
        zip([n for n in named if "/moving_" not in n], tape.gradient(loss, trained), strict=True)
    )
    for name in named:
        block = variables.block_index(name)
        is_frozen = block is not None and block <= frozen
        if name in gradients:
            assert (gradients[name] is None) == is_frozen, name
        else:
            assert np.array_equal(named[name].numpy(), before[name]) == is_frozen, name


def test_zero_init_zeroes_the_classifier_alone():
    network = build(ft_proj_selector=1)
    before = {n: v.numpy() for n, v in variables.named_variables(network).items()}
    assert np.any(before["supervised_head/dense/kernel"])
    network.supervised_head.dense.bias.assign(tf.ones(5))  # as if restored
    network.supervised_head.zero_init()
    for name, v in variables.named_variables(network).items():
        wanted = np.zeros_like(before[name]) if "supervised_head" in name else before[name]
        np.testing.assert_array_equal(v.numpy(), wanted, err_msg=name)
    assert not np.any(network(images())["logits_sup"])


def test_hyperparameters_rebuild_the_network_through_json():
    for kwargs in (
        {"ft_proj_selector": -1, "fine_tune_after_block": 2, "se_ratio": 0.25},
        {"proj_head_mode": "linear", "channels": 1, "global_bn": False, "num_classes": 0},
    ):
        network = build(**kwargs)
        stored = json.loads(json.dumps(network.hyperparameters))
        again = model.SimCLR(**stored)
        shapes = [
            {n: v.shape for n, v in variables.named_variables(m).items()} for m in (network, again)
        ]
        assert shapes[0] == shapes[1]
        assert again.hyperparameters == network.hyperparameters
    assert build(ft_proj_selector=-1).hyperparameters["ft_proj_selector"] == 3


def test_variables_exist_right_after_construction():
    assert len(variables.named_variables(build())) == 121


def test_inference_does_not_move_anything_and_training_does():
    network = build()
    named = variables.named_variables(network)
    before = {n: v.numpy() for n, v in named.items()}
    network(images())
    assert all(np.array_equal(v.numpy(), before[n]) for n, v in named.items())
    network(images(), training=True)
    moved = {n for n, v in named.items() if not np.array_equal(v.numpy(), before[n])}
    assert moved == {n for n in named if "/moving_" in n}


def test_mixed_precision_keeps_weights_in_float32():
    network = build(dtype="mixed_bfloat16")
    out = network(images())
    assert out["block_group4"].dtype == tf.bfloat16
    assert {v.dtype for v in variables.named_variables(network).values()} == {tf.float32}
    exact = build()
    for a, b in zip(
        variables.named_variables(exact).values(),
        variables.named_variables(network).values(),
        strict=True,
    ):
        a.assign(b)
    wanted = exact(images())["final_avg_pool"].numpy()
    np.testing.assert_allclose(
        tf.cast(out["final_avg_pool"], tf.float32), wanted, atol=0.05 * np.abs(wanted).max()
    )


def test_two_networks_live_in_one_process():
    first, second = build(), build(depth=50)
    assert first(images())["final_avg_pool"].shape == (4, 64)
    assert second(images())["final_avg_pool"].shape == (4, 256)


@pytest.mark.parametrize(
    ("kwargs", "received"),
    [
        ({"ft_proj_selector": 4}, "ft_proj_selector=4"),
        ({"ft_proj_selector": -2}, "ft_proj_selector=-2"),
        ({"proj_head_mode": "deep"}, "proj_head_mode='deep'"),
        ({"num_proj_layers": 0}, "num_proj_layers=0"),
        ({"fine_tune_after_block": 2}, "fine_tune_after_block=2"),
        ({"depth": 20}, "depth=20"),
        ({"stem": "x"}, "stem='x'"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_sentence(kwargs, received):
    with pytest.raises(ValueError, match=f"Received: {received}") as caught:
        build(**kwargs)
    assert "\n" not in str(caught.value)
