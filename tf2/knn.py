"""Nearest-neighbor classification of frozen features."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tf2 import errors


def knn_accuracy(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk_size: int = 256,
) -> float:
    """Returns the accuracy of a weighted k-nearest-neighbor classifier by cosine similarity.

    Each of the k most similar training images votes for its class with the weight
    exp(similarity / temperature) (Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination", section 3.4). The search is exact. Ties go to the earlier training
    image and to the lower class.

    Args:
        train_features: (n, d) features of the training images.
        train_labels: (n,) integers from 0 to num_classes - 1.
        test_features: (m, d).
        test_labels: (m,) integers from 0 to num_classes - 1.
        num_classes: number of classes.
        k: number of neighbors; at most n are used.
        temperature: above 0; a smaller one gives the nearest neighbors more weight.
        chunk_size: number of test images per matrix product; limits memory, not the result.

    Returns:
        The share of test images whose predicted class is the true class, in [0, 1].

    Raises:
        errors.UserError: shapes or labels don't match, or a feature is not finite.
    """
    test, test_labels = _check("test", test_features, test_labels, num_classes)
    predictions = knn_predict(
        train_features, train_labels, test, num_classes=num_classes, k=k, temperature=temperature,
        chunk_size=chunk_size,
    )  # fmt: skip
    return int(np.sum(predictions == test_labels)) / len(test)


def leave_one_out_accuracy(
    features: ArrayLike, labels: ArrayLike, *, num_classes: int, **options: Any
) -> float:
    """Returns the share of images (n, d) whose class the others predict; n is at least 2.

    It uses every labeled image twice where there are too few to hold out; see `knn_accuracy` for
    the classifier and its options.
    """
    labels = np.asarray(labels, np.int64)
    predictions = knn_predict(
        features, labels, features, num_classes=num_classes, leave_one_out=True, **options
    )
    return float(np.mean(predictions == labels))


def knn_predict(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk_size: int = 256,
    leave_one_out: bool = False,
) -> np.ndarray:
    """Returns the predicted class of each test image, (m,); see `knn_accuracy`.

    With `leave_one_out` the test images are the training images, and none is its own neighbor.
    """
    bank, bank_labels = _check("train", train_features, train_labels, num_classes)
    test = np.asarray(test_features, np.float32)
    if bank.shape[1] != test.shape[1]:
        raise errors.UserError(
            "Both sets of features must have the same width. Received: widths "
            f"{bank.shape[1]} and {test.shape[1]}. Take both from the same endpoint."
        )
    if k < 1 or not temperature > 0:
        raise errors.UserError(
            f"k must be at least 1 and the temperature above 0. Received: k={k}, "
            f"temperature={temperature}."
        )
    k = min(k, len(bank) - leave_one_out)
    bank = tf.math.l2_normalize(bank, axis=1)
    predictions = []
    for start in range(0, len(test), chunk_size):
        chunk = tf.math.l2_normalize(test[start : start + chunk_size], axis=1)
        similarity = tf.matmul(chunk, bank, transpose_b=True)  # (chunk, n)
        if leave_one_out:
            itself = tf.one_hot(start + tf.range(len(chunk)), len(bank), np.inf, 0.0)
            similarity -= itself
        nearest = tf.math.top_k(similarity, k=k)  # each (chunk, k)
        voters = bank_labels[nearest.indices.numpy()]
        predictions.append(_vote(nearest.values.numpy(), voters, num_classes, temperature))
    return np.concatenate(predictions)


def _vote(
    similarity: np.ndarray, labels: np.ndarray, num_classes: int, temperature: float
) -> np.ndarray:
    """Returns the class with the most votes, (m,); neighbors (m, k) are in order of distance."""
    similarity = similarity.astype(np.float64)
    # Relative to the nearest neighbor: the result is the same, without overflow.
    weights = np.exp((similarity - similarity[:, :1]) / temperature)
    m = len(labels)
    ballot = np.arange(m)[:, np.newaxis] * num_classes + labels  # (m, k)
    votes = np.bincount(ballot.ravel(), weights.ravel(), minlength=m * num_classes)
    return votes.reshape(m, num_classes).argmax(axis=1)


def majority_class_accuracy(labels: ArrayLike) -> float:
    """Returns the accuracy of always predicting the most frequent class, in [0, 1].

    With balanced classes it is 1 / classes; with others, 1 / classes would flatter a probe.

    Args:
        labels: (m,) integers, the true classes of the test images.
    """
    labels = np.asarray(labels, np.int64)
    return float(np.bincount(labels).max() / len(labels))


def _check(
    name: str, features: ArrayLike, labels: ArrayLike, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features and labels as arrays, checked."""
    features = np.asarray(features, np.float32)
    labels = np.asarray(labels, np.int64)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise errors.UserError(
            f"{name}_features must be (n, d) and {name}_labels (n,), with n at least 1. Received: "
            f"shapes {features.shape} and {labels.shape}."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise errors.UserError(
            f"{name}_labels must be from 0 to num_classes - 1. Received: labels from "
            f"{labels.min()} to {labels.max()}, num_classes={num_classes}."
        )
    if not np.isfinite(features).all():
        raise errors.UserError(
            f"{name}_features must be finite. Received: {int(np.sum(~np.isfinite(features)))} "
            "values that are not. The network has diverged: use an earlier checkpoint."
        )
    return features, labels
