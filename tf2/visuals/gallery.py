"""Figures of features and predictions: a source and arrays in, the bytes of a PNG out.

This module chooses the images and computes what a figure shows; `plots` and `image_grids` draw it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tf2 import data
from tf2.inspection import neighbors
from tf2.sources import loaders
from tf2.visuals import image_grids, plots, projector

MAX_IMAGES = projector.MAX_IMAGES  # of the map, the projector and the confusion matrix
_QUERIES, _NEIGHBORS = 6, 6
_PREDICTIONS = 18


def sample_indices(size: int, count: int = MAX_IMAGES, seed: int = 0) -> np.ndarray:
    """Returns at most `count` of the indices 0 to size - 1, sorted; the same ones for a seed."""
    return np.sort(np.random.RandomState(seed).permutation(size)[:count])


def draw_map(
    features: np.ndarray, labels: np.ndarray, class_names: Sequence[str] | None, *, description: str
) -> bytes:
    """Draws a t-SNE map of features as a PNG.

    Args:
        features: (n, d).
        labels: (n,), the colors; -1 for an unlabeled image.
        class_names: by label; None if there are no classes.
        description: what the images are, for the title.
    """
    unit = neighbors.normalize(features)
    perplexity = min(30.0, (len(unit) - 1) / 3)
    title = f"t-SNE of final_avg_pool (cosine similarity, perplexity {perplexity:.0f})"
    return plots.feature_map(
        _tsne(unit, perplexity), labels, class_names, title=f"{title}\n{description}"
    )


def draw_neighbors(
    source: loaders.Source,
    split: str,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    description: str,
    image_size: int,
    resize: str,
) -> bytes:
    """Draws query images of a split and their nearest neighbors, as a PNG.

    Args:
        source: the images.
        split: the features' split.
        features: (n, d), in stored order.
        labels: (n,); -1 for an unlabeled image.
        description: what the images are, for the title.
        image_size: pixels to draw an image with.
        resize: see `data.build_eval_dataset`.
    """
    unit = neighbors.normalize(features)
    queries = np.random.RandomState(1).permutation(len(unit))[:_QUERIES]
    cosines = unit[queries] @ unit.T  # (queries, n)
    cosines[np.arange(len(queries)), queries] = -np.inf
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(_NEIGHBORS, len(unit) - 1)]
    indices = np.unique(np.concatenate([queries, nearest.ravel()]))
    subset = source.subset(split, indices)
    pixels = load_images(subset, split, len(indices), image_size=image_size, resize=resize)
    images = dict(zip(indices, pixels, strict=True))
    ids = dict(zip(indices, subset.ids(split), strict=True))

    def cell(index: int, query: int, cosine: float | None) -> dict:
        label = labels[index]
        name = os.path.basename(ids[index])
        if label >= 0:
            name = source.class_names[label] if source.class_names else str(label)
        known = cosine is not None and label >= 0 and labels[query] >= 0
        same = bool(label == labels[query]) if known else None
        return {"image": images[index], "name": name, "cosine": cosine, "same": same}

    rows = [
        [cell(query, query, None), *(cell(i, query, float(row[i])) for i in best)]
        for query, row, best in zip(queries, cosines, nearest, strict=True)
    ]
    return image_grids.neighbors(
        rows, title=f"Nearest neighbors by cosine similarity of the features\n{description}"
    )


def draw_predictions(
    source: loaders.Source,
    split: str,
    rows: Sequence[Mapping],
    true_classes: Sequence[str | None],
    *,
    description: str,
    image_size: int,
    resize: str,
) -> bytes:
    """Draws some images of a split with their predictions, as a PNG.

    Args:
        source: the images.
        split: the predictions' split.
        rows: per image, in stored order: class, probability.
        true_classes: per image, its class; None if unknown.
        description: what the images are, for the title.
        image_size: pixels to draw an image with.
        resize: see `data.build_eval_dataset`.
    """
    indices = sample_indices(len(rows), _PREDICTIONS, seed=1)
    subset = source.subset(split, indices)
    images = load_images(subset, split, len(indices), image_size=image_size, resize=resize)
    cells = [
        {
            "image": image,
            "predicted": rows[index]["class"],
            "probability": rows[index]["probability"],
            "true": true_classes[index],
        }
        for index, image in zip(indices, images, strict=True)
    ]
    return image_grids.predictions(cells, title=f"Predictions for {len(cells)} of {description}")


def load_images(
    source: loaders.Source, split: str, count: int, *, image_size: int, resize: str
) -> np.ndarray:
    """Returns the first images (count, size, size, c) of a split, as a network sees them."""
    batches = data.build_eval_dataset(
        source, split, batch_size=count, image_size=image_size, resize=resize
    )
    return next(iter(batches))["image"].numpy()


def thumbnails(
    source: loaders.Source, split: str, positions: Sequence[int] | np.ndarray, *, side: int
) -> list[bytes]:
    """Returns whole images of a split as JPEGs, in the order of the positions.

    Args:
        source: the images.
        split: of them.
        positions: of the images in the split, each once.
        side: pixels, at most; smaller images keep their size.
    """
    subset = source.subset(split, positions)

    def encode(record: dict) -> tf.Tensor:
        image = source.decode(record)["image"]
        longest = tf.reduce_max(tf.shape(image)[:2])
        if longest > side:
            size = tf.maximum(tf.shape(image)[:2] * side // longest, 1)
            image = tf.image.resize(image, size, method="area")
            image = tf.cast(tf.round(image), tf.uint8)
        image = image if image.shape[-1] == 3 else image[..., :1]
        return tf.io.encode_jpeg(image, quality=90)

    jpegs = subset.records(split).map(encode, num_parallel_calls=tf.data.AUTOTUNE)
    stored = dict(zip(np.sort(positions), jpegs.as_numpy_iterator(), strict=True))
    return [stored[position] for position in positions]


def _tsne(unit: np.ndarray, perplexity: float) -> np.ndarray:
    """Returns coordinates (n, 2) of features (n, d) of unit length."""
    import threadpoolctl  # type: ignore[import-untyped]  # scikit-learn needs it too
    from sklearn import manifold

    # A thousand points do not occupy many threads, and those would compete with TensorFlow's.
    with threadpoolctl.threadpool_limits(1):
        tsne = manifold.TSNE(perplexity=perplexity, init="pca", random_state=0)
        return tsne.fit_transform(unit)
