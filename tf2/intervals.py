"""95 % confidence intervals of accuracies, as fractions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

ENOUGH_IMAGES = 50  # from fewer, an accuracy says little: its interval spans up to 27 points
_Z = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def wilson(correct: float, n: float) -> tuple[float, float]:
    """Returns the Wilson score interval of an accuracy: (low, high), both in [0, 1].

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference". Unlike
    p +- 1.96 standard errors it holds for few images and for accuracies near 0 or 1.

    Args:
        correct: number of correct predictions, 0 to n.
        n: number of predictions; (0, 1) for none.
    """
    if not n:
        return 0.0, 1.0
    p, z2 = correct / n, _Z**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    # Exactly p at both ends, where rounding could leave a bound on the wrong side of it.
    return max(min(center - half, p), 0.0), min(max(center + half, p), 1.0)


def mean_of_classes(correct: Sequence[float], counts: Sequence[float]) -> tuple[float, float]:
    """Returns the interval of the mean per-class accuracy, (low, high).

    The distances of the classes' Wilson bounds from their accuracies, combined as independent
    errors of a mean (Zou and Donner 2008, "Construction of confidence limits about effect
    measures"). For one class it is `wilson`.

    Args:
        correct: number of correct predictions of each class.
        counts: number of images of each class; classes without images don't count.
    """
    classes = [(c / n, *wilson(c, n)) for c, n in zip(correct, counts, strict=True) if n]
    if not classes:
        return 0.0, 1.0
    mean = sum(p for p, _, _ in classes) / len(classes)
    below = math.sqrt(sum((p - low) ** 2 for p, low, _ in classes)) / len(classes)
    above = math.sqrt(sum((high - p) ** 2 for p, _, high in classes)) / len(classes)
    return mean - below, mean + above


def text(value: float, interval: tuple[float, float] | None, decimals: int = 1) -> str:
    """Formats fractions as 87.2 % (83.4 to 90.3); None leaves the interval out."""
    percent = f"{100 * value:.{decimals}f} %"
    return percent if interval is None else f"{percent} {bounds(*interval)}"


def bounds(low: float, high: float) -> str:
    """Formats fractions as (83.4 to 90.3), in percent."""
    return f"({100 * low:.1f} to {100 * high:.1f})"


def of_result(results: Mapping, name: str) -> tuple[float, float] | None:
    """Returns the interval of an accuracy in a result.json; None where it has none.

    Args:
        results: name -> value; eval/label_top_1_low and _high belong to eval/label_top_1_accuracy.
        name: of the accuracy.
    """
    low, high = (results.get(f"{name.removesuffix('_accuracy')}_{end}") for end in ("low", "high"))
    return None if low is None or high is None else (low, high)
