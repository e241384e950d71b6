"""The kNN classifier against plain loops and scikit-learn."""

import numpy as np
import pytest
from sklearn import neighbors

from tf2 import knn


def blobs(n, d=8, classes=4, seed=0, spread=1.5):
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, classes, n)
    centers = np.random.RandomState(99).standard_normal((classes, d))
    return (centers[labels] + spread * rng.standard_normal((n, d))).astype("float32"), labels


def plain_loops(bank, bank_labels, test, labels, k, temperature, classes):
    hits = 0
    for x, y in zip(test, labels, strict=True):
        similarity = [x @ b / (np.linalg.norm(x) * np.linalg.norm(b)) for b in bank]
        votes = [0.0] * classes
        for i in sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]:
            votes[bank_labels[i]] += np.exp(similarity[i] / temperature)
        hits += votes.index(max(votes)) == y
    return hits / len(labels)


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (5, 0.07), (20, 0.5), (100, 0.07)])
def test_accuracy_equals_plain_loops(k, temperature):
    bank, test = blobs(80), blobs(60, seed=1)
    expected = plain_loops(*bank, *test, k, temperature, 4)
    assert 0.3 < expected < 0.95
    found = knn.knn_accuracy(*bank, *test, num_classes=4, k=k, temperature=temperature)
    assert found == pytest.approx(expected)


def test_agrees_with_scikit_learn():
    bank, test = blobs(500), blobs(301, seed=1)
    other = neighbors.KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    expected = other.fit(*bank).score(*test)
    assert knn.knn_accuracy(*bank, *test, num_classes=4) == pytest.approx(expected)


def test_chunks_change_nothing():
    bank, test = blobs(80), blobs(61, seed=1)
    results = {
        knn.knn_accuracy(*bank, *test, num_classes=4, chunk_size=size) for size in (1, 7, 256)
    }
    assert len(results) == 1


@pytest.mark.parametrize("k, chunk_size", [(1, 256), (5, 7), (200, 256)])
def test_an_image_left_out_is_classified_by_all_others(k, chunk_size):
    features, labels = blobs(40)
    hits = 0
    for i in range(40):
        rest = np.arange(40) != i
        one = (features[i : i + 1], labels[i : i + 1])
        hits += plain_loops(features[rest], labels[rest], *one, k, 0.07, 4)
    found = knn.leave_one_out_accuracy(features, labels, num_classes=4, k=k, chunk_size=chunk_size)
    assert 0.3 < hits / 40 < 0.95 and found == pytest.approx(hits / 40)


def test_only_the_direction_of_features_matters():
    bank, test = blobs(80), blobs(60, seed=1)
    scaled = bank[0] * np.random.RandomState(0).uniform(0.1, 10, (80, 1)).astype("float32")
    expected = knn.knn_accuracy(*bank, *test, num_classes=4)
    assert knn.knn_accuracy(scaled, bank[1], *test, num_classes=4) == expected


def test_a_tiny_temperature_uses_the_nearest_neighbor_alone():
    bank, test = blobs(80), blobs(60, seed=1)
    nearest = knn.knn_accuracy(*bank, *test, num_classes=4, k=1)
    assert knn.knn_accuracy(*bank, *test, num_classes=4, temperature=1e-6) == nearest


def test_ties_go_to_the_lower_class():
    bank = np.eye(2, dtype="float32")
    test = np.ones((1, 2), "float32")
    assert knn.knn_accuracy(bank, [1, 0], test, [0], num_classes=2, k=2) == 1.0


def test_majority_class_accuracy_is_the_share_of_the_most_frequent_class():
    assert knn.majority_class_accuracy([0, 1, 2, 3]) == 0.25
    assert knn.majority_class_accuracy([2, 2, 2, 0]) == 0.75


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_features": np.zeros((3, 4))}, "same width.*4 and 2"),
        ({"train_labels": [0, 1]}, r"shapes \(3, 2\) and \(2,\)"),
        ({"test_labels": [2]}, "labels from 2 to 2, num_classes=2"),
        ({"test_features": np.full((1, 2), np.nan)}, "test_features must be finite.*2 values"),
        ({"k": 0}, "k=0"),
        ({"temperature": 0.0}, "temperature=0"),
    ],
)
def test_mismatched_arguments_are_errors(change, message):
    arguments = {
        "train_features": np.ones((3, 2)),
        "train_labels": [0, 1, 1],
        "test_features": np.ones((1, 2)),
        "test_labels": [1],
        "num_classes": 2,
    }
    with pytest.raises(ValueError, match=message):
        knn.knn_accuracy(**{**arguments, **change})
