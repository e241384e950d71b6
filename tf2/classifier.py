"""From a folder of images to a classifier, in Python.

    import tf2 as simclr

    classifier = simclr.fit("photos", labels="labels.csv")
    classifier.predict("other photos").to_csv("predictions.csv")
    classifier.export("exported")

The same as `python tf2/run.py --mode=train_then_eval --data_dir=photos --labels=labels.csv`.
"""

from __future__ import annotations

import dataclasses
import html
import os
import pathlib
from typing import Any

from tf2 import config as config_lib
from tf2 import run, stage_results, stages
from tf2.apply import commands, features, inference
from tf2.apply import results as results_lib

_HEIGHT = 720  # of a report in a notebook, in pixels

Path = str | os.PathLike


def fit(
    data_dir: Path,
    labels: Path | None = None,
    *,
    model_dir: Path | None = None,
    **settings: Any,
) -> Classifier:
    """Trains a classifier on a folder of images of which some have labels.

    All stages of SimCLRv2: pretraining on all images, fine-tuning on the labeled ones, distillation
    on all images into the same and into a smaller network, and a supervised baseline. Settings that
    are not given are chosen for the images and the machine (recipe "images"). Progress is printed,
    files are written to `model_dir`, and the same call resumes a run that was stopped.

    Args:
        data_dir: the folder of images; see docs/own_images.md for its layouts.
        labels: a CSV or TSV file with the columns path and label, a Label Studio JSON export, or a
            folder of class folders; None takes the classes from the folders of data_dir. Without
            any label the network is only pretrained, and the result has features but no classes.
        model_dir: the directory to write to; None is runs/<name of the folder>.
        **settings: flags of the command line by name, for example minutes=10, image_size=64 or
            flip=False. A flag of one stage is `**{"student.width_multiplier": 0.25}`.

    Returns:
        A `Classifier`: the smallest distilled network, unless a larger one is better beyond chance.

    Raises:
        tf2.UserError: a setting, the images or the labels are unsuitable; it says what to change.
    """
    paths = {"data_dir": data_dir, "labels": labels, "model_dir": model_dir}
    given = {name: os.fspath(path) for name, path in paths.items() if path is not None}
    config, messages = run.configure_and_explain(mode="train_then_eval", **given, **settings)
    with run.starting(config, messages):
        rows = stages.run_all_stages(config)
    model_dir = config.model_dir or config.default_model_dir()
    result = stage_results.result_of(rows) or "pretrain"
    return Classifier(os.path.join(model_dir, result), model_dir, rows)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network that `fit` has trained.

    Attributes:
        path: the directory of its weights, for `tf2.load_model` and other functions.
        model_dir: the directory of all stages.
        results: one dict per stage, the rows of results.csv: method, labels, top_1 (a fraction),
            parameters, seconds, ...
    """

    path: str
    model_dir: str
    results: list[dict] = dataclasses.field(repr=False)

    def predict(self, images: inference.Images) -> results_lib.Predictions:
        """Returns the class probabilities of images.

        Args:
            images: a folder, a file, a list of paths, a uint8 array (h, w, channels) or
                (n, h, w, channels), or a list of arrays.

        Raises:
            tf2.UserError: the images cannot be read, or the network has no classes.
        """
        return inference.predict(self.path, images)

    def embed(self, images: inference.Images) -> features.Features:
        """Returns the features of images: values (n, d) float32, labels (n,), ids.

        Args:
            images: as for `predict`.

        Raises:
            tf2.UserError: the images cannot be read.
        """
        return inference.embed(self.path, images)

    def export(self, directory: Path) -> str:
        """Writes a SavedModel that needs TensorFlow alone; returns its directory.

        Args:
            directory: where to write; the SavedModel is saved_model/<step> in it.

        Raises:
            tf2.UserError: the directory is not writable.
        """
        config = config_lib.Config(
            mode="export", checkpoint=self.path, model_dir=os.fspath(directory)
        )
        return commands.export_network(config)

    @property
    def report(self) -> Report:
        """The page about the run, shown in a notebook."""
        return Report(os.path.join(self.model_dir, "report.html"))


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of a run, report.html.

    Attributes:
        path: of the file.
    """

    path: str

    def _repr_html_(self) -> str:
        """Returns the page in a frame."""
        page = html.escape(pathlib.Path(self.path).read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: {_HEIGHT}px"></iframe>'
