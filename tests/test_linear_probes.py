"""Linear probes solve the stated problem, and choose the L2 strength as the paper does."""

import numpy as np
import pytest

from tf2.apply import linear_probes


def blobs(n=120, d=5, classes=4, seed=0, spread=1.0):
    rng = np.random.RandomState(seed)
    labels = np.concatenate([np.arange(classes), rng.randint(0, classes, n - classes)])
    centers = np.random.RandomState(99).standard_normal((classes, d))
    return centers[labels] + spread * rng.standard_normal((n, d)), labels


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def gradient(fit, x, labels, l2, classes):
    """Of mean cross entropy + l2 / (2 n) |kernel|^2, by kernel and bias."""
    error = softmax(x @ fit.kernel + fit.bias) - np.eye(classes)[labels]
    return (x.T @ error + l2 * fit.kernel) / len(x), error.mean(axis=0)


def objective(kernel, bias, x, labels, l2):
    p = softmax(x @ kernel + bias)[np.arange(len(x)), labels]
    return -np.log(p).mean() + l2 / (2 * len(x)) * np.sum(kernel**2)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("l2", [0.01, 1.0, 100.0])
def test_the_gradient_is_zero_at_the_solution(classes, l2):
    x, labels = blobs(classes=classes)
    fit = linear_probes.fit_logistic(x, labels, l2=l2, num_classes=classes)
    assert fit.converged and fit.l2 == l2 and fit.kernel.shape == (5, classes)
    for part in gradient(fit, x, labels, l2, classes):
        np.testing.assert_allclose(part, 0, atol=2e-4)
    rng = np.random.RandomState(1)
    best = objective(fit.kernel, fit.bias, x, labels, l2)
    for _ in range(20):  # every neighbor is worse
        other = fit.kernel + 0.1 * rng.standard_normal(fit.kernel.shape)
        assert objective(other, fit.bias, x, labels, l2) > best


def test_the_solution_does_not_depend_on_the_start():
    x, labels = blobs()
    far = linear_probes.fit_logistic(x, labels, l2=1e4, num_classes=4)
    cold = linear_probes.fit_logistic(x, labels, l2=0.1, num_classes=4)
    warm = linear_probes.fit_logistic(x, labels, l2=0.1, num_classes=4, start=far)
    np.testing.assert_allclose(warm.kernel, cold.kernel, atol=0.01)


@pytest.mark.parametrize("present", [[1, 3, 4], [0, 3], [2]])
def test_a_class_without_images_is_never_predicted(present):
    x, labels = blobs(classes=len(present))
    labels = np.array(present)[labels]
    fit = linear_probes.fit_logistic(x, labels, l2=0.1, num_classes=5)
    predictions = fit.predict(10 * np.random.RandomState(0).standard_normal((500, 5)))
    assert set(predictions) == set(present)
    assert np.mean(fit.predict(x) == labels) > 0.6


def test_the_sweep_has_the_strengths_of_the_paper():
    sweep = np.array(linear_probes.L2_SWEEP)  # SimCLR, appendix B.8
    assert len(sweep) == 45
    assert (sweep[0], sweep[-1]) == (pytest.approx(1e-6), pytest.approx(1e5))
    np.testing.assert_allclose(np.diff(np.log10(sweep)), 11 / 44)


def test_the_sweep_chooses_on_held_out_images_and_fits_on_all(monkeypatch):
    x, labels = blobs(n=60, d=20, spread=3.0)
    strengths = (1e-3, 10.0, 1e3)
    fits, fit_logistic = [], linear_probes.fit_logistic

    def spy(features, labels, **arguments):
        fits.append((len(features), np.bincount(labels), arguments["l2"]))
        return fit_logistic(features, labels, **arguments)

    monkeypatch.setattr(linear_probes, "fit_logistic", spy)
    reports = []
    fit = linear_probes.sweep_logistic(
        *(x, labels), num_classes=4, l2_values=strengths, report=lambda *row: reports.append(row)
    )
    assert [row[:3] for row in reports] == [(1, 3, 1e3), (2, 3, 10.0), (3, 3, 1e-3)]
    counts = np.bincount(labels)
    held = np.round(0.2 * counts).astype(int)
    for size, fitted, _ in fits[:3]:  # the same share of each class is held out
        assert size == 60 - held.sum()
        np.testing.assert_array_equal(fitted, counts - held)
    best = max(fit.validation.values())
    assert fit.l2 == max(s for s in strengths if fit.validation[s] == best)
    assert fits[3][0] == 60 and fits[3][2] == fit.l2 and len(fits) == 4

    # The kernel is for the features as given: that of the scaled ones, divided by the scale.
    scale = np.sqrt(np.mean(x**2))
    again = fit_logistic(x / scale, labels, l2=fit.l2, num_classes=4)
    np.testing.assert_allclose(x @ fit.kernel, (x / scale) @ again.kernel, atol=1e-9)


def test_the_choice_does_not_depend_on_the_scale_of_the_features():
    x, labels = blobs(n=80, spread=2.0)
    arguments = {"num_classes": 4, "l2_values": (1e-2, 1.0, 1e2)}
    a = linear_probes.sweep_logistic(x, labels, **arguments)
    b = linear_probes.sweep_logistic(1000 * x, labels, **arguments)
    assert a.validation == b.validation and a.l2 == b.l2
    np.testing.assert_array_equal(a.predict(x), b.predict(1000 * x))


def test_a_single_image_per_class_is_enough_for_the_sweep():
    x, labels = blobs(n=4)
    fit = linear_probes.sweep_logistic(x, labels, num_classes=4, l2_values=(0.1, 10.0))
    np.testing.assert_array_equal(fit.predict(x), labels)


@pytest.mark.parametrize("n, batch", [(50, 16), (20, 256)])
def test_sgd_follows_a_plain_numpy_version(n, batch):
    x, labels = blobs(n=n)
    classes, epochs = 4, 5
    fit = linear_probes.fit_sgd(
        x, labels, num_classes=classes, epochs=epochs, batch_size=batch, seed=3
    )
    scale = np.sqrt(np.mean(x**2))
    scaled, batch = x / scale, min(batch, n)
    kernel, bias = np.zeros((5, classes)), np.zeros(classes)
    velocity = [np.zeros_like(kernel), np.zeros_like(bias)]
    random, steps, step = np.random.RandomState(3), n // batch, 0
    for _ in range(epochs):
        order = random.permutation(n)
        for start in range(0, steps * batch, batch):
            rows = order[start : start + batch]
            error = softmax(scaled[rows] @ kernel + bias) - np.eye(classes)[labels[rows]]
            rate = 0.1 * batch / 256 * (1 + np.cos(np.pi * step / (epochs * steps))) / 2
            for i, g in enumerate([scaled[rows].T @ error / batch, error.mean(axis=0)]):
                velocity[i] = 0.9 * velocity[i] + g
                (kernel, bias)[i][...] -= rate * (0.9 * velocity[i] + g)
            step += 1
    np.testing.assert_allclose(fit.kernel, kernel / scale, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(fit.bias, bias, rtol=1e-4, atol=1e-7)
    assert np.abs(fit.kernel).max() > 1e-3


def test_the_mean_per_class_weighs_classes_not_images():
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    predictions = np.array([0, 0, 0, 1, 1, 0, 2])
    accuracies = linear_probes.accuracies(predictions, labels)  # no label is of class 2
    assert accuracies["top_1"] == pytest.approx(4 / 7)
    assert accuracies["mean_per_class"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
