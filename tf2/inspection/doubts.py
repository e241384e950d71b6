"""Images that are unlike all others, and labels that are unlikely."""

from __future__ import annotations

import dataclasses

import numpy as np

OUTLIER_NEIGHBORS = 20  # foreign images come in groups; a group of up to this many is found
OUTLIER_SCORE = 3.5  # Iglewicz and Hoaglin 1993: the usual limit of a modified z-score
_SHARE_OF_CHANCE = 0.2  # a label is doubtful whose probability is below this share of 1 / classes


def outlier_scores(cosines: np.ndarray) -> np.ndarray:
    """Returns how far each image is from the others, (n,), as a modified z-score of a logarithm.

    The distance is 1 minus the cosine to the last neighbor. Distances spread over orders of
    magnitude, so their logarithms are compared with the median: 0.6745 deviations over the median
    absolute deviation.

    Args:
        cosines: (n, k) of each image's nearest neighbors, the nearest first.
    """
    distances = np.log(np.maximum(1 - np.asarray(cosines[:, -1], np.float64), 1e-7))
    deviations = distances - np.median(distances)
    spread = np.median(np.abs(deviations))
    return 0.6745 * deviations / spread if spread else np.zeros(len(cosines))


@dataclasses.dataclass(frozen=True)
class Doubts:
    """Doubtful labels, the least probable first.

    Attributes:
        indices: of the images.
        probabilities: of their labels.
        suggested: the most probable class.
        suggested_probabilities: of it.
    """

    indices: np.ndarray
    probabilities: np.ndarray
    suggested: np.ndarray
    suggested_probabilities: np.ndarray


def doubtful_labels(probabilities: np.ndarray, labels: np.ndarray) -> Doubts:
    """Finds the labels that are far less probable than chance.

    Args:
        probabilities: (n, k), of a classifier that has not been fitted to the image itself.
        labels: (n,) integers.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    doubtful = np.flatnonzero(own < _SHARE_OF_CHANCE / probabilities.shape[1])
    doubtful = doubtful[np.argsort(own[doubtful], kind="stable")]
    best = probabilities[doubtful].argmax(1)
    return Doubts(doubtful, own[doubtful], best, probabilities[doubtful, best])
