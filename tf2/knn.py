"""Probes: how good frozen features are, without training a network on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf2 import errors


def knn_accuracy(
    train_features,
    train_labels,
    test_features,
    test_labels,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk_size: int = 256,
) -> float:
    """Returns the accuracy of weighted nearest neighbours by cosine similarity, exactly.

    Each of the k most similar training images votes for its class with the weight
    exp(similarity / temperature) (Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination", section 3.4). Ties go to the earlier training image and to the lower
    class.

    Args:
        train_features: (n, d), the bank.
        train_labels: (n,) integers from 0 to num_classes - 1.
        test_features: (m, d).
        test_labels: (m,) integers from 0 to num_classes - 1.
        num_classes: number of classes.
        k: neighbours; at most n are used.
        temperature: the smaller, the more the nearest ones count; above 0.
        chunk_size: test images at a time; bounds the memory, doesn't change the result.

    Returns:
        The share of test images whose class wins, in [0, 1].

    Raises:
        errors.UserError: features or labels don't fit together, or features aren't finite.
    """
    test, test_labels = _check("test", test_features, test_labels, num_classes)
    winners = knn_predict(
        train_features, train_labels, test, num_classes=num_classes, k=k, temperature=temperature,
        chunk_size=chunk_size,
    )  # fmt: skip
    return int(np.sum(winners == test_labels)) / len(test)


def knn_predict(
    train_features,
    train_labels,
    test_features,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk_size: int = 256,
) -> np.ndarray:
    """Returns the class (m,) that each test image's neighbours elect; see `knn_accuracy`."""
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
    k = min(k, len(bank))
    bank = tf.math.l2_normalize(bank, axis=1)
    elected = []
    for start in range(0, len(test), chunk_size):
        chunk = tf.math.l2_normalize(test[start : start + chunk_size], axis=1)
        nearest = tf.math.top_k(tf.matmul(chunk, bank, transpose_b=True), k=k)  # each (chunk, k)
        voters = bank_labels[nearest.indices.numpy()]
        elected.append(_vote(nearest.values.numpy(), voters, num_classes, temperature))
    return np.concatenate(elected)


def _vote(similarity, labels, num_classes: int, temperature: float) -> np.ndarray:
    """Returns the classes (m,) that neighbours (m, k) elect, the nearest neighbour first."""
    similarity = similarity.astype(np.float64)
    # Relative to the nearest neighbour: that changes no election and can't overflow.
    weights = np.exp((similarity - similarity[:, :1]) / temperature)
    m = len(labels)
    ballot = np.arange(m)[:, np.newaxis] * num_classes + labels  # (m, k)
    votes = np.bincount(ballot.ravel(), weights.ravel(), minlength=m * num_classes)
    return votes.reshape(m, num_classes).argmax(axis=1)


def majority_class_accuracy(labels: Sequence[int] | np.ndarray) -> float:
    """Returns the accuracy of always predicting the most frequent class, in [0, 1].

    With balanced classes it is 1 / classes; with others, 1 / classes would flatter a probe.

    Args:
        labels: (m,) integers, of the test images.
    """
    labels = np.asarray(labels, np.int64)
    return float(np.bincount(labels).max() / len(labels))


def _check(name: str, features, labels, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
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
            "values that aren't. The network has diverged: go back to an earlier checkpoint."
        )
    return features, labels
