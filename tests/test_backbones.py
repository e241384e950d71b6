"""Backbones: what each owes to SimCLR, and EfficientNet-B0 from keras.applications as the proof."""

import json

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

from checkpoints_tools import convert
from tf2 import (
    architecture,
    backbones,
    compat,
    errors,
    job,
    model,
    optimization,
    pipeline,
    resnet,
    run,
    variables,
)
from tf2.checkpoints import checkpoint, model_json

NAME = "efficientnet_b0"
ARGUMENTS = {"backbone": NAME, "num_classes": 6, "num_proj_layers": 2, "proj_out_dim": 16}


def images(n=4, size=32, channels=3):
    return np.random.RandomState(0).uniform(size=(n, size, size, channels)).astype(np.float32)


def values(network):
    return {name: v.numpy() for name, v in variables.named_variables(network).items()}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return model.SimCLR(**ARGUMENTS)


@pytest.fixture(scope="module")
def application():
    return keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )


# --- Any backbone ------------------------------------------------------------------------------


class Tiny(keras.layers.Layer):
    """A backbone of a stem and one block, the fewest there can be."""

    def __init__(self, *, channels, frozen_blocks, batch_norm_decay, global_bn, dtype):
        super().__init__(dtype=dtype)
        self.frozen_blocks, self.feature_dim = frozen_blocks, 8
        self.stem = keras.layers.Conv2D(4, 3, dtype=dtype)
        self.stem.build((None, None, None, channels))
        self.block_group1 = keras.Sequential([keras.Input((None, None, 4)), _dense(8)])
        self.built = True

    def call(self, inputs, training=False):
        x = self.stem(inputs)
        x = tf.stop_gradient(x) if self.frozen_blocks >= 0 else x
        return {"final_avg_pool": tf.reduce_mean(self.block_group1(x), [1, 2])}


def _dense(width):
    return keras.layers.Dense(width)


def test_a_backbone_is_one_entry(monkeypatch):
    entry = backbones.Backbone(Tiny, title=lambda hyperparameters: "Tiny")
    monkeypatch.setitem(backbones.BACKBONES, "tiny", entry)
    network = model.SimCLR(backbone="tiny", num_classes=3, num_proj_layers=1)
    assert set(network(images())) == {
        "final_avg_pool", "proj_head_input", "proj_head_output", "logits_sup",
    }  # fmt: skip
    assert [n for n in variables.named_variables(network) if n.startswith("backbone/")] == [
        "backbone/stem/kernel",
        "backbone/stem/bias",
        "backbone/block_group1/dense/kernel",
        "backbone/block_group1/dense/bias",
    ]
    assert network.hyperparameters["backbone"] == "tiny"
    assert backbones.title(network.hyperparameters) == "Tiny"


def test_a_resnet_is_described_without_its_backbone():
    network = model.SimCLR(18, 0.125, stem="cifar", num_classes=3)
    assert set(network.hyperparameters) == set(architecture.DEFAULTS)
    assert backbones.title(network.hyperparameters) == "ResNet-18 (0.125x)"


def test_an_unknown_backbone_names_the_closest_one(tmp_path):
    with pytest.raises(errors.UserError, match="one of resnet, .*Did you mean efficientnet_b0?"):
        model.SimCLR(backbone="efficientnet_b7")
    with pytest.raises(errors.UserError, match="Received: backbone=help"):
        pipeline.run(small.run_config(tmp_path, backbone="help"))
    assert not list(tmp_path.iterdir())


# --- EfficientNet-B0 ---------------------------------------------------------------------------


def test_it_computes_what_the_application_does(network, application):
    """On images in [0, 1], where the application takes [0, 255]; by inference."""
    ours = {n: v for n, v in variables.named_variables(network).items() if n.startswith("backbone")}
    layers = [layer for layer in application.layers if "normalization" not in layer.name]
    theirs = [weight for layer in layers for weight in layer.weights]
    assert len(ours) == len(theirs) == 309
    rng = np.random.RandomState(1)
    for name, weight in zip(ours, theirs, strict=True):
        value = 0.1 * rng.standard_normal(weight.shape)
        if name.endswith(("gamma", "moving_variance")):
            value = 1 + np.abs(value)
        ours[name].assign(value)
        weight.assign(value)
    expected = application(255 * images(2), training=False).numpy()
    found = network(images(2), training=False)
    scale = np.abs(expected).max()
    assert scale > 1e-3
    np.testing.assert_allclose(found["block_group4"], expected, atol=1e-4 * scale)
    np.testing.assert_allclose(found["final_avg_pool"], expected.mean((1, 2)), atol=1e-4 * scale)


