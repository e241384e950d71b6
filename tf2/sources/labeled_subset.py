"""Chooses the labeled subset that semi-supervised learning uses, balanced over classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tf2 import errors


def select_labels(
    labels: np.ndarray,
    *,
    fraction: float = 0.0,
    per_class: int = 0,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Chooses labeled examples, equally many of each class.

    Args:
        labels: int64 (n,); -1 means unlabeled.
        fraction: fraction of the labeled examples to choose, at least one per class. Classes differ
            by at most one, unless one has too few examples and others make up for it (1% of
            ImageNet: 12 or 13 of each class, 12,811 in total).
        per_class: or the number of examples per class.
        seed: of the random choice.
        class_names: for messages.

    Returns:
        Positions, int64, sorted.

    Raises:
        errors.UserError: there are not enough labels.
    """
    labels = np.asarray(labels)
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    if not len(classes):
        raise errors.UserError(
            "A labeled subset needs labeled images. Received: a split without labels. Remove "
            "--label_fraction and --labels_per_class."
        )
    random = np.random.RandomState(seed)
    if per_class:
        _check_class_sizes(classes, sizes, per_class, class_names)
        counts = np.full(len(classes), per_class)
    else:
        if not 0 < fraction <= 1:
            raise errors.UserError(
                "The label fraction must be above 0 and at most 1. Received: "
                f"label_fraction={fraction}. Correct --label_fraction."
            )
        counts = _divide(round(fraction * sizes.sum()), sizes, random)
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(classes, counts, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _check_class_sizes(
    classes: np.ndarray, sizes: np.ndarray, per_class: int, class_names: Sequence[str] | None
) -> None:
    smallest = int(np.argmin(sizes))
    if sizes[smallest] < per_class:
        label = int(classes[smallest])
        name = class_names[label] if class_names else label
        raise errors.UserError(
            f"Class {name} has only {sizes[smallest]} labeled images. Received: "
            f"labels_per_class={per_class}. Set --labels_per_class to at most {sizes[smallest]}."
        )


def _divide(total: int, sizes: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Divides `total` over classes as equally as their sizes allow, at least one each."""
    counts: np.ndarray = np.ones(len(sizes), np.int64)
    left = total - counts.sum()
    while left > 0:
        free = np.flatnonzero(counts < sizes)
        each = left // len(free)
        if each == 0:  # fewer than there are classes: draw which of them get one
            counts[random.permutation(free)[:left]] += 1
            break
        added = np.minimum(sizes[free] - counts[free], each)
        counts[free] += added
        left -= added.sum()
    return counts
