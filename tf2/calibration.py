"""How far probabilities can be trusted, by images with labels that were not trained on.

A temperature makes a network's probabilities match its accuracy on held-out images (Guo et al.
2017, "On Calibration of Modern Neural Networks"). The same images show from which probability on
predictions are precise enough to be used without review, and which sets of classes hold the true
one.

Shapes: n held-out images, k classes. NumPy alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf2 import intervals

BINS = 15  # Guo et al. 2017, section 2
_FOLDS = 5
_LOG_RANGE = (math.log(0.05), math.log(20.0))  # of the temperature
_RANKS = 100  # of the precision curve
_ERRORS = 50  # percent: the largest share of sets without the true class


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What held-out images say of a classifier; model.json has it.

    Attributes:
        global_step: of the weights it was measured with.
        num_images: held-out images with a label.
        temperature: divisor of the logits; 1 where nothing was fitted.
        unknown: why nothing was fitted, a sentence; "" where it was.
        ece_before: expected calibration error at temperature 1.
        ece_after: the same at the temperature of the other folds, so that no image tests a
            temperature that was fitted to it.
        reliability: (count, mean probability, accuracy) of each bin, before and after.
        precision_curve: (probability, images predicted with at least that, correct ones of them).
        true_class_quantiles: at a - 1, the probability that the true class reaches but in a % of
            images, by split conformal prediction; 0 where there are too few images to say.
    """

    global_step: int
    num_images: int
    temperature: float = 1.0
    unknown: str = ""
    ece_before: float | None = None
    ece_after: float | None = None
    reliability: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)
    precision_curve: Sequence[Sequence[float]] = ()
    true_class_quantiles: Sequence[float] = ()


def from_json(stored: Mapping[str, Any] | None) -> Calibration | None:
    """Returns the calibration of a model.json; None without one."""
    names = {field.name for field in dataclasses.fields(Calibration)}
    return Calibration(**{k: v for k, v in stored.items() if k in names}) if stored else None


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Returns the probabilities (n, k) float64 of logits divided by a temperature."""
    logits = np.asarray(logits, np.float64) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def calibrate(logits: np.ndarray, labels: np.ndarray, *, global_step: int = 0) -> Calibration:
    """Measures and fits on held-out images.

    Args:
        logits: (n, k).
        labels: (n,) integers, the true classes.
        global_step: of the weights.
    """
    n = len(labels)
    if n < intervals.ENOUGH_IMAGES:
        return Calibration(
            global_step,
            n,
            unknown=f"How far the probabilities can be trusted is unknown: {n} labeled images are "
            f"held out, and it takes at least {intervals.ENOUGH_IMAGES}.",
        )
    temperature = fit_temperature(logits, labels)
    fold: np.ndarray = np.arange(n) % _FOLDS
    tested = np.empty(logits.shape)
    for number in range(_FOLDS):
        test = fold == number
        tested[test] = softmax(logits[test], fit_temperature(logits[~test], labels[~test]))
    before, final = softmax(logits), softmax(logits, temperature)
    own = np.sort(final[np.arange(n), labels])
    return Calibration(
        global_step,
        n,
        temperature=temperature,
        ece_before=calibration_error(before, labels),
        ece_after=calibration_error(tested, labels),
        reliability={"before": reliability(before, labels), "after": reliability(tested, labels)},
        precision_curve=precision_curve(final, labels),
        true_class_quantiles=[
            float(own[rank - 1]) if (rank := (n + 1) * percent // 100) else 0.0
            for percent in range(1, _ERRORS + 1)
        ],
    )


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature with the smallest mean cross entropy.

    1 where every image is classified correctly: the optimum would be certainty, which so few images
    cannot show. The predicted classes do not depend on it.

    Args:
        logits: (n, k).
        labels: (n,) integers.
    """
    from scipy import optimize  # scikit-learn needs it too

    logits, rows = np.asarray(logits, np.float64), np.arange(len(labels))
    if np.array_equal(logits.argmax(axis=1), labels):
        return 1.0

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, labels]))

    found = optimize.minimize_scalar(
        cross_entropy, bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-6}
    )
    return math.exp(float(found.x))


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> list[list[float]]:
    """Returns (count, mean probability, accuracy) of each bin of the largest probability.

    The bins have equal widths and include their upper ends.

    Args:
        probabilities: (n, k).
        labels: (n,) integers.
        bins: number of bins.
    """
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for index in range(bins):
        own = number == index
        count = int(own.sum())
        mean = float(confidence[own].mean()) if count else 0.0
        rows.append([count, mean, float((predicted == labels)[own].mean()) if count else 0.0])
    return rows


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Returns the expected calibration error (Guo et al. 2017, equation 3), a fraction.

    The distance of accuracy and mean probability of each bin, weighted by its images.
    """
    rows = reliability(probabilities, labels, bins)
    return sum(count * abs(accuracy - mean) for count, mean, accuracy in rows) / len(labels)


def precision_curve(probabilities: np.ndarray, labels: np.ndarray) -> list[list[float]]:
    """Returns (probability, images with at least that, correct ones), from the most certain down.

    Args:
        probabilities: (n, k).
        labels: (n,) integers.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    surest = np.sort(confidence)[::-1]
    ranks = np.unique(np.round(np.linspace(1, len(labels), _RANKS)).astype(int))
    limits = np.unique(surest[ranks - 1])[::-1]
    return [
        [float(limit), int((confidence >= limit).sum()), int(correct[confidence >= limit].sum())]
        for limit in limits
    ]


