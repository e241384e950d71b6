"""The Python API of a trained network: features, predictions, accuracies and figures of images.

    import tf2 as simclr

    features = simclr.embed("runs/digits_pretrain", "images").values           # (n, d)
    predictions = simclr.predict("runs/digits_finetune", "images").rows()      # a dict per image
    png = simclr.draw_neighbors("runs/digits_pretrain", "images")              # bytes

Functions here compute and return; `commands` writes the same things to files. How images are
prepared is read from the model.json beside the weights.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf2 import config as config_lib
from tf2 import errors, evaluation
from tf2.apply import features as features_lib
from tf2.apply import network as network_lib
from tf2.sources import loaders, memory, source
from tf2.visuals import gallery

TOP = 5

Path = str | os.PathLike
# A folder or a CSV manifest, an array, or a source.
Images = str | os.PathLike | np.ndarray | Sequence[np.ndarray] | loaders.Source


@dataclasses.dataclass
class Predictions:
    """The class probabilities of n images.

    Attributes:
        ids: the images' names.
        probabilities: (n, k) float64; a row sums to 1.
        class_names: k names.
    """

    ids: Sequence[str]
    probabilities: np.ndarray
    class_names: Sequence[str]

    def rows(self, top: int = TOP) -> list[dict]:
        """Returns for each image its path and its most probable classes.

        The keys are path, class, probability, class_2, probability_2, ..., best first.

        Args:
            top: classes per image, at most.
        """
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :top]
        rows = []
        for name, probabilities, best in zip(self.ids, self.probabilities, order, strict=True):
            row: dict[str, Any] = {"path": name}
            for rank, label in enumerate(best, 1):
                suffix = "" if rank == 1 else f"_{rank}"
                row[f"class{suffix}"] = self.class_names[label]
                row[f"probability{suffix}"] = float(probabilities[label])
            rows.append(row)
        return rows


def embed(
    path: Path,
    images: Images,
    *,
    endpoint: str = "final_avg_pool",
    split: str | None = None,
    weights: str = "online",
    batch_size: int = 256,
) -> features_lib.Features:
    """Returns a network's features of images.

    Args:
        path: a model_dir, a checkpoint prefix, an exported SavedModel, or the name of a released
            network.
        images: a picture folder, a CSV manifest, an array (n, h, w, channels) or (n, h, w) uint8,
            or a `source.Source`.
        endpoint: which features; see `features`.
        split: of the images, if they have several; the training split by default.
        weights: 'online', or 'ema' of a network pretrained with a memory.
        batch_size: images per forward pass.

    Returns:
        values (n, d) float32, labels (n,), ids.

    Raises:
        errors.UserError: the network, the images or the endpoint do not exist or do not fit.
    """
    network, opened = _open(path, images, weights, batch_size)
    extract = network_lib.build_extractor(network, opened)
    return extract(split or _first_split(opened), endpoint)


def predict(
    path: Path, images: Images, *, split: str | None = None, batch_size: int = 256
) -> Predictions:
    """Returns a classifier's probabilities for images; `.rows()` names the best five classes.

    Args:
        path: see `embed`.
        images: see `embed`.
        split: see `embed`.
        batch_size: see `embed`.

    Raises:
        errors.UserError: the network has no classifier; else as `embed`.
    """
    network, opened = _open(path, images, "online", batch_size)
    extract = network_lib.build_extractor(network, opened)
    return classify(network, extract, split or _first_split(opened))


def score(
    path: Path, images: Images, *, split: str | None = None, batch_size: int = 256
) -> dict[str, float]:
    """Returns a classifier's accuracies on labeled images, with the keys of result.json.

    Computed as `--mode=eval` does, with the preprocessing of the network's own run.

    Args:
        path: see `embed`.
        images: see `embed`.
        split: see `embed`.
        batch_size: see `embed`.

    Raises:
        errors.UserError: the network has no classifier, or not as many classes as the images; else
            as `embed`.
    """
    network, opened = _open(path, images, "online", batch_size)
    classes = network.model.hyperparameters["num_classes"]
    if not classes or classes != opened.num_classes:
        raise errors.UserError(
            "The classifier and the images must have the same classes. Received: "
            f"{network.path} for {classes or 'no'} classes, {opened.name} with "
            f"{opened.num_classes or 'no'} classes. Use others, or fine-tune the network first."
        )
    config = network.config.replace(eval_split=split or _first_split(opened), eval_steps=0)
    return evaluation.Evaluator(config, opened, network.strategy).evaluate(network.model)


def draw_map(
    path: Path,
    images: Images,
    *,
    split: str | None = None,
    features: features_lib.Features | None = None,
) -> bytes:
    """Draws a t-SNE map of a network's features, of at most a thousand images; returns a PNG.

    Args:
        path: see `embed`.
        images: see `embed`.
        split: see `embed`.
        features: what `embed` returned for the same images; None computes them.
    """
    _, opened, split, features = _features_to_draw(path, images, split, features)
    indices = gallery.sample_indices(len(features.labels))
    return gallery.draw_map(
        *(features.values[indices], features.labels[indices], opened.class_names),
        description=f"{len(indices):,} images of {opened.name}/{split}",
    )


def draw_neighbors(
    path: Path,
    images: Images,
    *,
    split: str | None = None,
    features: features_lib.Features | None = None,
) -> bytes:
    """Draws some images and their nearest neighbors among all images; returns a PNG.

    Neighbors are found by the cosine similarity of the features.

    Args:
        path: see `embed`.
        images: see `embed`.
        split: see `embed`.
        features: see `draw_map`.
    """
    network, opened, split, features = _features_to_draw(path, images, split, features)
    return gallery.draw_neighbors(
        *(opened, split, features.values, features.labels),
        description=f"{len(features.labels):,} images of {opened.name}/{split}",
        image_size=network.config.image_size,
        resize=network.config.resize,
    )


def draw_predictions(
    path: Path,
    images: Images,
    *,
    split: str | None = None,
    predictions: Predictions | None = None,
) -> bytes:
    """Draws some images with the predicted class and its probability; returns a PNG.

    Correct and wrong predictions are marked if the images have the classes of the network.

    Args:
        path: see `embed`.
        images: see `embed`.
        split: see `embed`.
        predictions: what `predict` returned for the same images; None computes them.

    Raises:
        errors.UserError: as `predict`.
    """
    network, opened = _open(path, images, "online", 256)
    split = split or _first_split(opened)
    if predictions is None:
        predictions = classify(network, network_lib.build_extractor(network, opened), split)
    true_classes: list[str | None] = [None] * len(predictions.ids)
    names = list(opened.class_names or map(str, range(opened.num_classes or 0)))
    if names == list(predictions.class_names):
        true_classes = [names[label] if label >= 0 else None for label in opened.labels(split)]
    return gallery.draw_predictions(
        *(opened, split, predictions.rows(top=1), true_classes),
        description=f"{len(true_classes):,} images of {opened.name}/{split}",
        image_size=network.config.image_size,
        resize=network.config.resize,
    )


def classify(
    network: network_lib.Network, extract: features_lib.Extractor, split: str
) -> Predictions:
    """Returns the class probabilities of a split.

    Raises:
        errors.UserError: the network has no classifier.
    """
    if not network.model.hyperparameters["num_classes"]:
        raise errors.UserError(
            f"Predictions need a network with a classifier. Received: {network.path}, which has "
            "none. Fine-tune it first (--train_mode=finetune), or use --mode=embed."
        )
    features = extract(split, "logits_sup")
    logits: np.ndarray = features.values.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return Predictions(features.ids, probabilities, network.class_names)


def _features_to_draw(
    path: Path, images: Images, split: str | None, features: features_lib.Features | None
) -> tuple[network_lib.Network, loaders.Source, str, features_lib.Features]:
    network, opened = _open(path, images, "online", 256)
    split = split or _first_split(opened)
    if features is None:
        features = network_lib.build_extractor(network, opened)(split)
    return network, opened, split, features


def _open(
    path: Path, images: Images, weights: str, batch_size: int
) -> tuple[network_lib.Network, loaders.Source]:
    """Returns the network of a path and the opened images, which fit it."""
    settings: dict[str, Any] = {"mode": "embed", "weights": weights, "eval_batch_size": batch_size}
    settings["checkpoint"] = os.path.expanduser(os.fspath(path))
    if isinstance(images, str | os.PathLike):
        settings |= {"dataset": "folder", "data_dir": os.path.expanduser(os.fspath(images))}
    config = config_lib.Config(**settings)
    config.validate()
    network = network_lib.open_network(config)
    if "data_dir" in settings:
        return network, network_lib.open_images(network)
    opened = images if isinstance(images, source.Source) else memory.ArraySource(images)
    network_lib.check_channels(network, opened)
    return network, opened


def _first_split(images: loaders.Source) -> str:
    return "train" if "train" in images.splits else next(iter(images.splits))