@pytest.mark.parametrize("size", [32, 224])
def test_endpoints_halve_the_image_five_times(network, size):
    endpoints = network(images(1, size))
    sides = {name: v.shape[1] for name, v in endpoints.items() if v.shape.rank == 4}
    divisors = zip(backbones.BLOCKS, (2, 4, 8, 16, 32), strict=True)
    assert sides == {block: size // divisor for block, divisor in divisors}
    assert endpoints["final_avg_pool"].shape == (1, 1280)


def test_weights_have_stable_names_and_roles(network):
    named = variables.named_variables(network)
    assert {id(v) for v in named.values()} == {id(compat.unwrap(w)) for w in network.weights}
    assert list(named)[:2] == ["backbone/stem/stem_conv/kernel", "backbone/stem/stem_bn/gamma"]
    assert "backbone/block_group1/block1a_dwconv/kernel" in named
    assert "backbone/block_group4/top_bn/moving_mean" in named
    again = model.SimCLR(**{**ARGUMENTS, "channels": 1})
    assert list(variables.named_variables(again)) == list(named)


def test_decay_masks_know_its_layers(network):
    names = list(variables.named_variables(network))
    sgd = optimization.build_masks(names, optimizer="momentum", weight_decay=1e-4)
    lars = optimization.build_masks(names, optimizer="lars", weight_decay=1e-4)
    depthwise, bias = "block_group1/block1a_dwconv/kernel", "block_group1/block1a_se_reduce/bias"
    assert {f"backbone/{depthwise}", f"backbone/{bias}"} <= set(sgd.l2_in_loss)
    assert f"backbone/{depthwise}" in lars.decayed_by_optimizer
    assert f"backbone/{bias}" not in lars.decayed_by_optimizer
    assert not any(name.endswith(("gamma", "beta")) for name in sgd.l2_in_loss)
    assert not any("moving" in name for name in sgd.trained)


@pytest.fixture(scope="module")
def fine_tuning():
    """The fine-tuning form with its stem and two block groups frozen."""
    keras.utils.set_random_seed(0)
    return model.SimCLR(**ARGUMENTS, ft_proj_selector=1, fine_tune_after_block=2)


def test_frozen_blocks_stay_bit_for_bit_the_same(fine_tuning):
    named = variables.named_variables(fine_tuning)
    before = values(fine_tuning)
    trained = {n: v for n, v in named.items() if variables.role(n) not in variables.STATISTICS}
    with tf.GradientTape() as tape:
        logits = fine_tuning(images(), training=True)["logits_sup"]
        loss = tf.reduce_sum(tf.square(logits - 1))
    gradients = dict(zip(trained, tape.gradient(loss, list(trained.values())), strict=True))
    for name, variable in named.items():
        block = variables.block_index(name)
        frozen = block is not None and block <= 2
        if name in gradients:
            assert (gradients[name] is None) == frozen, name
        else:
            assert np.array_equal(variable.numpy(), before[name]) == frozen, name


def test_mixed_precision_and_other_channels():
    network = model.SimCLR(**{**ARGUMENTS, "channels": 1}, dtype="mixed_bfloat16")
    endpoints = network(images(2, channels=1), training=True)
    assert endpoints["block_group4"].dtype == tf.bfloat16
    assert {v.dtype for v in variables.named_variables(network).values()} == {tf.float32}
    assert keras.mixed_precision.global_policy().name == "float32"


# --- The steps from a model of keras.applications to a backbone, on a small one ----------------


def small_application(*, include_top, weights, input_shape):
    """In place of a function of keras.applications: preprocessing, a stem and a residual block."""
    assert not include_top and weights is None
    inputs = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="entry")(x)
    x = keras.layers.BatchNormalization(epsilon=1e-3, name="entry_bn")(x)
    x = keras.layers.Activation("relu", name="entry_end")(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = keras.layers.BatchNormalization(name="depthwise_bn")(y)
    y = keras.layers.Dropout(0.5)(y)
    return keras.Model(inputs, keras.layers.Add(name="block_end")([x, y]))


def build_small(**arguments):
    return backbones.Application(
        small_application, entry="entry", blocks=("entry_end", "block_end"), **arguments
    )


@pytest.fixture
def registered(monkeypatch):
    entry = backbones.Backbone(build_small, title=lambda _: "Small", min_image_size=8)
    monkeypatch.setitem(backbones.BACKBONES, "small", entry)


def test_dropout_is_left_out():
    backbone = build_small()
    first, again = (backbone(images(), training=True)["block_group1"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_blocks_are_joined_by_one_tensor():
    with pytest.raises(ValueError, match="'block_end', which reads a tensor of an earlier block"):
        backbones.Application(small_application, entry="entry", blocks=("depthwise", "block_end"))
    with pytest.raises(ValueError, match="no layer of that name in that place. Received: 'x'"):
        backbones.Application(small_application, entry="entry", blocks=("x",))


@pytest.mark.parametrize("global_bn", [True, False])
def test_batch_norm_spans_replicas_where_it_is_global(global_bn):
    outputs = []
    for replicas in (1, 2):
        strategy = small.mirrored(replicas)
        with strategy.scope():
            keras.utils.set_random_seed(0)
            backbone = build_small(global_bn=global_bn)
        parts = np.split(images(4), replicas)
        run = small.run_on(
            strategy, parts, lambda x, b=backbone: b(x, training=True)["final_avg_pool"]
        )
        outputs.append(np.concatenate(run))
    assert np.allclose(outputs[0], outputs[1], atol=1e-5) == global_bn


def test_every_batch_norm_of_efficientnet_is_ours(network):
    def walk(layer):
        yield layer
        for _, below in variables.sublayers(layer):
            yield from walk(below)

    layers = list(walk(network.backbone))
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers)
    assert sum(isinstance(layer, resnet.BatchNormalization) for layer in layers) == 49


def config(directory, **changes):
    flags = {"backbone": "small", "resnet_depth": None, "width_multiplier": None, "image_size": 8}
    return small.run_config(directory, **{**flags, "train_steps": 2, **changes})


def test_pretrain_resume_export_and_fine_tune(registered, tmp_path):
    pretrained, tuned = tmp_path / "pretrained", tmp_path / "tuned"
    pipeline.run(config(pretrained))
    stored = json.loads((pretrained / "model.json").read_text())["architecture"]
    assert stored["backbone"] == "small" and not stored.keys() & {"depth", "stem"}
    pipeline.run(config(pretrained, train_steps=3, export=True))  # resumes
    start, _ = checkpoint.read_weights(str(pretrained))
    loaded, _ = checkpoint.load_model(str(pretrained))
    assert_equal(values(loaded), start)
    exported = tf.saved_model.load(str(pretrained / "saved_model" / "3"))
    np.testing.assert_allclose(
        exported(images(1, 8, 1), trainable=False)["final_avg_pool"],
        loaded(images(1, 8, 1))["final_avg_pool"],
        atol=1e-6,
    )
    flags = {"train_mode": "finetune", "checkpoint": str(pretrained), "ft_proj_selector": 1}
    pipeline.run(config(tuned, **flags, backbone=None, fine_tune_after_block=0))
    after, metadata = checkpoint.read_weights(str(tuned))
    assert metadata["architecture"]["backbone"] == "small"  # the checkpoint's
    stem = [name for name in after if name.startswith("backbone/stem/")]
    assert_equal({n: after[n] for n in stem}, {n: start[n] for n in stem})
    kernel = "backbone/block_group1/depthwise/kernel"
    assert not np.array_equal(after[kernel], start[kernel])
    settings = config(tmp_path / "other", **flags).replace(backbone="resnet")
    with pytest.raises(errors.UserError, match="backbone=small. Received: backbone=resnet"):
        pipeline.run(settings)
    with pytest.raises(errors.UserError, match="Only ResNets are converted.*backbone=small"):
        convert.convert(str(pretrained), str(tmp_path / "out.pth"), "pytorch")


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_images_too_small_are_an_error(tmp_path):
    with pytest.raises(errors.UserError, match="at least 32 pixels a side. Received: image_size=8"):
        pipeline.run(config(tmp_path, backbone=NAME))


def test_weights_of_another_backbone_do_not_load():
    stored = {"architecture": architecture.DEFAULTS}
    with pytest.raises(errors.UserError, match="backbone=resnet.*backbone=efficientnet_b0"):
        model_json.check_architecture(stored, {"backbone": NAME}, "somewhere")


def test_flags_of_a_resnet_have_no_effect():
    settings = config("x", backbone=NAME, image_size=32, resnet_depth=34).replace(sk_ratio=0.0)
    assert job.check_backbone(settings) == [
        "resnet_depth=34 has no effect with backbone=efficientnet_b0.",
        "sk_ratio=0.0 has no effect with backbone=efficientnet_b0.",
    ]
    assert job.check_backbone(settings.replace(backbone="resnet")) == []


@pytest.mark.slow
def test_efficientnet_trains_through_all_stages_from_the_command_line(tmp_path, capsys):
    """The network itself, not a small one, through every train mode, checkpoint and export."""
    steps = {f"{s}.train_steps": 2 for s in ("pretrain", "finetune", "distill", "supervised")}
    flags = {"resnet_depth": None, "width_multiplier": None, "image_size": 32, "export": True}
    argv = small.command(
        tmp_path, train_mode="simclrv2", mode="train_then_eval", backbone=NAME, eval_steps=1,
        train_batch_size=8, train_steps=None, **flags, **steps,
    )  # fmt: skip
    assert run.run_argv(argv) == 0
    for stage in ("pretrain", "finetune", "distill", "supervised"):
        loaded, metadata = checkpoint.load_model(str(tmp_path / stage))
        assert metadata["architecture"]["backbone"] == NAME, stage
        exported = tf.saved_model.load(str(tmp_path / stage / "saved_model" / "2"))
        expected = loaded(images(1, 32, 1))["final_avg_pool"]
        found = exported(images(1, 32, 1), trainable=False)["final_avg_pool"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
