"""The Python API of a trained network: features, predictions, accuracies and figures of images.

    import tf2 as simclr

    features = simclr.embed("runs/digits_pretrain", "images").values           # (n, d)
    predictions = simclr.predict("runs/digits_finetune", "images").rows()      # a dict per image
    simclr.draw_neighbors("runs/digits_pretrain", "images").save("neighbors.png")

Functions here compute and return; `commands` writes the same things to files. How images are
prepared is read from the model.json beside the weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf2 import calibration, errors, evaluation, intervals, run_directory
from tf2 import config as config_lib
from tf2.apply import features as features_lib
from tf2.apply import network as network_lib
from tf2.apply import results
from tf2.sources import given, loaders
from tf2.visuals import gallery

Path = str | os.PathLike
# A folder, a CSV manifest or an image file; several files; arrays; or a source.
Images = (
    str
    | os.PathLike
    | Sequence[str | os.PathLike]
    | np.ndarray
    | Sequence[np.ndarray]
    | loaders.Source
)


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
        path: of the network: a model_dir, that of a run of all stages (its pretrained network), a
            checkpoint prefix, an exported SavedModel, or the name of a released network.
        images: a folder, a CSV manifest, an image file, a list of these files; uint8 arrays
            (n, h, w, channels), (n, h, w), of one image, or a list of one-image arrays of any
            sizes; or a source, as `load_source` returns it.
        endpoint: which features: final_avg_pool, the backbone's output; initial_conv,
            initial_max_pool or block_group1 to block_group4, averaged over height and width;
            proj_0, proj_1, ..., the projection head's layers, of which 0 is the backbone's output;
            proj_head_output; or logits_sup of a classifier.
        split: of the images; by default all to train on, and in a source its split "train".
        weights: 'online', or 'ema' of a network pretrained with a memory.
        batch_size: images per forward pass.

    Returns:
        values (n, d) float32, labels (n,) int64 with -1 for none, ids; `.to_csv(path)` writes them.

    Raises:
        errors.UserError: the network, the images or the endpoint do not exist or do not fit.
    """
    network, opened = open_both(path, images, batch_size, mode="embed", weights=weights)
    extract = network_lib.build_extractor(network, opened)
    return extract(split or network_lib.default_split(opened), endpoint)


def predict(
    path: Path,
    images: Images,
    *,
    split: str | None = None,
    batch_size: int = 256,
    min_precision: float = 0.0,
    coverage: float = 0.0,
) -> results.Predictions:
    """Returns a classifier's probabilities for images.

        predictions = predict("runs/photos", "more_photos")
        predictions.rows()  # the best five classes of each image
        predictions.to_csv("predictions.csv")

    Args:
        path: of the network: a model_dir, that of a run of all stages (its student, else the
            network trained last), a checkpoint prefix, an exported SavedModel, or the name of a
            released network.
        images: a folder, a CSV manifest, an image file, a list of these files; uint8 arrays
            (n, h, w, channels), (n, h, w), of one image, or a list of one-image arrays of any
            sizes; or a source, as `load_source` returns it.
        split: of the images; by default all to train on, and in a source its split "train".
        batch_size: images per forward pass.
        min_precision: precision that the predictions without review must have, such as 0.95; the
            others have review=yes. 0 asks for none.
        coverage: share of the images whose set of classes must hold the true one; 0 asks for none.

    Returns:
        ids, probabilities (n, k) float64 and class_names.

    Raises:
        errors.UserError: the network has no classifier, or the network or the images do not exist
            or do not fit.
    """
    network, opened = open_both(path, images, batch_size, mode="predict")
    extract = network_lib.build_extractor(network, opened)
    return classify(
        network,
        extract,
        split or network_lib.default_split(opened),
        min_precision=min_precision,
        coverage=coverage,
    )


