"""The classifier beside a pretraining has a learning rate of its own, and the network does not."""

import functools

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import optimization, training, variables

pytestmark = pytest.mark.usefixtures("one_convolution")

RATE, PEAK = 0.5, 0.8


def build(tmp_path, optimizer, rate):
    settings = small.run_config(
        tmp_path,
        train_mode="pretrain",
        optimizer=optimizer,
        learning_rate=PEAK * 256 / 32,
        weight_decay=0.0,
        lineareval_learning_rate=rate,
    )
    return training.build_train_state(settings, num_examples=320, num_classes=6, channels=3)


def updates(state, batch):
    """Returns what a step adds to each weight."""
    before = {name: variable.numpy() for name, variable in state.named.items()}
    state.step(batch)
    return {name: v.numpy() - before[name] for name, v in state.named.items()}


@pytest.mark.parametrize("optimizer", ["lars", "momentum"])
def test_its_update_is_scaled_by_its_rate_over_the_features_norm(optimizer, tmp_path):
    (batch,) = small.make_batches(1, 32, views=2)
    batch = {name: tf.constant(value) for name, value in batch.items()}
    usual = updates(build(tmp_path, optimizer, 0.0), batch)
    own_state = build(tmp_path, optimizer, RATE)
    images = tf.concat(tf.split(batch["image"], 2, axis=-1), axis=0)
    features = build(tmp_path, optimizer, 0.0).model(images, training=True)["final_avg_pool"]
    norm = np.mean(np.sum(np.square(features.numpy()), axis=1))
    own = updates(own_state, batch)
    for name, update in usual.items():
        factor = RATE / PEAK / norm if variables.place(name) == "supervised_head" else 1.0
        np.testing.assert_allclose(own[name], factor * update, rtol=1e-4, atol=1e-8, err_msg=name)
    assert np.abs(own["supervised_head/dense/kernel"]).max() > 0


def test_features_of_any_scale_do_not_let_it_explode(tmp_path):
    (batch,) = small.make_batches(1, 32, views=2)
    batch = {name: tf.constant(value) for name, value in batch.items()}
    losses = {}
    for rate in (0.0, RATE):
        state = build(tmp_path, "momentum", rate)
        for name, variable in state.named.items():
            if variables.role(name) == "gamma" and variables.place(name) == "backbone":
                variable.assign(30 * variable)
        head = {n: v for n, v in state.named.items() if variables.place(n) == "supervised_head"}
        optimizer = optimization.make_optimizer("momentum", PEAK)
        optimization.build_slots(optimizer, head)
        step = functools.partial(
            *(training.pretrain_step, state.model, optimizer),
            trained=list(head.values()),
            classifier_rates=[rate / PEAK] * len(head) if rate else (),
        )
        step = tf.function(step)
        losses[rate] = [float(step(batch)["supervised_loss"]) for _ in range(20)]
    assert max(losses[0.0]) > 20  # at the network's rate
    assert max(losses[RATE]) < 3 and losses[RATE][-1] < losses[RATE][0]