def threshold(calibration: Calibration, min_precision: float) -> float | None:
    """Returns the lowest probability from which enough predictions are right.

    The lower end of the 95 % interval (Wilson) of the precision reaches `min_precision`.

    Args:
        calibration: of the classifier.
        min_precision: a fraction.

    Returns:
        None where no probability is known to do so.
    """
    passing = [
        limit
        for limit, images, correct in calibration.precision_curve
        if intervals.wilson(correct, images)[0] >= min_precision
    ]
    return min(passing, default=None)


def images_needed(min_precision: float) -> int:
    """Returns how many held-out images show a precision at least, if all of them are right."""
    count = 1
    while intervals.wilson(count, count)[0] < min_precision:
        count += 1
    return count


def set_threshold(calibration: Calibration, coverage: float) -> float:
    """Returns the probability from which a class belongs to an image's set.

    The sets hold the true class in a share `coverage` of all images like the held-out ones (split
    conformal prediction; Sadinle et al. 2019, "Least Ambiguous Set-Valued Classifiers"). 0, which
    means all classes, where there are too few held-out images.

    Args:
        calibration: of the classifier.
        coverage: a fraction, from 0.5; rounded up to whole percents.
    """
    percent = min(math.floor(100 * (1 - coverage) + 1e-9), _ERRORS)
    known = calibration.true_class_quantiles
    return float(known[percent - 1]) if known and percent >= 1 else 0.0


def sentences(calibration: Calibration | None) -> list[str]:
    """Returns what is known, in words."""
    if calibration is None:
        return []
    if calibration.unknown or calibration.ece_before is None or calibration.ece_after is None:
        return [calibration.unknown]
    return [
        f"Probabilities are of logits divided by {calibration.temperature:.3f}, fitted on "
        f"{calibration.num_images:,} held-out images. Expected calibration error: "
        f"{100 * calibration.ece_before:.1f} % before, {100 * calibration.ece_after:.1f} % after."
    ]


def precision_rows(
    calibration: Calibration | None, precisions: Sequence[float] = (0.9, 0.95, 0.99)
) -> list[tuple[str, str, str]]:
    """Returns (precision, probability, share of the held-out images that remains) in words."""
    if calibration is None or calibration.unknown:
        return []
    rows = []
    for precision in precisions:
        limit = threshold(calibration, precision)
        share = 0.0
        if limit is not None:
            counts = {point[0]: point[1] for point in calibration.precision_curve}
            share = counts[limit] / calibration.num_images
        known = "not known" if limit is None else f"{limit:.3f}"
        if images_needed(precision) > calibration.num_images:
            known += f": it takes {images_needed(precision)} held-out images"
        rows.append((f"{100 * precision:g} %", known, f"{100 * share:.0f} %"))
    return rows
