"""Linear classifiers on frozen features: logistic regression with its L2 sweep, and SGD.

Shapes: n images, d features, k classes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf2 import calibration

# SimCLR (Chen et al. 2020), appendix B.8: 45 values from 1e-6 to 1e5.
L2_SWEEP = tuple(float(value) for value in np.logspace(-6, 5, 45))


@dataclasses.dataclass
class Fit:
    """A linear classifier.

    Attributes:
        kernel: (d, k).
        bias: (k,).
        l2: the L2 strength; None for SGD.
        validation: strength -> accuracy on the held-out images, of a sweep.
        converged: whether the optimizer reached its tolerance.
    """

    kernel: np.ndarray
    bias: np.ndarray
    l2: float | None = None
    validation: dict[float, float] = dataclasses.field(default_factory=dict)
    converged: bool = True

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns the class of each row of features (n, d)."""
        return np.argmax(self._logits(features), axis=1)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Returns the probabilities (n, k) of the classes for features (n, d)."""
        return calibration.softmax(self._logits(features))

    def _logits(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features, np.float64) @ self.kernel + self.bias


def fit_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    l2: float,
    num_classes: int,
    start: Fit | None = None,
) -> Fit:
    """Fits a multinomial logistic regression by L-BFGS.

    Minimizes the mean cross entropy over the n images plus l2 / (2 n) |kernel|^2, i.e. `l2` weighs
    |kernel|^2 / 2 against the sum of the cross entropies; the bias is free.

    Args:
        features: (n, d).
        labels: (n,) integers below num_classes; a class without images is never predicted.
        l2: above 0.
        num_classes: k.
        start: where to begin; the solution does not depend on it.
    """
    from sklearn import exceptions, linear_model

    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    present = np.unique(labels)
    kernel = np.zeros([features.shape[1], num_classes])
    bias = np.full([num_classes], -np.inf)
    if len(present) == 1:
        bias[present] = 0.0
        return Fit(kernel, bias, l2)
    # For two classes scikit-learn fits the difference of the two columns, whose squared length is
    # twice that of both together.
    strength = 1.0 / l2 if len(present) > 2 else 2.0 / l2
    model = linear_model.LogisticRegression(C=strength, max_iter=1000, tol=1e-4, warm_start=True)
    if start is not None and len(present) > 2:
        model.coef_ = start.kernel.T[present].copy()
        model.intercept_ = start.bias[present].copy()
        model.classes_ = present
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", exceptions.ConvergenceWarning)
        model.fit(features, labels)
    converged = not any(issubclass(w.category, exceptions.ConvergenceWarning) for w in caught)
    if len(present) == 2:
        kernel[:, present] = np.outer(model.coef_[0], [-0.5, 0.5])
        bias[present] = model.intercept_[0] * np.array([-0.5, 0.5])
    else:
        kernel[:, present], bias[present] = model.coef_.T, model.intercept_
    return Fit(kernel, bias, l2, converged=converged)


def sweep_logistic(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    l2_values: Sequence[float] = L2_SWEEP,
    validation_fraction: float = 0.2,
    seed: int = 0,
    report: Callable[[int, int, float, float], None] = lambda *_: None,
) -> Fit:
    """Chooses the L2 strength on held-out images, then fits on all images (appendix B.8).

    Features are divided by their root mean square, so that one range of strengths suits every
    network; the returned fit is for the features as given.

    Args:
        features: (n, d).
        labels: (n,) integers.
        num_classes: k.
        l2_values: strengths to try; the stronger one wins a tie.
        validation_fraction: share of each class to hold out for the choice; the only image of a
            class is not held out.
        seed: of the images held out.
        report: called after each fit with its number, their number, the strength, the accuracy.
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    scale = float(np.sqrt(np.mean(np.square(features)))) or 1.0
    features = features / scale
    held = _held_out(labels, validation_fraction, seed)
    scores: dict[float, float] = {}
    fit = None
    strengths = sorted(l2_values, reverse=True)  # each fit starts from the stronger one's
    for number, l2 in enumerate(strengths, 1):
        fit = fit_logistic(
            features[~held], labels[~held], l2=l2, num_classes=num_classes, start=fit
        )
        where = held if held.any() else ~held
        scores[l2] = float(np.mean(fit.predict(features[where]) == labels[where]))
        report(number, len(strengths), l2, scores[l2])
    best = max(scores, key=lambda l2: (scores[l2], l2))
    final = fit_logistic(features, labels, l2=best, num_classes=num_classes)
    return dataclasses.replace(final, kernel=final.kernel / scale, validation=scores)


def _held_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Returns (n,) bool: the images to hold out, the same share of each class."""
    random = np.random.RandomState(seed)
    held: np.ndarray = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        indices = random.permutation(np.flatnonzero(labels == label))
        held[indices[: int(round(fraction * len(indices)))]] = True
    return held


def fit_sgd(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    epochs: int = 90,
    batch_size: int = 256,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    seed: int = 0,
) -> Fit:
    """Fits a linear classifier by SGD with Nesterov momentum and a cosine rate.

    SimCLR, appendix B.6: learning rate 0.1 * batch_size / 256, 90 epochs, no weight decay. Features
    are divided by their root mean square, so that the rate suits networks of any width.

    Args:
        features: (n, d).
        labels: (n,) integers.
        num_classes: k.
        epochs: passes over the features.
        batch_size: images per step, at most n.
        learning_rate: per 256 images.
        momentum: of SGD.
        seed: of the order.
    """
    features, labels = np.asarray(features, np.float32), np.asarray(labels, np.int32)
    scale = float(np.sqrt(np.mean(np.square(features)))) or 1.0
    scaled = tf.constant(features / scale)
    targets = tf.constant(labels)
    batch = min(batch_size, len(features))
    steps = len(features) // batch
    peak = learning_rate * batch / 256
    state = [
        tf.Variable(tf.zeros([features.shape[1], num_classes])),
        tf.Variable(tf.zeros([num_classes])),
    ]
    velocities = [tf.Variable(tf.zeros_like(value)) for value in state]

    @tf.function
    def run_epoch(order: tf.Tensor, first: tf.Tensor) -> None:
        for step in tf.range(steps):
            rows = order[step * batch : (step + 1) * batch]
            x, y = tf.gather(scaled, rows), tf.one_hot(tf.gather(targets, rows), num_classes)
            done = tf.cast(first + step, tf.float32) / float(epochs * steps)
            rate = peak * 0.5 * (1.0 + tf.cos(np.pi * done))
            error = (tf.nn.softmax(x @ state[0] + state[1]) - y) / float(batch)
            gradients = [tf.matmul(x, error, transpose_a=True), tf.reduce_sum(error, 0)]
            for value, velocity, gradient in zip(state, velocities, gradients, strict=True):
                velocity.assign(momentum * velocity + gradient)
                value.assign_sub(rate * (momentum * velocity + gradient))

    random = np.random.RandomState(seed)
    for number in range(epochs):
        order = tf.constant(random.permutation(len(features)).astype(np.int32))
        run_epoch(order, tf.constant(number * steps))
    kernel, bias = (value.numpy().astype(np.float64) for value in state)
    return Fit(kernel / scale, bias)


def accuracies(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns top_1, the share of correct predictions, and mean_per_class, its mean by class."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    correct = predictions == labels
    by_class = [correct[labels == label].mean() for label in np.unique(labels)]
    return {"top_1": float(correct.mean()), "mean_per_class": float(np.mean(by_class))}
