"""Loading a trained network with the settings of its own run, and the images it is used on."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import tensorflow as tf

from tf2 import calibration as calibration_lib
from tf2 import config as config_lib
from tf2 import data, distribute, errors, files, resolve, run_directory
from tf2 import model as model_lib
from tf2.apply import features
from tf2.checkpoints import checkpoint
from tf2.sources import folder, listing, loaders


@dataclasses.dataclass
class Network:
    """A trained network.

    Attributes:
        model: the network, with its weights.
        metadata: the content of its model.json.
        config: the configuration in use, with the image settings of the network's own run.
        strategy: the devices it computes on.
        path: where the weights are.
    """

    model: model_lib.SimCLR
    metadata: dict
    config: config_lib.Config
    strategy: tf.distribute.Strategy
    path: str

    @property
    def home(self) -> pathlib.Path:
        """The directory of the weights, their model.json and the other files of their run."""
        return home(self.path)

    @property
    def class_names(self) -> list[str]:
        """Names by class; numbers if the network has no names."""
        classes = self.model.hyperparameters["num_classes"]
        return list(self.metadata["class_names"] or map(str, range(classes)))

    @property
    def calibration(self) -> calibration_lib.Calibration | None:
        """How far its probabilities can be trusted; None if that was not measured."""
        return calibration_lib.from_json(self.metadata.get("calibration"))


def open_network(config: config_lib.Config) -> Network:
    """Loads the network of a configuration's checkpoint, or of its model_dir without one.

    Raises:
        errors.UserError: there is no network.
    """
    config = resolve.with_downloads(config)
    path = config.checkpoint or config.model_dir
    assert path, "Config.validate requires one of them"
    strategy = distribute.build_strategy(config)
    with strategy.scope():
        model, metadata = checkpoint.load_model(path, weights=config.weights)
    if "preprocessing" not in metadata:
        raise errors.DamagedFile(
            "model.json must say what an image goes through before the network. Received: "
            f"{path}, without its preprocessing. Restore the file from a copy."
        )
    # The average of the weights has no classifier.
    metadata = {"class_names": None, **metadata, "architecture": model.hyperparameters}
    if not model.hyperparameters["num_classes"]:
        metadata["class_names"] = None
    return Network(model, metadata, _adopt_settings(config, path, metadata), strategy, path)


def _adopt_settings(config: config_lib.Config, path: str, metadata: dict) -> config_lib.Config:
    """Returns the configuration with the settings of the network's run for flags not given."""
    explicit = config.explicit or frozenset()
    # All images are used, whatever labels the network was trained with.
    changes: dict[str, Any] = {
        name: getattr(config, name) if name in explicit else 0
        for name in ("label_fraction", "labels_per_class")
    }
    others = {"dataset", "data_dir"} & explicit
    if config.mode == "audit" and _is_own_folder(config, path):
        others = set()  # the run's own splits and labels, to find what leaks between them
    if others:  # other images, whose splits are not those of the run
        names = ("train_split", "eval_split", "val_fraction", "labels", "holdout", "label_seed")
        changes |= {name: getattr(config, name) for name in names}
    if others == {"data_dir"} and metadata.get("dataset") == "digits":  # which have no directory
        changes["dataset"] = "folder"
    elif "dataset" not in explicit:
        changes["dataset"] = metadata.get("dataset", config.dataset)
    for name in ("resize", "sobel"):
        if name in metadata["preprocessing"] and name not in explicit:
            changes[name] = metadata["preprocessing"][name]
    config = resolve.with_run_flags(config, home(path))
    config = dataclasses.replace(config, **changes, train_mode="supervised")
    if config.mode == "select" and not config.labels:  # the folders of new images are no labels
        config = dataclasses.replace(config, labels=listing.NONE)
    return config


def _is_own_folder(config: config_lib.Config, path: str) -> bool:
    """Whether the images are the folder that the network at a path was trained on."""
    own = (run_directory.read_flags(str(home(path))) or {}).get("data_dir") or ""
    given = config.data_dir or ""
    return bool(own and given) and files.canonical_path(own) == files.canonical_path(given)


def flags_to_continue(network: Network) -> dict[str, Any]:
    """Returns the flags of a training that goes on from a network: with its run, or its weights."""
    path = os.path.normpath(network.path)
    run = path if run_directory.stages(path) else os.path.dirname(path)
    if run_directory.stages(run) and _is_own_folder(network.config, run):
        return {"model_dir": run}
    return {"data_dir": network.config.data_dir, "checkpoint": network.path}


def home(path: str) -> pathlib.Path:
    """Returns the directory that the path of a network is, or is in."""
    return pathlib.Path(path) if tf.io.gfile.isdir(path) else pathlib.Path(path).parent


def open_images(network: Network) -> loaders.Source:
    """Opens the images of a network's configuration.

    Raises:
        errors.UserError: there are no such images, or they do not fit the network.
    """
    config = network.config
    images = loaders.build_source(config, network.metadata["preprocessing"].get("channels"))
    check_channels(network, images)
    return images


def default_split(images: loaders.Source) -> str:
    """Returns the split to use where none is named: all images to train on, or the first."""
    if isinstance(images, folder.FolderSource):
        return images.listing.train_split or next(iter(images.splits))
    return "train" if "train" in images.splits else next(iter(images.splits))


def check_channels(network: Network, images: loaders.Source) -> None:
    """Requires images with as many channels as the network takes.

    Raises:
        errors.UserError: they have other channels.
    """
    channels = data.model_channels(network.config, images)
    expected = network.model.hyperparameters["channels"]
    if channels != expected:
        raise errors.UserError(
            "Images must have the channels that the network was trained on. Received: "
            f"{network.path} for {expected} channel(s), {images.name} with {channels}. Use other "
            "images or another network."
        )


def build_extractor(
    network: Network, images: loaders.Source, directory: str | None = None
) -> features.Extractor:
    """Returns the extractor of a network's features, with a cache if a directory is given."""
    return features.Extractor(
        network.model, network.config, images, network.strategy, directory=directory
    )
