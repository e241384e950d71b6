"""Schedule, step counts, and the exact sets of trained, decayed and adapted weights."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf2 import compat, lars_optimizer, model, optimization, training, variables


def closed_form(step, peak, total, warmup):
    if step < warmup:
        return peak * step / warmup
    progress = min((step - warmup) / (total - warmup), 1.0)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


@pytest.mark.parametrize(("total", "warmup"), [(100, 0), (100, 10), (313, 25), (7, 6)])
def test_schedule_is_a_linear_warm_up_and_half_a_cosine(total, warmup):
    schedule = optimization.WarmUpAndCosineDecay(2.0, total, warmup)
    steps = list(range(total + 5))
    expected = [closed_form(s, 2.0, total, warmup) for s in steps]
    for dtype in (tf.int64, tf.int32, tf.float32):  # the reference fails with int64
        rates = schedule(tf.constant(steps, dtype))
        assert rates.dtype == tf.float32
        np.testing.assert_allclose(rates, expected, atol=2e-6)


@pytest.mark.parametrize(("total", "warmup"), [(10, 10), (10, 20)])
def test_the_rate_of_a_warm_up_longer_than_the_training_only_rises(total, warmup):
    schedule = optimization.WarmUpAndCosineDecay(1.0, total, warmup)
    rates = schedule(tf.range(total)).numpy()
    np.testing.assert_allclose(rates, np.arange(total) / warmup, rtol=1e-6)
    assert schedule.highest_rate() == pytest.approx((total - 1) / warmup)


def test_a_warm_up_as_long_as_the_training_is_named_with_the_rate_that_it_reaches(monkeypatch):
    lines = []
    monkeypatch.setattr(
        training.logging, "warning", lambda text, *values: lines.append(text % values)
    )
    for total, warmup in ((10, 20), (1, 1), (10, 9)):
        schedule = optimization.WarmUpAndCosineDecay(1.0, total, warmup)
        training.warn_of_long_warmup(schedule)
    assert len(lines) == 2
    assert "highest learning rate reached is 0.45, not 1." in lines[0]
    assert "the only step has the rate 0" in lines[1] and "highest" not in lines[1]


def test_highest_rate_is_the_peak_if_it_is_reached():
    assert optimization.WarmUpAndCosineDecay(0.7, 100, 10).highest_rate() == pytest.approx(0.7)


def test_schedule_config_round_trip():
    schedule = optimization.WarmUpAndCosineDecay(0.5, 10, 2)
    again = optimization.WarmUpAndCosineDecay.from_config(schedule.get_config())
    np.testing.assert_array_equal(schedule(tf.range(12)), again(tf.range(12)))


def test_step_counts():
    assert optimization.get_train_steps(1000, 48, 3) == 63  # 62 whole batches and one more
    assert optimization.get_train_steps(1000, 48, 3, train_steps=5) == 5
    assert optimization.warmup_steps(1000, 48, 0.5) == 10  # 10.4 batches
    assert optimization.warmup_steps(1000, 48, 0) == 0


def test_scaling_of_the_learning_rate():
    assert optimization.peak_learning_rate(0.3, 4096, "linear") == pytest.approx(4.8)
    assert optimization.peak_learning_rate(0.075, 4096, "sqrt") == pytest.approx(4.8)
    with pytest.raises(ValueError, match="Received: learning_rate_scaling='cubic'"):
        optimization.peak_learning_rate(0.3, 4096, "cubic")


@pytest.fixture(scope="module")
def pretrained():
    return list(variables.named_variables(model.SimCLR(18, 0.125, num_classes=10)))


@pytest.fixture(scope="module")
def finetuned():
    network = model.SimCLR(
        18, 0.125, se_ratio=0.5, num_classes=10, ft_proj_selector=1, fine_tune_after_block=3
    )
    return list(variables.named_variables(network))


def kernels(names, place):
    return {n for n in names if n.endswith("/kernel") and n.startswith(place)}


HEAD = {"supervised_head/dense/kernel", "supervised_head/dense/bias"}


def test_lars_decays_and_adapts_24_of_a_resnet_18_s_73_weights(pretrained):
    masks = optimization.build_masks(pretrained, optimizer="lars", weight_decay=1e-4)
    expected = kernels(pretrained, "backbone/") | kernels(pretrained, "projection_head/")
    assert len(masks.trained) == 73
    assert len(expected) == 24
    assert set(masks.decayed_by_optimizer) == expected
    assert set(masks.adapted) == expected
    assert masks.l2_in_loss == ("supervised_head/dense/kernel",)


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "lamb"])
def test_other_optimizers_have_l2_on_all_but_batch_norm(pretrained, optimizer):
    masks = optimization.build_masks(pretrained, optimizer=optimizer, weight_decay=1e-4)
    assert set(masks.l2_in_loss) == kernels(pretrained, "") | HEAD
    assert len(masks.l2_in_loss) == 26
    assert masks.decayed_by_optimizer == masks.adapted == ()


def test_lars_without_decay_still_adapts(pretrained):
    masks = optimization.build_masks(pretrained, optimizer="lars", weight_decay=0.0)
    assert masks.decayed_by_optimizer == ()
    assert len(masks.adapted) == 24


def test_frozen_weights_are_in_no_mask(finetuned):
    for optimizer in ("lars", "momentum"):
        masks = optimization.build_masks(
            finetuned, optimizer=optimizer, weight_decay=1e-4, fine_tune_after_block=3
        )
        last = {n for n in finetuned if n.startswith("backbone/block_group4/")}
        head = {n for n in finetuned if n.startswith("projection_head/")}
        assert set(masks.trained) == {n for n in last | head | HEAD if "/moving_" not in n}
        for mask in (masks.l2_in_loss, masks.decayed_by_optimizer, masks.adapted):
            assert set(mask) <= set(masks.trained)
    # Squeeze-and-excitation has biases, and momentum's L2 term has them too.
    biases = {n for n in masks.l2_in_loss if n.endswith("bias")}
    assert "backbone/block_group4/0/se/reduce/bias" in biases
    assert len(biases) == 5


def test_weight_decay_term():
    rng = np.random.RandomState(0)
    values = [rng.standard_normal(s).astype(np.float32) for s in [(3, 4), (5,)]]
    expected = 0.01 * sum(np.square(v.astype(np.float64)).sum() / 2 for v in values)
    ours = optimization.add_weight_decay([tf.Variable(v) for v in values], 0.01)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    assert float(optimization.add_weight_decay([], 0.01)) == 0.0
    assert float(optimization.add_weight_decay(values, 0.0)) == 0.0


def one_step(optimizer, gradients):
    variable = tf.Variable([1.0, -2.0])
    slots = optimization.build_slots(optimizer, {"a/kernel": variable})
    for g in gradients:
        optimizer.apply_gradients([(tf.constant(g), variable)])
    return variable.numpy(), slots


def test_momentum_is_nesterov():
    optimizer = optimization.make_optimizer("momentum", 0.1, momentum=0.9)
    value, slots = one_step(optimizer, [[1.0, 2.0], [1.0, 2.0]])
    w, v, g = np.array([1.0, -2.0]), 0.0, np.array([1.0, 2.0])
    for _ in range(2):
        v = 0.9 * v - 0.1 * g
        w = w + 0.9 * v - 0.1 * g
    np.testing.assert_allclose(value, w, rtol=1e-6)
    assert any(np.allclose(s.numpy(), v) for s in slots.values() if s.shape == (2,))


def test_adam_is_kingma_and_ba_s():
    value, _ = one_step(optimization.make_optimizer("adam", 0.1), [[1.0, 2.0], [0.5, -1.0]])
    w, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for t, g in enumerate([np.array([1.0, 2.0]), np.array([0.5, -1.0])], 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)
    np.testing.assert_allclose(value, w, rtol=1e-5)


def test_the_length_of_a_lamb_update_is_the_norm_of_the_weight():
    """You et al. 2019: the first step is rate * |w| in length, along Adam's direction."""
    try:
        optimizer = optimization.make_optimizer("lamb", 0.01)
    except ValueError as error:
        pytest.skip(str(error))
    value, _ = one_step(optimizer, [[1.0, 1.0]])
    moved = np.array([1.0, -2.0]) - value
    np.testing.assert_allclose(np.linalg.norm(moved), 0.01 * np.sqrt(5), rtol=1e-3)


