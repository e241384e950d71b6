"""LARS against a NumPy version of You et al. 2017 as SimCLR uses it."""

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import compat, lars_optimizer, optimization

NAMES = ["a/kernel", "b/gamma", "supervised_head/dense/kernel", "c/bias", "zero/kernel"]
SHAPES = [(3, 4), (5,), (4, 2), (2,), (2, 2)]


def numpy_lars(weights, gradients, rates, *, decay, momentum, nesterov, classic, eeta, excluded):
    """Both rules in float64, from the formulas in the docstring, one weight at a time."""
    finals, slots = [], []
    for i, w in enumerate(weights):
        w, v = w.astype(np.float64), np.zeros(w.shape)
        for g, rate in zip(gradients, rates, strict=True):
            g = g[i].astype(np.float64)
            if not excluded[i]:
                g = g + decay * w

            def trust(update, w=w, i=i):
                a, b = np.sqrt(np.sum(w * w)), np.sqrt(np.sum(update * update))
                return eeta * a / b if a > 0 and b > 0 and not excluded[i] else 1.0

            if classic:
                scaled = trust(g) * rate * g
                v = momentum * v + scaled
                w = w - (momentum * v + scaled if nesterov else v)
            else:
                v = momentum * v + g
                update = momentum * v + g if nesterov else v
                w = w - trust(update) * rate * update
        finals.append(w)
        slots.append(v)
    return finals, slots


def make(seed=0):
    rng = np.random.RandomState(seed)
    weights = [rng.standard_normal(s).astype(np.float32) for s in SHAPES]
    weights[-1] = np.zeros_like(weights[-1])
    gradients = [[rng.standard_normal(s).astype(np.float32) for s in SHAPES] for _ in range(4)]
    gradients[1][0] = np.zeros_like(gradients[1][0])  # a vanished gradient
    return weights, gradients


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("classic", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
def test_equals_numpy(classic, nesterov, graph):
    weights, gradients = make()
    rates = [0.0, 0.5, 1.0, 0.25]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1, 2], rates)
    optimizer = lars_optimizer.LARSOptimizer(
        schedule, momentum=0.8, use_nesterov=nesterov, weight_decay=0.01,
        exclude_from_weight_decay=optimization.LARS_EXCLUSIONS, classic_momentum=classic,
        eeta=0.02,
    )  # fmt: skip
    tracked = [tf.Variable(w) for w in weights]
    optimizer.build(tracked, NAMES)
    apply = lambda g: optimizer.apply_gradients(zip(g, tracked, strict=True))  # noqa: E731
    apply = tf.function(apply) if graph else apply
    for g in gradients:
        apply([tf.constant(x) for x in g])
    expected, slots = numpy_lars(
        weights, gradients, rates, decay=0.01, momentum=0.8, nesterov=nesterov, classic=classic,
        eeta=0.02, excluded=[False, True, True, True, False],
    )  # fmt: skip
    for variable, slot, w, v in zip(tracked, optimizer.momentums, expected, slots, strict=True):
        np.testing.assert_allclose(variable.numpy(), w, rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(compat.unwrap(slot).numpy(), v, rtol=2e-6, atol=1e-7)
    assert int(compat.iterations(optimizer)) == 4


def test_exclusions_match_names():
    optimizer = lars_optimizer.LARSOptimizer(
        0.1, weight_decay=1e-4, exclude_from_weight_decay=optimization.LARS_EXCLUSIONS
    )
    optimizer.build([tf.Variable(tf.ones(s)) for s in SHAPES], NAMES)
    assert optimizer.uses_decay == (True, False, False, False, True)
    assert optimizer.uses_adaptation == (True, False, False, False, True)


def test_adaptation_can_have_its_own_exclusions():
    optimizer = lars_optimizer.LARSOptimizer(
        0.1, weight_decay=1e-4, exclude_from_weight_decay=["bias"],
        exclude_from_layer_adaptation=["kernel"],
    )  # fmt: skip
    optimizer.build([tf.Variable(tf.ones(s)) for s in SHAPES], NAMES)
    assert optimizer.uses_decay == (True, True, True, False, True)
    assert optimizer.uses_adaptation == (False, True, False, True, False)


def test_without_weight_decay_nothing_is_decayed():
    optimizer = lars_optimizer.LARSOptimizer(0.1)
    optimizer.build([tf.Variable(tf.ones(s)) for s in SHAPES], NAMES)
    assert optimizer.uses_decay == (False,) * 5
    assert optimizer.uses_adaptation == (True,) * 5


def test_config_round_trip():
    first = lars_optimizer.LARSOptimizer(
        0.3, momentum=0.7, use_nesterov=True, weight_decay=0.1,
        exclude_from_weight_decay=["x"], exclude_from_layer_adaptation=["y"],
        classic_momentum=False, eeta=0.5, name="mine",
    )  # fmt: skip
    config = first.get_config()
    assert config == {
        "learning_rate": pytest.approx(0.3), "momentum": 0.7, "use_nesterov": True,
        "weight_decay": 0.1, "exclude_from_weight_decay": ["x"],
        "exclude_from_layer_adaptation": ["y"], "classic_momentum": False, "eeta": 0.5,
        "name": "mine",
    }  # fmt: skip
    assert lars_optimizer.LARSOptimizer.from_config(config).get_config() == config


def test_config_contains_the_schedule():
    schedule = optimization.WarmUpAndCosineDecay(0.5, 10, 2)
    config = lars_optimizer.LARSOptimizer(schedule).get_config()
    held = config["learning_rate"]["config"]
    assert (held["peak_learning_rate"], held["train_steps"], held["warmup_steps"]) == (0.5, 10, 2)


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_sum_their_gradients(replicas):
    """The update equals that of one process with the sum of the gradients."""
    weights, gradients = make(3)
    gradients = gradients[:2]
    strategy = small.mirrored(replicas)
    arguments = {"weight_decay": 0.01, "exclude_from_weight_decay": ["bias"]}
    with strategy.scope():
        tracked = [tf.Variable(w) for w in weights]
        optimizer = lars_optimizer.LARSOptimizer(0.1, **arguments)
        optimizer.build(tracked, NAMES)

    @tf.function
    def run(g):
        def step():
            share = [x / replicas for x in g]
            optimizer.apply_gradients(zip(share, tracked, strict=True))

        strategy.run(step)

    for g in gradients:
        run([tf.constant(x) for x in g])
    expected, _ = numpy_lars(
        weights, gradients, [0.1] * 2, decay=0.01, momentum=0.9, nesterov=False, classic=True,
        eeta=0.001, excluded=[False, False, False, True, False],
    )  # fmt: skip
    for variable, w in zip(tracked, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), w, rtol=2e-6, atol=1e-7)
