"""Stratified cross-validation of the logistic probe: an accuracy where few images are held out.

Every labeled image is tested once, by a classifier that was fitted without it. Only the classifier
is fitted anew; the features come from a network that was pretrained without labels, so that no test
image's label has reached them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tf2 import intervals, knn
from tf2.apply import linear_probes

# Every fourth strength, from 1e-3: with few labels the accuracy is flat between and below them.
_L2_VALUES = linear_probes.L2_SWEEP[12::4]


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """An accuracy pooled over all folds.

    Attributes:
        accuracy: share of the images that are classified correctly, each by its fold's classifier.
        low, high: its 95 % interval.
        mean_per_class: the mean of the classes' accuracies.
        fold_accuracies: of each fold.
        num_images: of all folds.
        majority_class: accuracy of always predicting the most frequent class.
    """

    accuracy: float
    low: float
    high: float
    mean_per_class: float
    fold_accuracies: tuple[float, ...]
    num_images: int
    majority_class: float


def folds_of(labels: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Returns the fold (n,) of each image: every class is spread evenly, and sizes differ by 1.

    Args:
        labels: (n,) integers.
        folds: number of folds.
        seed: of the order within a class.
    """
    labels, random = np.asarray(labels), np.random.RandomState(seed)
    # One class after another, dealt out in turn: each begins where the one before ended.
    order = np.concatenate(
        [random.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    )
    fold: np.ndarray = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def out_of_fold_probabilities(
    features: np.ndarray, labels: np.ndarray, *, num_classes: int, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Returns the class probabilities of each image by a classifier fitted without it, (n, k).

    A logistic regression, with one L2 strength for all folds.

    Args:
        features: (n, d), of labeled images.
        labels: (n,) integers below num_classes; n at least 2.
        num_classes: k.
        folds: number of folds, at most n of them.
        seed: of the folds.
    """
    import threadpoolctl  # type: ignore[import-untyped]  # scikit-learn needs it too

    features = np.asarray(features, np.float64)
    features = features / (np.sqrt(np.mean(np.square(features))) or 1.0)
    fold = folds_of(labels, min(folds, len(labels)), seed)
    probabilities = np.empty((len(labels), num_classes))
    with threadpoolctl.threadpool_limits(1):
        l2 = linear_probes.sweep_logistic(
            features, labels, num_classes=num_classes, l2_values=_L2_VALUES, seed=seed
        ).l2
        for number in np.unique(fold):
            test = fold == number
            fit = linear_probes.fit_logistic(
                features[~test], labels[~test], l2=l2 or 1.0, num_classes=num_classes
            )
            probabilities[test] = fit.probabilities(features[test])
    return probabilities


def cross_validate(
    features: np.ndarray, labels: np.ndarray, *, folds: int = 5, seed: int = 0
) -> CrossValidation:
    """Returns the cross-validated accuracy of a logistic regression on features.

    Its L2 strength is chosen within the images that each fold trains on.

    Args:
        features: (n, d), of labeled images.
        labels: (n,) integers from 0; n at least 2.
        folds: number of folds, at most n of them.
        seed: of the folds.
    """
    import threadpoolctl

    features, labels = np.asarray(features), np.asarray(labels)
    fold = folds_of(labels, min(folds, len(labels)), seed)
    predicted = np.empty_like(labels)
    for number in np.unique(fold):
        test = fold == number
        # A few hundred images do not occupy many threads.
        with threadpoolctl.threadpool_limits(1):
            fit = linear_probes.sweep_logistic(
                features[~test],
                labels[~test],
                num_classes=int(labels.max()) + 1,
                l2_values=_L2_VALUES,
                seed=seed,
            )
        predicted[test] = fit.predict(features[test])
    correct = predicted == labels
    pooled = linear_probes.accuracies(predicted, labels)
    low, high = intervals.wilson(float(correct.sum()), len(labels))
    return CrossValidation(
        accuracy=pooled["top_1"],
        low=low,
        high=high,
        mean_per_class=pooled["mean_per_class"],
        fold_accuracies=tuple(float(correct[fold == n].mean()) for n in np.unique(fold)),
        num_images=len(labels),
        majority_class=knn.majority_class_accuracy(labels),
    )
