"""A trained network at work on images: its features and its answers.

    import tf2 as simclr

    features = simclr.embed("runs/digits_pretrain", "pictures").values          # (n, d)
    answers = simclr.predict("runs/digits_finetune", "pictures").rows()         # a dict per image
    picture = simclr.draw_neighbors("runs/digits_pretrain", "pictures")         # a PNG

How images are prepared is read from the model.json beside the weights.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import data, distribute, errors, evaluation
from tf2 import job as job_lib
from tf2.apply import features
from tf2.checkpoints import checkpoint
from tf2.sources import loaders, source
from tf2.visuals import gallery

TOP = 5


@dataclasses.dataclass
class Network:
    """A trained network.

    Attributes:
        model: the `model.SimCLR`.
        about: its model.json.
        config: with the image settings of the network's own run.
        strategy: where it computes.
        path: where its weights are.
    """

    model: object
    about: dict
    config: object
    strategy: tf.distribute.Strategy
    path: str

    @property
    def home(self) -> pathlib.Path:
        """The directory of the weights, their model.json and what else their run left."""
        return home(self.path)

    @property
    def class_names(self) -> list[str]:
        """Names by class; numbers where the network knows none."""
        classes = self.model.hyperparameters["num_classes"]
        return list(self.about["class_names"] or map(str, range(classes)))


@dataclasses.dataclass
class Predictions:
    """Answers of a classifier.

    Attributes:
        ids: the images' names.
        probabilities: (n, k) float64.
        class_names: k names.
    """

    ids: Sequence[str]
    probabilities: np.ndarray
    class_names: Sequence[str]

    def rows(self, top: int = TOP) -> list[dict]:
        """Returns for each image path, class, probability, class_2, probability_2, ..., best first.

        Args:
            top: classes per image, at most.
        """
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :top]
        rows = []
        for name, row, best in zip(self.ids, self.probabilities, order, strict=True):
            found = {"path": name}
            for place, which in enumerate(best, 1):
                suffix = "" if place == 1 else f"_{place}"
                found[f"class{suffix}"] = self.class_names[which]
                found[f"probability{suffix}"] = float(row[which])
            rows.append(found)
        return rows


def embed(
    path: str,
    images,
    *,
    endpoint: str = "final_avg_pool",
    split: str | None = None,
    weights: str = "online",
    batch_size: int = 256,
) -> features.Features:
    """Returns a network's features of images.

    Args:
        path: a model_dir, a checkpoint prefix, an export of this program, or the name of a
            released network.
        images: a folder of pictures, a CSV manifest, an array (n, h, w, channels) or (n, h, w)
            uint8, or a `source.Source`.
        endpoint: which features; see `features`.
        split: of the images, where there are several; the training split by default.
        weights: 'online', or 'ema' of a network pretrained with a memory.
        batch_size: images computed together.

    Returns:
        values (n, d) float32, labels (n,), ids.

    Raises:
        errors.UserError: there is no such network, image or endpoint, or they don't fit.
    """
    network, opened = _open(path, images, weights, batch_size)
    return extractor(network, opened)(split or _first_split(opened), endpoint)


def predict(path: str, images, *, split: str | None = None, batch_size: int = 256) -> Predictions:
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
    return classify(network, extractor(network, opened), split or _first_split(opened))


def score(path: str, images, *, split: str | None = None, batch_size: int = 256) -> dict:
    """Returns a classifier's accuracies on labeled images, under the names of result.json.

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
            "Accuracies need a classifier of the images' classes. Received: "
            f"{network.path} for {classes or 'no'} classes, {opened.name} with "
            f"{opened.num_classes or 'no'} classes. Give others, or fine-tune the network first."
        )
    config = network.config.replace(eval_split=split or _first_split(opened), eval_steps=0)
    return evaluation.Evaluator(config, opened, network.strategy).evaluate(network.model)


def draw_map(path: str, images, *, split: str | None = None, found=None) -> bytes:
    """Draws a t-SNE map of a network's features, of a thousand images at most; returns a PNG.

    Args:
        path: see `embed`.
        images: see `embed`.
        split: see `embed`.
        found: what `embed` returned for the same; computed where it is None.
    """
    _, opened, split, found = _for_picture(path, images, split, found)
    some = gallery.sample_of(len(found.labels))
    where = f"{len(some):,} images of {opened.name}/{split}"
    values, labels = found.values[some], found.labels[some]
    return gallery.draw_map(values, labels, opened.class_names, where=where)


def draw_neighbors(path: str, images, *, split: str | None = None, found=None) -> bytes:
    """Draws some images, and those nearest to them by the cosine of their features; see `draw_map`.

    Every image can be a neighbour. Returns a PNG.
    """
    network, opened, split, found = _for_picture(path, images, split, found)
    return gallery.draw_neighbors(
        opened,
        split,
        found.values,
        found.labels,
        where=f"{len(found.labels):,} images of {opened.name}/{split}",
        image_size=network.config.image_size,
        resize=network.config.resize,
    )