def test_slots_are_named_by_their_weights():
    optimizer = optimization.make_optimizer("lars", 0.1, weight_decay=1e-4)
    _, slots = one_step(optimizer, [[1.0, 2.0]])
    assert list(slots) == ["a/kernel/momentum"]
    assert isinstance(optimizer, lars_optimizer.LARSOptimizer)
    assert optimizer.uses_decay == (True,)
    assert int(compat.iterations(optimizer)) == 1


def test_slots_of_momentum_and_adam_are_named_by_kind():
    momentum = optimization.make_optimizer("momentum", 0.1)
    _, slots = one_step(momentum, [[1.0, 2.0]])
    np.testing.assert_allclose(slots["a/kernel/sgd_momentum"], [-0.1, -0.2], rtol=1e-6)
    _, slots = one_step(optimization.make_optimizer("adam", 0.1), [[1.0, 2.0]])
    np.testing.assert_allclose(slots["a/kernel/adam_m"], [0.1, 0.2], rtol=1e-5)
    np.testing.assert_allclose(slots["a/kernel/adam_v"], [0.001, 0.004], rtol=1e-5)


def test_an_unknown_optimizer_is_an_error():
    with pytest.raises(ValueError, match="Received: optimizer='sgdx'"):
        optimization.make_optimizer("sgdx", 0.1)
