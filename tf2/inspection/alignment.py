"""How well one image fits into another: as it is, mirrored, or as a crop of it.

The measure is the correlation of small versions of both, after the mean of each row and of each
column is taken away: what is left is the content, without the light sky over dark ground that
many photographs have in common. It is 1 for equal images. The place of a crop is searched for on a
coarse grid, and refined where that looks promising.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike

_COARSE, _FINE = 8, 12  # pixels per side that are compared
_INTERVALS = [
    (start, start + size)
    for size, starts in ((1.0, (0.0,)), (0.9, (0.0, 0.05, 0.1)), (0.8, (0.0, 0.1, 0.2)))
    for start in starts
]  # of the places of a crop, along one side
_BOXES = list(itertools.product(range(len(_INTERVALS)), repeat=2))
_STEPS = (0.04, 0.02, 0.01)  # of the refinement, as fractions of a side
_SMALLEST = 0.7  # of a crop: a side, as a fraction
_PROMISING = 0.75  # coarse correlation from which a pair is refined
LEAST_CONTRAST = 2.0  # of 255; flatter images have no content to compare
_PAIRS_AT_ONCE = 1024


def correlations(thumbnails: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Returns how well each candidate fits into an image, mirrored or not: (n, k), at most 1.

    Args:
        thumbnails: (n, s, s, c), any numbers from 0 to 255.
        candidates: (n, k), for each image the indices of those to compare it with.
    """
    side = thumbnails.shape[1]
    whole = _content(_resize(thumbnails, _averaging(0.0, 1.0, _COARSE, side)))  # (n, p)
    mirrored = _content(_resize(thumbnails[:, :, ::-1], _averaging(0.0, 1.0, _COARSE, side)))
    lows, highs = np.transpose(_INTERVALS)
    strips = _averaging(lows, highs, _COARSE, side)  # (intervals, 8, s)
    found = np.empty(candidates.shape, np.float32)
    starts = np.empty((*candidates.shape, 2), np.int64)  # the best box, and whether mirrored
    for index, others in enumerate(candidates):
        image: np.ndarray = thumbnails[index].astype(np.float32)
        rows = np.einsum("uis,stc->uitc", strips, image, optimize=True)
        crops = np.einsum("uitc,vjt->uvijc", rows, strips, optimize=True)
        crops = _content(crops.reshape(len(_BOXES), *crops.shape[2:]))  # (boxes, p)
        both = np.concatenate([whole[others], mirrored[others]])  # (2k, p)
        scores = (crops @ both.T).reshape(len(_BOXES), 2, len(others))
        best = scores.reshape(-1, len(others)).argmax(0)  # (k,)
        found[index] = scores.reshape(-1, len(others)).max(0)
        starts[index] = np.stack(np.divmod(best, 2), -1)
    promising = np.argwhere(found >= _PROMISING)  # (pairs, 2)
    for begin in range(0, len(promising), _PAIRS_AT_ONCE):
        row, column = promising[begin : begin + _PAIRS_AT_ONCE].T
        box, flipped = starts[row, column].T
        others = thumbnails[candidates[row, column]]
        others = np.where(flipped[:, None, None, None] == 1, others[:, :, ::-1], others)
        found[row, column] = _refine(thumbnails[row], others, np.array(_BOXES)[box])
    return found


def _refine(images: np.ndarray, others: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the correlations of pairs (m, s, s, c) at the best box near the coarse one (m, 2)."""
    images, side = images.astype(np.float32), images.shape[1]
    target = _content(_resize(others, _averaging(0.0, 1.0, _FINE, side)))
    intervals = np.array(_INTERVALS)
    places = np.concatenate([intervals[boxes[:, 0]], intervals[boxes[:, 1]]], 1)  # y, y, x, x

    def score(places: np.ndarray) -> np.ndarray:
        low_y, high_y, low_x, high_x = places.T
        rows = np.einsum("mis,mstc->mitc", _averaging(low_y, high_y, _FINE, side), images)
        crops = np.einsum("mitc,mjt->mijc", rows, _averaging(low_x, high_x, _FINE, side))
        return np.einsum("mp,mp->m", _content(crops), target)

    best = score(places)
    for step, edge, sign in itertools.product(_STEPS, range(4), (-1, 1)):
        for _ in range(2):
            moved = places.copy()
            moved[:, edge] = np.clip(moved[:, edge] + sign * step, 0, 1)
            sizes = moved[:, 1::2] - moved[:, ::2]
            value = np.where((sizes >= _SMALLEST).all(1), score(moved), -1.0)
            better = value > best
            places[better], best[better] = moved[better], value[better]
    return best


def contrast(thumbnails: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of what is compared of each image, in gray levels, (n,)."""
    side = thumbnails.shape[1]
    content = _centered(_resize(thumbnails, _averaging(0.0, 1.0, _COARSE, side)))
    return np.sqrt(np.mean(content**2, axis=(1, 2, 3)))


def _averaging(low: ArrayLike, high: ArrayLike, size: int, side: int) -> np.ndarray:
    """Returns matrices (..., size, side) that average an interval of a side, in fractions of it."""
    begin, end = np.asarray(low, np.float32)[..., None], np.asarray(high, np.float32)[..., None]
    edges = side * (begin + (end - begin) * np.arange(size + 1, dtype=np.float32) / size)
    edges = edges[..., None]  # (..., size + 1, 1)
    pixels: np.ndarray = np.arange(side, dtype=np.float32)
    overlap = np.minimum(edges[..., 1:, :], pixels + 1) - np.maximum(edges[..., :-1, :], pixels)
    return np.maximum(overlap, 0) / np.diff(edges, axis=-2)


def _resize(images: np.ndarray, averaging: np.ndarray) -> np.ndarray:
    """Returns images (n, s, s, c) as (n, size, size, c)."""
    rows = np.einsum("is,nstc->nitc", averaging, images.astype(np.float32), optimize=True)
    return np.einsum("nitc,jt->nijc", rows, averaging, optimize=True)


def _centered(images: np.ndarray) -> np.ndarray:
    """Returns images (n, h, w, c) without the means of their rows and columns."""
    rows, columns = images.mean(2, keepdims=True), images.mean(1, keepdims=True)
    return images - rows - columns + images.mean((1, 2), keepdims=True)


def _content(images: np.ndarray) -> np.ndarray:
    """Returns what is compared of images (n, h, w, c), as rows of length 1; flat ones are zero."""
    flat = _centered(images).reshape(len(images), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    least = LEAST_CONTRAST * np.sqrt(flat.shape[1])
    return np.where(norms >= least, flat / np.maximum(norms, 1e-12), 0)