def score(
    path: Path, images: Images, *, split: str | None = None, batch_size: int = 256
) -> dict[str, float]:
    """Returns a classifier's accuracies on labeled images, with the keys of result.json.

    Computed as `--mode=eval` does, with the preprocessing of the network's own run.

    Args:
        path: of the network: a model_dir, that of a run of all stages (its student),
            a checkpoint prefix, an exported SavedModel, or the name of a released network.
        images: with labels: a folder of class folders, a CSV manifest, or a source, as
            `load_source` returns it.
        split: of the images; by default all to train on, and in a source its split "train".
        batch_size: images per forward pass.

    Returns:
        Name, as in result.json, -> value: eval/label_top_1_accuracy and others.

    Raises:
        errors.UserError: the network has no classifier, or not as many classes as the images; or
            the network or the images do not exist or do not fit.
    """
    network, opened = open_both(path, images, batch_size, mode="predict")
    classes = network.model.hyperparameters["num_classes"]
    if not classes or classes != opened.num_classes:
        raise errors.UserError(
            "The classifier and the images must have the same classes. Received: "
            f"{network.path} for {classes or 'no'} classes, {opened.name} with "
            f"{opened.num_classes or 'no'} classes. Use others, or fine-tune the network first."
        )
    config = network.config.replace(
        eval_split=split or network_lib.default_split(opened), eval_steps=0
    )
    return evaluation.Evaluator(config, opened, network.strategy).evaluate(network.model)


def draw_map(
    path: Path,
    images: Images,
    *,
    split: str | None = None,
    features: features_lib.Features | None = None,
) -> results.Drawing:
    """Draws a t-SNE map of a network's features, of at most a thousand images.

    Args:
        path: of the network: a model_dir, that of a run of all stages (its pretraining),
            a checkpoint prefix, an exported SavedModel, or the name of a released network.
        images: a folder, a CSV manifest, an image file, a list of these files; uint8 arrays
            (n, h, w, channels), (n, h, w) or a list of one-image arrays; or a source.
        split: of the images; by default all to train on, and in a source its split "train".
        features: what `embed` returned for the same images; None computes them.

    Returns:
        A PNG: bytes that a notebook shows, with `.save(path)`.

    Raises:
        errors.UserError: the network or the images do not exist or do not fit.
    """
    _, opened, split, features = _features_to_draw(path, images, split, features)
    indices = gallery.sample_indices(len(features.labels))
    png = gallery.draw_map(
        *(features.values[indices], features.labels[indices], opened.class_names),
        description=f"{len(indices):,} images of {opened.name}/{split}",
    )
    return results.Drawing(png)


def draw_neighbors(
    path: Path,
    images: Images,
    *,
    split: str | None = None,
    features: features_lib.Features | None = None,
) -> results.Drawing:
    """Draws some images and their nearest neighbors among all images.

    Neighbors are found by the cosine similarity of the features.

    Args:
        path: of the network: a model_dir, that of a run of all stages (its pretraining),
            a checkpoint prefix, an exported SavedModel, or the name of a released network.
        images: a folder, a CSV manifest, an image file, a list of these files; uint8 arrays
            (n, h, w, channels), (n, h, w) or a list of one-image arrays; or a source.
        split: of the images; by default all to train on, and in a source its split "train".
        features: what `embed` returned for the same images; None computes them.

    Returns:
        A PNG: bytes that a notebook shows, with `.save(path)`.

    Raises:
        errors.UserError: the network or the images do not exist or do not fit.
    """
    network, opened, split, features = _features_to_draw(path, images, split, features)
    png = gallery.draw_neighbors(
        *(opened, split, features.values, features.labels),
        description=f"{len(features.labels):,} images of {opened.name}/{split}",
        image_size=network.config.image_size,
        resize=network.config.resize,
    )
    return results.Drawing(png)


