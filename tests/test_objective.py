"""Losses against the paper's Algorithm 1 in literal loops, on one and on several replicas."""

import inspect

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import errors, objective


def algorithm_1(hidden, temperature, normalize=True):
    """SimCLR, Algorithm 1, line by line in float64; rows i and n + i are views of image i.

    Returns equation 1's mean over all 2n anchors.
    """
    z = hidden.astype(np.float64)
    size = len(z)
    n = size // 2
    s = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            s[i, j] = z[i] @ z[j]
            if normalize:
                s[i, j] /= np.linalg.norm(z[i]) * np.linalg.norm(z[j])

    def pair(i, j):
        total = sum(np.exp(s[i, k] / temperature) for k in range(size) if k != i)
        return -np.log(np.exp(s[i, j] / temperature) / total)

    return sum(pair(k, k + n) + pair(k + n, k) for k in range(n)) / size


def projections(n, d, seed=0):
    return np.random.RandomState(seed).standard_normal((2 * n, d)).astype(np.float32)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 5), (8, 16)])
def test_loss_is_twice_algorithm_1(n, d, temperature, normalize):
    hidden = projections(n, d) * 0.5
    loss, logits, labels = objective.add_contrastive_loss(hidden, normalize, temperature)
    expected = 2 * algorithm_1(hidden, temperature, normalize)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=2e-6)
    assert logits.shape == (n, n) and labels.shape == (n, 2 * n)
    np.testing.assert_array_equal(labels[:, :n], np.eye(n))
    assert not np.any(labels[:, n:])


def test_gradient_is_algorithm_1_s_by_finite_differences():
    hidden = tf.constant(projections(3, 4))
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        loss, _, _ = objective.add_contrastive_loss(hidden, True, 0.5)
    ours = tape.gradient(loss, hidden).numpy()
    base, step = hidden.numpy().astype(np.float64), 1e-6
    for index in np.ndindex(base.shape):
        up, down = base.copy(), base.copy()
        up[index] += step
        down[index] -= step
        slope = (algorithm_1(up, 0.5) - algorithm_1(down, 0.5)) / step  # twice, over 2 * step
        np.testing.assert_allclose(ours[index], slope, rtol=1e-3, atol=2e-6)


def test_logits_are_cosines_over_the_temperature():
    hidden = projections(4, 6)
    _, logits, _ = objective.add_contrastive_loss(hidden, True, 0.25)
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    np.testing.assert_allclose(logits, unit[:4] @ unit[4:].T / 0.25, atol=1e-5)


def test_exchanging_the_views_or_the_images_changes_nothing():
    hidden = projections(5, 7)
    a, b = np.split(hidden, 2)
    order = [3, 0, 4, 1, 2]
    loss = float(objective.add_contrastive_loss(hidden, True, 0.2)[0])
    swapped = objective.add_contrastive_loss(np.concatenate([b, a]), True, 0.2)[0]
    mixed = objective.add_contrastive_loss(np.concatenate([a[order], b[order]]), True, 0.2)[0]
    np.testing.assert_allclose([swapped, mixed], loss, rtol=1e-6)


def test_perfect_and_collapsed_embeddings():
    """Collapsed: every candidate alike, twice ln(2n - 1). Separated at a low temperature: 0."""
    n = 6
    loss = objective.add_contrastive_loss(tf.ones([2 * n, 4]), True, 0.5)[0]
    np.testing.assert_allclose(loss, 2 * np.log(2 * n - 1), rtol=1e-6)
    separated = np.concatenate([np.eye(n), np.eye(n)]).astype(np.float32)
    assert float(objective.add_contrastive_loss(separated, True, 0.01)[0]) < 1e-6


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_the_loss_is_float32_whatever_the_network_computes_in(dtype):
    hidden = tf.cast(projections(4, 8), dtype)
    loss, logits, labels = objective.add_contrastive_loss(hidden, True, 0.1)
    assert loss.dtype == logits.dtype == labels.dtype == tf.float32
    exact = objective.add_contrastive_loss(tf.cast(hidden, tf.float32), True, 0.1)[0]
    assert float(loss) == float(exact)
    supervised = objective.add_supervised_loss(tf.eye(3), tf.cast(tf.eye(3), dtype))
    assert supervised.dtype == tf.float32


@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"Received: temperature={temperature}"):
        objective.add_contrastive_loss(tf.ones([4, 2]), True, temperature)


def test_supervised_loss_of_hard_and_soft_labels():
    rng = np.random.RandomState(0)
    logits = rng.standard_normal((6, 5)).astype(np.float32)
    for labels in (np.eye(5)[[0, 1, 2, 3, 4, 0]], rng.dirichlet(np.ones(5), 6)):
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected = -(labels * np.log(p)).sum(1).mean()
        np.testing.assert_allclose(
            objective.add_supervised_loss(labels, logits), expected, rtol=1e-6
        )


