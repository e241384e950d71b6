"""Groups of images that are the same picture: copied, compressed again, mirrored or cropped.

A network's features propose the pairs and pixels decide. Features alone cannot: in a small network
the nearest other photograph is often as close as a cropped copy.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tf2.inspection import alignment

CANDIDATES = 10  # nearest neighbors that each image is compared with
_LEAST, _ENOUGH = 0.9, 0.99  # correlations: below, above which the threshold is never set
_CLOSER = 8  # a duplicate differs at most an eighth as much as the usual neighbor


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """What `find` returns.

    Attributes:
        groups: indices of the same picture, two or more each, both in ascending order.
        correlations: (n,) float32, an image's largest with another one of its group; 0 outside.
        threshold: correlation from which two images are the same picture.
    """

    groups: list[list[int]]
    correlations: np.ndarray
    threshold: float


def find(thumbnails: np.ndarray, candidates: np.ndarray) -> Duplicates:
    """Finds the same pictures among images.

    Args:
        thumbnails: (n, s, s, c) from 0 to 255; see `alignment.correlations`.
        candidates: (n, k), the indices of each image's nearest neighbors by its features.
    """
    values = alignment.correlations(thumbnails, candidates)
    limit = threshold(values)
    pairs = [(int(i), int(candidates[i, j]), values[i, j]) for i, j in np.argwhere(values >= limit)]
    best: np.ndarray = np.zeros(len(thumbnails), np.float32)
    for first, second, value in pairs:
        best[first], best[second] = max(best[first], value), max(best[second], value)
    groups = connected([(first, second) for first, second, _ in pairs])
    return Duplicates(groups, best, limit)


def threshold(correlations: np.ndarray) -> float:
    """Returns the correlation from which two images are the same picture.

    Photographs that are neighbors rarely correlate above 0.8, small drawings of digits above 0.9.
    So a duplicate has to be far closer than the median of all pairs of neighbors.

    Args:
        correlations: (n, k) of each image with its nearest neighbors.
    """
    usual = 1 - float(np.median(correlations))
    return min(max(1 - usual / _CLOSER, _LEAST), _ENOUGH)


def connected(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Returns the connected groups of a graph, each sorted, in the order of their first members."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    groups: dict[int, list[int]] = {}
    for node in sorted(parent):
        groups.setdefault(root(node), []).append(node)
    return list(groups.values())
