"""Linear classifiers on features, against their objectives in plain NumPy."""

import numpy as np
import pytest

from tf2 import linear_probes


def blobs(count, classes=4, width=6, seed=0):
    random = np.random.RandomState(seed)
    centers = np.random.RandomState(99).randn(classes, width)
    labels = random.randint(0, classes, count)
    return centers[labels] + 0.8 * random.randn(count, width), labels


def softmax(logits):
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


@pytest.mark.parametrize("l2", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("start", [False, True])
def test_logistic_regression_is_at_the_minimum_of_its_objective(l2, start):
    x, y = blobs(200)
    begin = linear_probes.fit_logistic(x, y, l2=10 * l2, num_classes=4) if start else None
    fit = linear_probes.fit_logistic(x, y, l2=l2, num_classes=4, start=begin)
    error = softmax(x @ fit.kernel + fit.bias) - np.eye(4)[y]
    gradient = x.T @ error + l2 * fit.kernel  # of the sum of cross entropies + l2 / 2 |kernel|^2
    assert np.abs(gradient).max() < 1e-4 * 200
    assert np.abs(error.sum(0)).max() < 1e-4 * 200  # the bias isn't decayed
    assert fit.converged


def test_a_class_without_images_is_never_predicted():
    x, y = blobs(100)
    fit = linear_probes.fit_logistic(x[y != 2], y[y != 2], l2=1.0, num_classes=4)
    assert 2 not in fit.predict(x)
    two = linear_probes.fit_logistic(x[y < 2], y[y < 2], l2=1.0, num_classes=4)
    assert np.mean(two.predict(x[y < 2]) == y[y < 2]) > 0.7
    one = linear_probes.fit_logistic(x[y == 3], y[y == 3], l2=1.0, num_classes=4)
    assert set(one.predict(x)) == {3}


def test_the_sweep_is_appendix_b8_and_chooses_on_the_validation_part():
    assert len(linear_probes.L2_SWEEP) == 45
    np.testing.assert_allclose(linear_probes.L2_SWEEP[0], 1e-6)
    np.testing.assert_allclose(linear_probes.L2_SWEEP[-1], 1e5)
    ratios = np.diff(np.log(linear_probes.L2_SWEEP))
    np.testing.assert_allclose(ratios, ratios[0])
    x, y = blobs(300)
    told = []
    fit = linear_probes.sweep_logistic(
        x, y, num_classes=4, l2_values=(1e-3, 1.0, 1e5), report=lambda *found: told.append(found)
    )
    assert [number for number, *_ in told] == [1, 2, 3] and told[0][2] == 1e5
    assert fit.validation[fit.l2] == max(fit.validation.values())
    queries, answers = blobs(300, seed=1)
    assert np.mean(fit.predict(queries) == answers) > 0.8
    # What is returned is for the features as given, whatever they are divided by inside.
    again = linear_probes.sweep_logistic(10 * x, y, num_classes=4, l2_values=(1e-3, 1.0, 1e5))
    np.testing.assert_array_equal(again.predict(10 * queries), fit.predict(queries))


def test_a_single_image_of_a_class_is_not_held_out():
    x, y = blobs(40)
    y = np.where(np.arange(40) == 7, 4, y)
    held = linear_probes._held_out(y, 0.2, seed=0)
    assert not held[7] and 4 <= held.sum() <= 10


def test_sgd_is_nesterov_s_with_a_cosine_rate():
    x, y = blobs(24, classes=3)
    fit = linear_probes.fit_sgd(x, y, num_classes=3, epochs=3, batch_size=8, seed=5)
    scale = np.sqrt(np.mean(x.astype(np.float32) ** 2))
    kernel, bias = np.zeros([6, 3]), np.zeros(3)
    velocity = [np.zeros([6, 3]), np.zeros(3)]
    random, done = np.random.RandomState(5), 0
    for _ in range(3):
        order = random.permutation(24)
        for first in range(0, 24, 8):
            rows = order[first : first + 8]
            error = (softmax(x[rows] / scale @ kernel + bias) - np.eye(3)[y[rows]]) / 8
            rate = 0.1 * 8 / 256 * 0.5 * (1 + np.cos(np.pi * done / 9))
            for i, gradient in enumerate((x[rows].T / scale @ error, error.sum(0))):
                velocity[i] = 0.9 * velocity[i] + gradient
                step = rate * (0.9 * velocity[i] + gradient)
                if i == 0:
                    kernel = kernel - step
                else:
                    bias = bias - step
            done += 1
    np.testing.assert_allclose(fit.kernel, kernel / scale, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(fit.bias, bias, rtol=1e-4, atol=1e-7)


def test_accuracies_by_hand():
    found = linear_probes.accuracies([0, 0, 0, 1], [0, 0, 1, 1])
    assert found == {"top_1": 0.75, "mean_per_class": 0.75}
    found = linear_probes.accuracies([0, 0, 0, 0], [0, 0, 0, 1])
    assert found == {"top_1": 0.75, "mean_per_class": 0.5}
