"""Blocks whose activations are computed again in the backward pass train with the same numbers."""

import collections

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import config, errors, resnet, training, variables
from tf2 import model as model_lib


def make_block():
    """Returns a narrow bottleneck block with a projection, and weights that all take part."""
    norm = dict(momentum=0.9, synchronized=True)
    block = resnet.Block(
        4, 4, 2, project=True, bottleneck=True, sk_ratio=0.0, se_ratio=0.25, conv=resnet.Conv2D,
        norm=lambda *args, **kw: resnet.BatchNormalization(*args, **norm, **kw),
    )  # fmt: skip
    random = np.random.RandomState(0)
    for name, v in variables.named_variables(block).items():
        if variables.role(name) not in variables.STATISTICS:
            v.assign(random.standard_normal(v.shape))
    return block


@pytest.mark.parametrize("graph", [False, True])
def test_a_block_computed_again_has_the_same_gradients_and_updates_once(graph):
    images = tf.constant(np.random.RandomState(1).standard_normal((6, 8, 8, 4)), tf.float32)

    def differentiate(block, function):
        named = variables.named_variables(block)
        trained = list(variables.trainable_variables(named).values())

        def run():
            with tf.GradientTape() as tape:
                tape.watch(images)
                outputs = tf.reduce_sum(tf.sin(function(images)))
            return tape.gradient(outputs, [images, *trained])

        gradients = (tf.function(run) if graph else run)()
        return [*gradients, *named.values()]

    plain, again = make_block(), make_block()
    expected = differentiate(plain, lambda x: plain(x, training=True))
    for ours, theirs in zip(differentiate(again, resnet.recomputed(again)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    means = [v for n, v in variables.named_variables(again).items() if n.endswith("moving_mean")]
    assert all(np.abs(mean).max() > 1e-3 for mean in means)


@pytest.mark.parametrize("frozen", [-1, 2])
def test_every_trained_block_is_computed_twice(frozen, monkeypatch):
    """Once more in the backward pass, unless it is frozen; and once in inference."""
    calls, compute = collections.Counter(), resnet.Block.call

    def call(self, inputs, training=False):
        calls[id(self), training] += 1
        return compute(self, inputs, training=training)

    monkeypatch.setattr(resnet.Block, "call", call)
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (2, 1, 1, 1)))
    network = resnet.ResNet(18, width_multiplier=0.0625, stem="cifar", frozen_blocks=frozen)
    network.recompute = True
    images = tf.ones([2, 16, 16, 3])
    network(images)
    groups = [getattr(network, f"block_group{number}") for number in range(1, 5)]
    numbers = [group for group, blocks in enumerate(groups, 1) for _ in blocks]
    blocks = [block for group in groups for block in group]
    assert [calls[id(block), False] for block in blocks] == [1] * 5
    calls.clear()
    with tf.GradientTape() as tape:
        outputs = network(images, training=True)["final_avg_pool"]
    tape.gradient(outputs, network.trainable_weights)
    assert [calls[id(block), True] for block in blocks] == [
        0 if g <= frozen else 2 for g in numbers
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [{}, {"replicas": 2}, {"jit_compile": True}, {"micro_batches": 2}], ids=str
)
def test_pretraining_has_the_same_numbers(how, monkeypatch):
    """Whole steps: weights, moving averages, slots; on replicas, with XLA, in parts."""
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))

    def train(recompute, replicas=1, jit_compile=False, micro_batches=1):
        strategy = small.mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
        with strategy.scope():
            state = small.make_state(optimizer="momentum", learning_rate=0.01)
            state.model.backbone.recompute = recompute

        def step(batch):
            return training.pretrain_step(
                state.model, state.optimizer, batch, trained=list(state.trained.values()),
                micro_batches=micro_batches,
            )  # fmt: skip

        run = tf.function(step, jit_compile=jit_compile)
        for batch in small.make_batches(2, 8, views=2):
            tf.function(strategy.run)(run, args=(small.distribute(strategy, batch),))
        return {**state.named, **{f"slot/{name}": v for name, v in state.slots.items()}}

    expected, found = train(False, **how), train(True, **how)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, 1e-5, 1e-5, err_msg=name)


def test_only_resnets_have_blocks_to_compute_again(tmp_path):
    with pytest.raises(errors.UserError, match="recompute=True. Use --micro_batches"):
        small.run_config(tmp_path, recompute=True, backbone="efficientnet_b0").validate()
    flags = {**small.FLAGS, "recompute": True, "model_dir": str(tmp_path)}
    assert model_lib.build_model(config.Config(**flags), num_classes=3).backbone.recompute
