"""The methods of `--select_method`: each chooses images from features, best first.

`METHODS[name]` is a function of a `Pool` and a number of images. A new method is one entry.

    maxherding             greedy maximum of the coverage (Bae et al. 2024)
    typiclust              the most typical image of each cluster (Hacohen et al. 2022)
    kcenter                the image farthest from all labeled ones (Sener and Savarese 2018)
    random                 uniform
    margin                 the smallest margin between the two most probable classes
    uncertainty_herding    coverage, images weighted by 1 - margin (Bae et al. 2025)
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np

from tf2 import errors
from tf2.flags import evaluation
from tf2.inspection import neighbors
from tf2.selection import kernel

_MAX_CLUSTERS = 500
_SMALLEST_CLUSTER = 5
_NEIGHBORS = 20
_GROUPS = 20
_MANY = 10_000


@dataclasses.dataclass(frozen=True)
class Pool:
    """The images to choose from, and what is known of them.

    Attributes:
        unit: features (n, d) of unit length, float32.
        is_labeled: (n,) bool: the images that are never chosen, and count as covered.
        width: of the kernel; see `kernel.find_width`.
        probabilities: of the classes (n, k); None without a classifier.
        seed: of every random choice.
    """

    unit: np.ndarray
    is_labeled: np.ndarray
    width: float
    probabilities: np.ndarray | None = None
    seed: int = 0

    @property
    def labeled(self) -> np.ndarray:
        """The indices of the labeled images."""
        return np.flatnonzero(self.is_labeled)

    @property
    def candidates(self) -> np.ndarray:
        """The indices of the images to choose from."""
        return np.flatnonzero(~self.is_labeled)

    @property
    def margins(self) -> np.ndarray:
        """The difference of the two largest probabilities, (n,); needs two classes."""
        assert self.probabilities is not None
        top = np.partition(self.probabilities, -2, axis=1)[:, -2:]
        return top[:, 1] - top[:, 0]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Images to label, best first.

    Attributes:
        indices: (count,) of the images.
        clusters: (count,) a number that images of similar features share.
        coverage: (count,) of all images up to this one; see `kernel.coverages`.
    """

    indices: np.ndarray
    clusters: np.ndarray
    coverage: np.ndarray


def choose(
    features: np.ndarray,
    count: int,
    *,
    method: str = "maxherding",
    is_labeled: np.ndarray | None = None,
    probabilities: np.ndarray | None = None,
    seed: int = 0,
) -> Choice:
    """Chooses images to label.

    Args:
        features: (n, d).
        count: images to choose.
        method: of `METHODS`.
        is_labeled: (n,) bool; labeled images are never chosen. None: no image is.
        probabilities: of the classes (n, k), which margin and uncertainty_herding need.
        seed: of every random choice.

    Raises:
        errors.UserError: the method is unknown or lacks probabilities, or fewer images than count
            have no label.
    """
    labeled = np.zeros(len(features), bool) if is_labeled is None else np.asarray(is_labeled, bool)
    check(method, count, int(np.sum(~labeled)), probabilities is not None)
    unit = neighbors.normalize(features)
    width = kernel.find_width(unit, int(labeled.sum()) + count, seed)
    pool = Pool(unit, labeled, width, probabilities, seed)
    indices = METHODS[method](pool, count)
    return Choice(
        indices,
        _cluster(unit, min(_GROUPS, count), seed)[indices],
        kernel.coverages(unit, pool.labeled, indices, width, seed),
    )


def check(method: str, count: int, unlabeled: int, has_classifier: bool) -> None:
    """Checks a choice.

    Args:
        method: of `METHODS`.
        count: images to choose.
        unlabeled: images without a label.
        has_classifier: whether probabilities of classes are known.

    Raises:
        errors.UserError: it is not possible.
    """
    if method not in METHODS:
        raise errors.UserError(
            f"select_method must be one of {', '.join(METHODS)}. Received: select_method={method}. "
            "Correct --select_method."
        )
    if not 1 <= count <= unlabeled:
        raise errors.UserError(
            f"Images are chosen among those without a label, of which there are {unlabeled:,}. "
            f"Received: count={count}. "
            + (f"Set --count to 1 to {unlabeled}." if unlabeled else "All images are labeled.")
        )
    if method in evaluation.CLASSIFIER_METHODS and not has_classifier:
        raise errors.UserError(
            f"{method} needs a network with a classifier of two or more classes. Received: "
            f"select_method={method}, a network without one. Fine-tune it first, or use "
            "--select_method=maxherding."
        )


