"""Cross-validation tests every labeled image once, with a probe that never saw it."""

import numpy as np
import pytest

from tf2 import intervals
from tf2.apply import cross_validation, linear_probes


def blobs(counts, distance, seed=0):
    """Returns features (n, 8) and labels: a Gaussian per class, `distance` apart."""
    random = np.random.RandomState(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centers = distance * random.standard_normal((len(counts), 8))
    return centers[labels] + random.standard_normal((len(labels), 8)), labels


@pytest.mark.parametrize("counts", [(20, 20), (7, 30, 5), (1, 9, 3), (4,) * 10])
def test_folds_are_equally_large_and_spread_each_class(counts):
    labels = np.random.RandomState(1).permutation(np.repeat(np.arange(len(counts)), counts))
    fold = cross_validation.folds_of(labels, 5, seed=3)
    sizes = np.bincount(fold, minlength=5)
    assert sizes.max() - sizes.min() <= 1
    for label, count in enumerate(counts):
        each = np.bincount(fold[labels == label], minlength=5)
        assert each.sum() == count and each.max() - each.min() <= 1
    np.testing.assert_array_equal(fold, cross_validation.folds_of(labels, 5, seed=3))
    assert (fold != cross_validation.folds_of(labels, 5, seed=4)).any()


def test_separable_classes_are_all_found_and_random_labels_are_not():
    features, labels = blobs((12, 8, 10), 6.0)
    found = cross_validation.cross_validate(features, labels)
    assert found.accuracy == 1.0 and found.mean_per_class == 1.0
    assert found.num_images == 30 and found.fold_accuracies == (1.0,) * 5
    assert (found.low, found.high) == intervals.wilson(30, 30)
    assert found.majority_class == 12 / 30
    # 8 features and 40 images: a probe that saw its test images would get nearly all right.
    features, labels = np.random.RandomState(0).standard_normal((40, 30)), np.arange(40) % 2
    found = cross_validation.cross_validate(features, labels)
    assert found.accuracy < 0.75 and found.low < 0.5


def test_no_probe_is_fitted_on_an_image_that_it_is_tested_on(monkeypatch):
    features, labels = blobs((9, 6), 1.0)
    seen, tested = [], []
    sweep, predict = linear_probes.sweep_logistic, linear_probes.Fit.predict

    def record(values, *args, **kwargs):
        seen.append({tuple(row) for row in values})
        with monkeypatch.context() as patch:
            patch.setattr(linear_probes.Fit, "predict", predict)
            return sweep(values, *args, **kwargs)

    def record_test(self, values):
        tested.append({tuple(row) for row in values})
        return predict(self, values)

    monkeypatch.setattr(linear_probes, "sweep_logistic", record)
    monkeypatch.setattr(linear_probes.Fit, "predict", record_test)
    found = cross_validation.cross_validate(features, labels)
    everything = {tuple(row) for row in features}
    assert len(seen) == len(tested) == 5
    for trained_on, tested_on in zip(seen, tested, strict=True):
        assert not trained_on & tested_on and trained_on | tested_on == everything
    assert set().union(*tested) == everything and sum(map(len, tested)) == 15
    mean = np.average(found.fold_accuracies, weights=[len(part) for part in tested])
    assert found.accuracy == pytest.approx(mean)


def test_few_images_and_classes_of_one_image_are_counted():
    features, labels = blobs((3, 1), 5.0)
    found = cross_validation.cross_validate(features, labels)
    assert found.num_images == 4 and found.accuracy <= 3 / 4  # the only one of its class is missed