def test_an_image_without_label_adds_neither_loss_nor_gradient():
    rng = np.random.RandomState(0)
    logits = tf.constant(rng.standard_normal((4, 5)).astype(np.float32))
    labels = np.eye(5, dtype=np.float32)[[2, 0, 1, 4]]
    labels[[1, 3]] = 0.0
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = objective.add_supervised_loss(labels, logits)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log([p[0, 2], p[2, 1]]).sum() / 4, rtol=1e-6)
    expected = (p - labels) / 4 * [[1], [0], [1], [0]]
    np.testing.assert_allclose(tape.gradient(loss, logits), expected, atol=1e-7)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_together_are_one_process_with_the_whole_batch(replicas):
    """The mean of the replicas' losses, and for each row the gradient of that mean."""
    n, d = 4, 6
    whole = projections(n, d, seed=1)
    rows = n // replicas
    parts = [
        np.concatenate([whole[r * rows : (r + 1) * rows], whole[n + r * rows : n + (r + 1) * rows]])
        for r in range(replicas)
    ]
    strategy = small.mirrored(replicas)

    def step(hidden):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            loss, _, labels = objective.add_contrastive_loss(hidden, True, 0.3, strategy=strategy)
            share = loss / replicas
        return loss, labels, tape.gradient(share, hidden)

    losses, labels, gradients = small.run_on(strategy, parts, step)
    np.testing.assert_allclose(np.mean(losses), 2 * algorithm_1(whole, 0.3), rtol=1e-5)
    hidden = tf.constant(whole)
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        loss = objective.add_contrastive_loss(hidden, True, 0.3)[0]
    a, b = np.split(tape.gradient(loss, hidden).numpy(), 2)
    for r in range(replicas):
        mine = slice(r * rows, (r + 1) * rows)
        expected = np.concatenate([a[mine], b[mine]])
        np.testing.assert_allclose(gradients[r], expected, atol=1e-6)
        np.testing.assert_array_equal(np.argmax(labels[r], 1), np.arange(rows) + r * rows)


def test_replicas_whose_batch_is_not_known_to_the_graph():
    """So it comes from a dataset that several workers share."""
    whole = np.random.RandomState(3).randn(8, 6).astype(np.float32)
    parts = [
        np.concatenate([whole[2 * r : 2 * r + 2], whole[4 + 2 * r : 6 + 2 * r]]) for r in (0, 1)
    ]
    strategy = small.mirrored(2)

    def step(hidden):
        hidden = tf.compat.v1.placeholder_with_default(hidden, [None, 6])
        return objective.add_contrastive_loss(hidden, temperature=0.3, strategy=strategy)[0]

    losses = small.run_on(strategy, parts, step)
    np.testing.assert_allclose(np.mean(losses), 2 * algorithm_1(whole, 0.3), rtol=1e-5)