# ---- the methods


def _max_herding(pool: Pool, count: int) -> np.ndarray:
    return _herd(pool, count, None)


def _uncertainty_herding(pool: Pool, count: int) -> np.ndarray:
    return _herd(pool, count, 1 - pool.margins)


def _herd(pool: Pool, count: int, weights: np.ndarray | None) -> np.ndarray:
    return kernel.herd(
        *(pool.unit, pool.candidates, pool.labeled, count),
        width=pool.width,
        weights=weights,
        seed=pool.seed,
    )


def _margin(pool: Pool, count: int) -> np.ndarray:
    candidates = pool.candidates
    return candidates[np.argsort(pool.margins[candidates], kind="stable")[:count]]


def _random(pool: Pool, count: int) -> np.ndarray:
    return np.random.RandomState(pool.seed).permutation(pool.candidates)[:count]


def _k_center(pool: Pool, count: int) -> np.ndarray:
    """Greedy k-center; without labeled images the first is the one nearest to the mean."""
    candidates = pool.candidates
    unit = pool.unit[candidates]
    nearest = kernel.cosine_to_nearest(unit, pool.unit[pool.labeled])
    if not len(pool.labeled):
        nearest = -(unit @ unit.mean(axis=0))  # decides the first one alone
    chosen: list[int] = []
    for number in range(count):
        best = int(np.argmin(nearest))
        cosines = unit @ unit[best]
        first = number == 0 and not len(pool.labeled)
        nearest = cosines if first else np.maximum(nearest, cosines)
        nearest[best] = np.inf
        chosen.append(best)
    return candidates[chosen]


def _typi_clust(pool: Pool, count: int) -> np.ndarray:
    """The most typical image of each cluster, clusters without a label and large ones first.

    As many clusters as images are labeled in the end, at most 500. An image is typical if its mean
    distance to its 20 nearest neighbors in the cluster is small.
    """
    number = min(len(pool.labeled) + count, _MAX_CLUSTERS)
    clusters = _cluster(pool.unit, number, pool.seed)
    sizes = np.bincount(clusters, minlength=number)
    labeled = np.bincount(clusters[pool.labeled], minlength=number)
    order = np.lexsort((-sizes, labeled, sizes < _SMALLEST_CLUSTER))
    left = {c: np.flatnonzero((clusters == c) & ~pool.is_labeled) for c in order}
    chosen: list[int] = []
    while len(chosen) < count:
        for cluster in [c for c in order if len(left[c])][: count - len(chosen)]:
            members = left[cluster]
            best = members[np.argmin(_neighbor_distances(pool.unit[members]))]
            chosen.append(best)
            left[cluster] = members[members != best]
    return np.array(chosen)


def _neighbor_distances(unit: np.ndarray) -> np.ndarray:
    """Returns the mean distance (n,) of each image to its nearest neighbors among the others."""
    k = min(_NEIGHBORS, len(unit) // 2)
    if not k:
        return np.zeros(len(unit))
    means = []
    for rows in kernel.blocks(unit):
        squares = np.partition(2 - 2 * (rows @ unit.T), k, axis=1)[:, : k + 1]
        distances = np.sqrt(np.maximum(squares, 0))
        means.append((distances.sum(axis=1) - distances.min(axis=1)) / k)  # without itself
    return np.concatenate(means)


def _cluster(unit: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Returns the cluster (n,) of each image, by k-means."""
    import threadpoolctl  # type: ignore[import-untyped]  # scikit-learn needs it too
    from sklearn import cluster, exceptions

    # Few images do not occupy several threads, which would compete with others.
    with threadpoolctl.threadpool_limits(1 if len(unit) < _MANY else None):
        with warnings.catch_warnings():  # of fewer different images than clusters
            warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
            return cluster.KMeans(number, n_init=1, random_state=seed).fit_predict(unit)


METHODS: dict[str, Callable[[Pool, int], np.ndarray]] = {
    "maxherding": _max_herding,
    "typiclust": _typi_clust,
    "kcenter": _k_center,
    "random": _random,
    "margin": _margin,
    "uncertainty_herding": _uncertainty_herding,
}
