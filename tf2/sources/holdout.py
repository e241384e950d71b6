"""Chooses the labeled images that are held out for evaluation.

The choice depends on the paths, the classes and the seed only, so that every stage and every later
evaluation of a run makes the same one. No TensorFlow import.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_LEAST = 2  # labeled images of a class to hold out, and to leave


def count(labeled: int, fraction: float) -> int:
    """Returns how many of a class's labeled images are held out.

    The fraction, but at least two where that leaves two to train on; and never more than leaves
    two.
    """
    wanted = round(fraction * labeled)
    if labeled >= 2 * _LEAST:
        wanted = max(wanted, _LEAST)
    return max(0, min(wanted, labeled - _LEAST))


def choose(
    paths: Sequence[str], classes: Sequence[str | None], fraction: float, seed: int = 0
) -> set[int]:
    """Returns the indices of the images to hold out, the same fraction of each class.

    Images are drawn in the order of a hash of seed and path: new images change little of it.

    Args:
        paths: relative to the folder.
        classes: of the images; None, without a label, is never held out.
        fraction: of each class; see `count`.
        seed: of the choice.
    """
    by_class: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        if name is not None:
            by_class.setdefault(name, []).append(index)

    def order(index: int) -> bytes:
        text = f"{seed}/{paths[index]}".replace("\\", "/")
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    held_out: set[int] = set()
    for indices in by_class.values():
        held_out.update(sorted(indices, key=order)[: count(len(indices), fraction)])
    return held_out


def choose_fraction(classes: Sequence[str | None], fraction: float) -> set[int]:
    """Returns the indices that --val_fraction holds out: of each class and of unlabeled images."""
    import numpy as np  # half of the time that --help would take

    by_class: dict[str | None, list[int]] = {}
    for index, name in enumerate(classes):
        by_class.setdefault(name, []).append(index)
    # Not the run's seed: fine-tuning with another seed must not evaluate on images of pretraining.
    random = np.random.RandomState(0)
    held_out: set[int] = set()
    for name in sorted(by_class, key=str):
        indices = random.permutation(by_class[name])
        held_out.update(indices[: round(fraction * len(indices))].tolist())
    return held_out