@pytest.mark.parametrize("replicas", [2, 4])
def test_gather_concatenates_in_order_and_sums_gradients(replicas):
    parts = [np.float32([[r + 1.0, 10.0 * (r + 1)]]) for r in range(replicas)]
    strategy = small.mirrored(replicas)
    weights = np.arange(2.0 * replicas).reshape(replicas, 2).astype(np.float32)

    def step(value):
        mine = tf.cast(objective.replica_id() + 1, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(value)
            gathered = objective.gather(value)
            loss = mine * tf.reduce_sum(gathered * weights)
        return gathered, tape.gradient(loss, value)

    gathered, gradients = small.run_on(strategy, parts, step)
    total = sum(range(1, replicas + 1))  # every replica's loss weighs its own number
    for r in range(replicas):
        np.testing.assert_array_equal(gathered[r], np.concatenate(parts))
        np.testing.assert_allclose(gradients[r], weights[r : r + 1] * total)


# --- Supervised contrastive --------------------------------------------------------------------


def equation_2(hidden, labels, temperature, normalize=True):
    """L_out of Khosla et al. 2020 in literal loops; an unlabeled image is alone in its class.

    Returns the mean over the 2n anchors, where the paper has their sum.
    """
    z = hidden.astype(np.float64)
    if normalize:
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
    size, n = len(z), len(labels)
    total = 0.0
    for i in range(size):
        others = [a for a in range(size) if a != i]
        denominator = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
        positives = []
        for p in others:
            other_view = p % n == i % n
            same_class = labels[i % n].any() and np.array_equal(labels[i % n], labels[p % n])
            if other_view or same_class:
                positives.append(p)
        log_likelihood = 0.0
        for p in positives:
            log_likelihood += np.log(np.exp(z[i] @ z[p] / temperature) / denominator)
        total += -log_likelihood / len(positives)
    return total / size


LABELS = {
    "two classes": [0, 1, 1, 0, 0, 1],
    "one class": [0] * 6,
    "a class each": [0, 1, 2, 3, 4, 5],
    "some unlabeled": [0, -1, 1, 0, -1, 1],
    "none labeled": [-1] * 6,
}


def one_hot(classes):
    return np.array([np.eye(6)[c] if c >= 0 else np.zeros(6) for c in classes], np.float32)


def supcon(hidden, labels, **arguments):
    loss = objective.CONTRASTIVE_LOSSES["supcon"].function
    return loss(hidden, True, 0.5, labels=labels, **arguments)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("classes", LABELS.values(), ids=LABELS)
def test_supervised_contrastive_loss_is_equation_2(classes, normalize):
    hidden, labels = projections(6, 4) * 0.5, one_hot(classes)
    function = objective.CONTRASTIVE_LOSSES["supcon"].function
    loss, logits, other_view = function(hidden, normalize, 0.5, labels=labels)
    np.testing.assert_allclose(loss, 2 * equation_2(hidden, labels, 0.5, normalize), rtol=1e-5)
    # What the metrics read does not depend on the labels.
    _, wanted_logits, wanted_view = objective.add_contrastive_loss(hidden, normalize, 0.5)
    np.testing.assert_array_equal(logits, wanted_logits)
    np.testing.assert_array_equal(other_view, wanted_view)


def test_supcon_gradient_by_finite_differences():
    hidden, labels = projections(4, 3), one_hot([0, 1, 0, -1])
    with tf.GradientTape() as tape:
        variable = tf.constant(hidden)
        tape.watch(variable)
        loss = supcon(variable, labels)[0]
    ours = tape.gradient(loss, variable).numpy()
    base, step = hidden.astype(np.float64), 1e-6
    for index in np.ndindex(base.shape):
        up, down = base.copy(), base.copy()
        up[index] += step
        down[index] -= step
        slope = (equation_2(up, labels, 0.5) - equation_2(down, labels, 0.5)) / step
        np.testing.assert_allclose(ours[index], slope, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("classes", ["none labeled", "a class each"])
def test_supcon_without_shared_classes_is_nt_xent(classes):
    hidden = projections(6, 4)
    loss = supcon(hidden, one_hot(LABELS[classes]))[0]
    assert float(loss) == float(objective.add_contrastive_loss(hidden, True, 0.5)[0])


def test_supcon_of_one_class_is_lowest_for_a_collapsed_network():
    """All are positives: ln(2n - 1) per direction where all embeddings coincide, more elsewhere."""
    labels = one_hot(LABELS["one class"])
    collapsed = float(supcon(tf.ones([12, 4]), labels)[0])
    np.testing.assert_allclose(collapsed, 2 * np.log(11), rtol=1e-6)
    assert float(supcon(projections(6, 4), labels)[0]) > collapsed


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_together_are_one_process_for_supcon(replicas):
    whole, labels = projections(4, 6, seed=1), one_hot([0, 1, 0, -1])
    rows = 4 // replicas
    a, b = np.split(whole, 2)
    parts = [
        {"hidden": np.concatenate([a[mine], b[mine]]), "label": labels[mine]}
        for mine in (slice(r * rows, (r + 1) * rows) for r in range(replicas))
    ]
    strategy = small.mirrored(replicas)

    def step(part):
        with tf.GradientTape() as tape:
            tape.watch(part["hidden"])
            loss = supcon(part["hidden"], part["label"], strategy=strategy)[0]
            share = loss / replicas
        return loss, tape.gradient(share, part["hidden"])

    losses, gradients = small.run_on(strategy, parts, step)
    np.testing.assert_allclose(np.mean(losses), 2 * equation_2(whole, labels, 0.5), rtol=1e-5)
    hidden = tf.constant(whole)
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        loss = supcon(hidden, labels)[0]
    a, b = np.split(tape.gradient(loss, hidden).numpy(), 2)
    for r in range(replicas):
        mine = slice(r * rows, (r + 1) * rows)
        np.testing.assert_allclose(gradients[r], np.concatenate([a[mine], b[mine]]), atol=1e-6)


# --- The registry ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", objective.CONTRASTIVE_LOSSES)
def test_a_contrastive_loss_has_the_shared_signature(name):
    signature = inspect.signature(objective.CONTRASTIVE_LOSSES[name].function)
    assert signature == inspect.signature(objective.add_contrastive_loss)


def test_an_unknown_loss_names_the_closest_one():
    with pytest.raises(errors.UserError, match="one of ntxent, supcon.*Did you mean supcon?"):
        objective.find_contrastive_loss("subcon")


def test_supcon_raises_without_labels():
    words = "needs labels, and the data has none. Received: .*=supcon"
    with pytest.raises(errors.UserError, match=words):
        supcon(projections(2, 4), labels=None)
