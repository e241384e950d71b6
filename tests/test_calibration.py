"""Temperatures, calibration errors, thresholds and sets, against NumPy grids and hand counts."""

import numpy as np
import pytest

from tf2 import calibration, intervals


def overconfident(n=2000, k=5, factor=3.0, seed=0):
    """Labels drawn from the probabilities of logits, and these logits times a factor."""
    random = np.random.RandomState(seed)
    logits = 1.5 * random.standard_normal((n, k))
    exponentials = np.exp(logits)
    cumulative = np.cumsum(exponentials / exponentials.sum(1, keepdims=True), 1)
    labels = (random.uniform(size=(n, 1)) > cumulative).sum(1)
    return factor * logits, labels


def cross_entropy(logits, labels, temperature):
    exponentials = np.exp(logits / temperature)
    own = exponentials[np.arange(len(labels)), labels]
    return -np.mean(np.log(own / exponentials.sum(1)))


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_minimizes_the_cross_entropy(factor):
    logits, labels = overconfident(n=1000, factor=factor)
    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 801))
    best = grid[np.argmin([cross_entropy(logits, labels, t) for t in grid])]
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(best, rel=5e-3)
    assert found == pytest.approx(factor, rel=0.15)  # of the labels' own distribution


def test_without_an_error_nothing_is_fitted():
    labels = np.arange(60) % 3
    assert calibration.fit_temperature(np.eye(3)[labels], labels) == 1.0


def test_the_predicted_classes_stay():
    logits, labels = overconfident(seed=1)
    found = calibration.calibrate(logits, labels)
    after = calibration.softmax(logits, found.temperature)
    np.testing.assert_array_equal(after.argmax(1), logits.argmax(1))


def test_the_calibration_error_is_the_one_counted_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 0, 0])
    # Five bins of 0.2. 0.6: one of (0.4, 0.6], right. 0.7 and 0.8: 1 of 2. 0.9 twice: 1 of 2.
    expected = (1 * abs(1 - 0.6) + 2 * abs(0.5 - 0.75) + 2 * abs(0.5 - 0.9)) / 5
    assert calibration.calibration_error(probabilities, labels, bins=5) == pytest.approx(expected)
    rows = calibration.reliability(probabilities, labels, bins=5)
    assert [row[0] for row in rows] == [0, 0, 1, 2, 2]


def test_calibration_lowers_the_error_of_an_overconfident_network():
    logits, labels = overconfident()
    found = calibration.calibrate(logits, labels, global_step=7)
    assert found.ece_before > 0.2 and found.ece_after < 0.05 and found.global_step == 7
    assert found == calibration.from_json(dataclass_json(found))


def dataclass_json(value):
    import dataclasses
    import json

    return json.loads(json.dumps(dataclasses.asdict(value)))


def test_with_too_few_images_it_says_so():
    logits, labels = overconfident(n=49)
    found = calibration.calibrate(logits, labels)
    assert found.temperature == 1.0 and "49 labeled images are held out" in found.unknown
    assert calibration.threshold(found, 0.9) is None
    assert calibration.set_threshold(found, 0.9) == 0.0
    assert calibration.precision_rows(found) == []


def test_the_threshold_is_the_lowest_whose_bound_reaches_the_precision():
    probabilities = np.full((300, 2), 0.0)
    probabilities[:, 0] = np.linspace(0.99, 0.51, 300)
    probabilities[:, 1] = 1 - probabilities[:, 0]
    labels = (np.arange(300) % 5 == 0).astype(int) * (np.arange(300) >= 200)  # errors at the end
    found = calibration.Calibration(
        0, 300, precision_curve=calibration.precision_curve(probabilities, labels)
    )
    limit = calibration.threshold(found, 0.95)
    passing = []
    for candidate in probabilities[:, 0]:
        own = probabilities[:, 0] >= candidate
        if intervals.wilson((labels[own] == 0).sum(), own.sum())[0] >= 0.95:
            passing.append(candidate)
    assert min(passing) <= limit <= min(passing) + 0.49 / 50  # a hundred ranks
    assert calibration.threshold(found, 0.999) is None


def test_the_threshold_keeps_its_promise_on_new_images():
    failures = 0
    for seed in range(60):
        random = np.random.RandomState(seed)
        right = random.beta(2, 0.6, 10200)
        correct = random.uniform(size=10200) < right
        probabilities = np.stack([0.5 + right / 2, 0.5 - right / 2], 1)
        labels = np.where(correct, 0, 1)
        curve = calibration.precision_curve(probabilities[:200], labels[:200])
        limit = calibration.threshold(calibration.Calibration(0, 200, precision_curve=curve), 0.9)
        if limit is not None:
            own = probabilities[200:, 0] >= limit
            failures += correct[200:][own].mean() < 0.9
    assert failures <= 3


def test_the_images_needed_are_those_of_the_interval():
    # n of n right: the lower bound is n / (n + 1.96^2).
    assert calibration.images_needed(0.95) == 73 and calibration.images_needed(0.9) == 35


def test_sets_hold_the_true_class_as_often_as_promised():
    logits, labels = overconfident(n=20000)
    shares = []
    for start in range(0, 20000, 1000):
        found = calibration.calibrate(logits[start : start + 200], labels[start : start + 200])
        new = slice(start + 200, start + 1000)
        own = calibration.softmax(logits[new], found.temperature)[np.arange(800), labels[new]]
        shares.append(np.mean(own >= calibration.set_threshold(found, 0.9)))
    assert np.mean(shares) == pytest.approx(0.9, abs=0.02)


def test_the_quantile_is_the_one_counted_by_hand():
    # 99 images: the true class falls below the 10th smallest probability in 9 of 100 places.
    labels = np.zeros(99, int)
    labels[::3] = 1
    random = np.random.RandomState(0)
    logits = random.standard_normal((99, 2))
    found = calibration.calibrate(logits, labels)
    own = calibration.softmax(logits, found.temperature)[np.arange(99), labels]
    assert calibration.set_threshold(found, 0.9) == pytest.approx(np.sort(own)[9])
    assert calibration.set_threshold(found, 0.995) == 0.0


def test_sets_are_mapie_s():
    mapie = pytest.importorskip("mapie.classification")
    from sklearn import base

    class Given(base.ClassifierMixin, base.BaseEstimator):
        def fit(self, x, y=None):
            self.classes_, self.is_fitted_ = np.arange(5), True
            return self

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(1)

    logits, labels = overconfident(n=700)
    found = calibration.calibrate(logits[:400], labels[:400])
    probabilities = calibration.softmax(logits, found.temperature)
    conformal = mapie.SplitConformalClassifier(
        Given().fit(None), confidence_level=0.9, conformity_score="lac", prefit=True
    ).conformalize(probabilities[:400], labels[:400])
    sets = conformal.predict_set(probabilities[400:])[1][..., 0]
    np.testing.assert_array_equal(
        probabilities[400:] >= calibration.set_threshold(found, 0.9) - 1e-12, sets
    )