def draw_predictions(
    path: Path,
    images: Images,
    *,
    split: str | None = None,
    predictions: results.Predictions | None = None,
) -> results.Drawing:
    """Draws some images with the predicted class and its probability.

    Correct and wrong predictions are marked if the images have the classes of the network.

    Args:
        path: of the network: a model_dir, that of a run of all stages (its student),
            a checkpoint prefix, an exported SavedModel, or the name of a released network.
        images: a folder, a CSV manifest, an image file, a list of these files; uint8 arrays
            (n, h, w, channels), (n, h, w) or a list of one-image arrays; or a source.
        split: of the images; by default all to train on, and in a source its split "train".
        predictions: what `predict` returned for the same images; None computes them.

    Returns:
        A PNG: bytes that a notebook shows, with `.save(path)`.

    Raises:
        errors.UserError: the network has no classifier, or the network or the images do not exist
            or do not fit.
    """
    network, opened = open_both(path, images, 256, mode="predict")
    split = split or network_lib.default_split(opened)
    if predictions is None:
        predictions = classify(network, network_lib.build_extractor(network, opened), split)
    true_classes: list[str | None] = [None] * len(predictions.ids)
    names = list(opened.class_names or map(str, range(opened.num_classes or 0)))
    if names == list(predictions.class_names):
        true_classes = [names[label] if label >= 0 else None for label in opened.labels(split)]
    png = gallery.draw_predictions(
        *(opened, split, predictions.rows(top=1), true_classes),
        description=f"{len(true_classes):,} images of {opened.name}/{split}",
        image_size=network.config.image_size,
        resize=network.config.resize,
    )
    return results.Drawing(png)


def classify(
    network: network_lib.Network,
    extract: features_lib.Extractor,
    split: str,
    *,
    min_precision: float = 0.0,
    coverage: float = 0.0,
) -> results.Predictions:
    """Returns the class probabilities of a split, at the network's temperature.

    Args:
        network: the network.
        extract: of its features.
        split: of the images.
        min_precision, coverage: see `predict`.

    Raises:
        errors.UserError: the network has no classifier, or too few held-out labels to say what is
            asked for.
    """
    if not network.model.hyperparameters["num_classes"]:
        raise errors.UserError(
            f"Predictions need a network with a classifier. Received: {network.path}, which has "
            "none. Fine-tune it first (--train_mode=finetune), or use --mode=embed."
        )
    measured = network.calibration
    if (min_precision or coverage) and (measured is None or measured.unknown):
        asked = ("min_precision", min_precision) if min_precision else ("coverage", coverage)
        name, value = asked
        held_out = measured.num_images if measured else 0
        raise errors.UserError(
            f"{name} takes at least {intervals.ENOUGH_IMAGES} held-out labels that the network "
            f"was evaluated on. Received: {name}={value} for {network.path}, with {held_out}. "
            f"Label more images or raise --holdout and train again, or remove --{name}."
        )
    features = extract(split, "logits_sup")
    probabilities = calibration.softmax(features.values, measured.temperature if measured else 1.0)
    review_below = set_from = None
    if measured and min_precision:
        found = calibration.threshold(measured, min_precision)
        review_below = np.inf if found is None else found
    if measured and coverage:
        set_from = calibration.set_threshold(measured, coverage)
    names = network.class_names
    return results.Predictions(features.ids, probabilities, names, review_below, set_from)


def _features_to_draw(
    path: Path, images: Images, split: str | None, features: features_lib.Features | None
) -> tuple[network_lib.Network, loaders.Source, str, features_lib.Features]:
    network, opened = open_both(path, images, 256, mode="embed")
    split = split or network_lib.default_split(opened)
    if features is None:
        features = network_lib.build_extractor(network, opened)(split)
    return network, opened, split, features


def open_both(
    path: Path, images: Images, batch_size: int, *, mode: str, **settings: Any
) -> tuple[network_lib.Network, loaders.Source]:
    """Returns the network of a path and the opened images, which fit it.

    Args:
        path, images: see `embed`.
        batch_size: images per forward pass.
        mode: see `run_directory.network`.
        **settings: further flags.

    Raises:
        errors.UserError: they do not exist or do not fit.
    """
    settings |= {"mode": mode, "eval_batch_size": batch_size}
    settings["checkpoint"] = run_directory.network(
        os.path.expanduser(os.fspath(path)), mode, settings.get("select_method", "")
    )
    if isinstance(images, str | os.PathLike) and not given.is_file(images):
        settings |= {"dataset": "folder", "data_dir": os.path.expanduser(os.fspath(images))}
    config = config_lib.Config(**settings)
    config.validate()
    network = network_lib.open_network(config)
    if "data_dir" in settings:
        return network, network_lib.open_images(network)
    opened = given.build_given_source(images, network.model.hyperparameters["channels"])
    network_lib.check_channels(network, opened)
    return network, opened
