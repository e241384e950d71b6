"""The nearest neighbors of each image by cosine similarity, exactly, in blocks."""

from __future__ import annotations

import dataclasses

import numpy as np

_BLOCK = 1024  # images per matrix product: (1024, n) similarities at a time


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The k nearest neighbors of n images, the nearest first.

    Attributes:
        indices: (n, k) int64.
        cosines: (n, k) float32.
    """

    indices: np.ndarray
    cosines: np.ndarray


def normalize(features: np.ndarray) -> np.ndarray:
    """Returns features (n, d) of length 1, as float32; zeros stay zeros."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def nearest(features: np.ndarray, k: int, block: int = _BLOCK) -> Neighbors:
    """Returns the nearest neighbors of each image among the others.

    Args:
        features: (n, d), n at least 2.
        k: neighbors; at most n - 1.
        block: images at a time; limits memory, not the result.
    """
    unit = normalize(features)
    k = min(k, len(unit) - 1)
    indices: np.ndarray = np.empty((len(unit), k), np.int64)
    cosines: np.ndarray = np.empty((len(unit), k), np.float32)
    for start in range(0, len(unit), block):
        rows = np.arange(start, min(start + block, len(unit)))
        similarity = unit[rows] @ unit.T  # (block, n)
        similarity[rows - start, rows] = -np.inf
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(similarity, best, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        indices[rows] = np.take_along_axis(best, order, 1)
        cosines[rows] = np.take_along_axis(values, order, 1)
    return Neighbors(indices, cosines)
