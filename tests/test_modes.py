"""A train mode is one entry of a table and its step function."""

import numpy as np
import pytest
import tensorflow as tf
from small import run_config

from tf2 import config, data, errors, identity, micro_batches, modes, pipeline, training
from tf2.sources import loaders


@pytest.mark.parametrize("name", modes.TRAIN_MODES)
def test_a_mode_names_a_step_that_takes_its_arguments(name):
    mode = modes.get(name)
    step = mode.step_function
    assert step is getattr(training, mode.step.rpartition(".")[2])
    keywords = step.__kwdefaults__ | dict.fromkeys(("trained", "teacher"))
    assert {*mode.arguments, *mode.built} <= set(keywords)
    assert mode.title and mode.help and mode.checkpoint in ("required", "optional", "unused")


def test_all_stages_accept_the_flags_of_every_mode():
    whole = modes.get(modes.SIMCLRV2)
    assert modes.names() == (*modes.TRAIN_MODES, "simclrv2")
    assert set(whole.groups) == modes.optional_groups()


@pytest.mark.parametrize(
    "train_mode, used, unused",
    [
        ("pretrain", "temperature use_memory", "labels_per_class teacher fine_tune_after_block"),
        ("finetune", "labels_per_class fine_tune_after_block restore_head", "temperature teacher"),
        ("distill", "teacher ft_proj_selector labels_per_class", "fine_tune_after_block ema_decay"),
        ("supervised", "labels_per_class", "restore_head teacher use_memory"),
    ],
)
def test_a_mode_uses_its_flags_and_ignores_the_others(train_mode, used, unused):
    settings = config.Config(train_mode=train_mode)
    for name in (*used.split(), "learning_rate", "seed"):
        assert settings.uses(name), name
        assert name in identity.training_flags(train_mode) or name == "teacher"
    for name in unused.split():
        assert not settings.uses(name), name
        assert name not in identity.training_flags(train_mode)


def toy_step(model, optimizer, batch, *, scale, trained, l2_variables=(), weight_decay=0.0):
    """Pulls the features of three views of an image together."""
    views = tf.concat(tf.split(batch["image"], 3, axis=-1), axis=0)
    with tf.GradientTape() as tape:
        features = model(views, training=True)["proj_head_output"]
        loss = scale * tf.math.reduce_variance(tf.stack(tf.split(features, 3)))
    gradients = micro_batches.share(tape, loss, trained)
    optimizer.apply_gradients(zip(gradients, trained, strict=True))
    return {"toy_loss": loss, "total_loss": loss}


@pytest.fixture
def toy(monkeypatch):
    """Adds a train mode to the table for one test."""
    mode = modes.Mode(
        step=toy_step,
        title="trained by a toy",
        help="train a toy",
        arguments={"scale": "temperature"},
        views=3,
        pretrains=True,
        needs_labels=lambda config: False,
        groups=("loss",),
    )
    monkeypatch.setitem(modes.TRAIN_MODES, "toy", mode)
    return mode


def test_an_entry_and_a_step_function_make_a_train_mode(
    toy, tmp_path, monkeypatch, one_convolution
):
    scalars = []
    monkeypatch.setattr(
        "tf2.metrics.Writer.scalars", lambda self, values, step: scalars.append((step, values))
    )
    settings = run_config(
        tmp_path, train_mode="toy", train_steps=2, temperature=0.5, mode="train_then_eval"
    )
    pipeline.run(settings)
    losses = [values["train/toy_loss"] for _, values in scalars if "train/toy_loss" in values]
    assert len(losses) == 2 and np.isfinite(losses).all() and losses[0] != losses[1]
    assert (tmp_path / "ckpt-2.index").exists() and (tmp_path / "result.json").exists()
    with pytest.raises(errors.UserError, match="temperature=0.5, this command has temperature=0.1"):
        pipeline.run(settings.replace(temperature=0.1))
    with pytest.raises(errors.UserError, match="Did you mean toy"):
        config.Config(train_mode="tyo").validate()


def test_batches_have_the_views_of_the_mode_by_default(toy):
    source = loaders.load_source("digits")  # of one channel

    def shape(train_mode, **arguments):
        settings = config.Config(train_mode=train_mode, image_size=8, train_batch_size=4)
        batches = data.build_dataset(settings, source, "train", training=True, **arguments)
        return tuple(next(iter(batches))["image"].shape)

    assert shape("toy") == (4, 8, 8, 3)
    assert shape("pretrain") == (4, 8, 8, 2)
    assert shape("finetune") == (4, 8, 8, 1)
    assert shape("finetune", views=2, color_jitter=True, batch_size=6) == (6, 8, 8, 2)