def draw_predictions(path: str, images, *, split: str | None = None, found=None) -> bytes:
    """Draws some images with a classifier's answers, and whether they are right; returns a PNG.

    The true classes are shown where the network was trained on the same ones.

    Args:
        path: see `embed`.
        images: see `embed`.
        split: see `embed`.
        found: what `predict` returned for the same; computed where it is None.

    Raises:
        errors.UserError: as `predict`.
    """
    network, opened = _open(path, images, "online", 256)
    split = split or _first_split(opened)
    found = found or classify(network, extractor(network, opened), split)
    truths = [None] * len(found.ids)
    names = list(opened.class_names or map(str, range(opened.num_classes or 0)))
    if names == list(found.class_names):
        truths = [names[label] if label >= 0 else None for label in opened.labels(split)]
    return gallery.draw_predictions(
        opened,
        split,
        found.rows(top=1),
        truths,
        where=f"{len(truths):,} images of {opened.name}/{split}",
        image_size=network.config.image_size,
        resize=network.config.resize,
    )


def _for_picture(path, images, split, found):
    network, opened = _open(path, images, "online", 256)
    split = split or _first_split(opened)
    return network, opened, split, found or extractor(network, opened)(split)


def classify(network: Network, extract: features.Extractor, split: str) -> Predictions:
    """Returns the classifier's answers on a split.

    Raises:
        errors.UserError: the network has no classifier.
    """
    if not network.model.hyperparameters["num_classes"]:
        raise errors.UserError(
            f"Predictions need a network with a classifier. Received: {network.path}, which has "
            "none. Fine-tune it first (--train_mode=finetune), or use --mode=embed."
        )
    found = extract(split, "logits_sup")
    logits = found.values.astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Predictions(found.ids, odds / odds.sum(axis=1, keepdims=True), network.class_names)


def open_network(config) -> Network:
    """Loads the network of a configuration's checkpoint, or else of its model_dir.

    Raises:
        errors.UserError: there is no network.
    """
    config = job_lib.take_downloads(config)
    path = config.checkpoint or config.model_dir
    strategy = distribute.build_strategy(config)
    with strategy.scope():
        model, about = checkpoint.load_model(path, weights=config.weights)
    about = {**about, "architecture": model.hyperparameters}  # ema has no classifier
    if not model.hyperparameters["num_classes"]:
        about["class_names"] = None
    return Network(model, about, _follow(config, path, about), strategy, path)


def _follow(config, path: str, about: dict):
    """Returns the configuration with the settings of the network's run, where none were given."""
    # The images are used as they are, whatever the network was trained for.
    changes = {
        name: getattr(config, name) if name in config.explicit else 0
        for name in ("label_fraction", "labels_per_class")
    }
    others = {"dataset", "data_dir"} & config.explicit
    if others:  # other images, whose splits aren't those of the run
        names = ("train_split", "eval_split", "val_fraction")
        changes |= {name: getattr(config, name) for name in names}
    if others == {"data_dir"} and about.get("dataset") == "digits":  # which have no directory
        changes["dataset"] = "folder"
    elif "dataset" not in config.explicit:
        changes["dataset"] = about.get("dataset", config.dataset)
    for name in ("resize", "sobel"):
        if name in about["preprocessing"] and name not in config.explicit:
            changes[name] = about["preprocessing"][name]
    config = job_lib.take_flags(config, home(path))
    return dataclasses.replace(config, **changes, train_mode="supervised")


def home(path: str) -> pathlib.Path:
    """Returns the directory that a network's path is, or is in."""
    return pathlib.Path(path) if tf.io.gfile.isdir(path) else pathlib.Path(path).parent


def open_images(network: Network) -> loaders.Source:
    """Opens the images of a network's configuration.

    Raises:
        errors.UserError: there is no such data, or it isn't of the network's kind.
    """
    config = network.config
    images = loaders.build_source(config, network.about["preprocessing"].get("channels"))
    _check_channels(network, images)
    return images


def extractor(
    network: Network, images: loaders.Source, directory: str | None = None
) -> features.Extractor:
    """Returns what computes features of images, and keeps them in a directory if one is given."""
    return features.Extractor(
        network.model, network.config, images, network.strategy, directory=directory
    )


def _check_channels(network: Network, images: loaders.Source) -> None:
    channels = data.model_channels(network.config, images)
    wanted = network.model.hyperparameters["channels"]
    if channels != wanted:
        raise errors.UserError(
            "The images must be of the kind that the network was trained on. Received: "
            f"{network.path} for {wanted} channel(s), {images.name} with {channels}. Give other "
            "images, or another network."
        )


def _open(path, images, weights: str, batch_size: int) -> tuple[Network, loaders.Source]:
    settings = {"mode": "embed", "weights": weights, "eval_batch_size": batch_size}
    settings["checkpoint"] = os.path.expanduser(os.fspath(path))
    if isinstance(images, str | os.PathLike):
        settings |= {"dataset": "folder", "data_dir": os.path.expanduser(os.fspath(images))}
    config = config_lib.Config(**settings)
    config.validate()
    network = open_network(config)
    if "data_dir" in settings:
        return network, open_images(network)
    opened = images if isinstance(images, source.Source) else source.ArraySource(images)
    _check_channels(network, opened)
    return network, opened


def _first_split(images: loaders.Source) -> str:
    return "train" if "train" in images.splits else next(iter(images.splits))
