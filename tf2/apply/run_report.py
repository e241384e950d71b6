"""What a run of all stages leaves for its user: predictions of unlabeled images, and a page.

predictions.csv    the three most probable classes of every image without a label
report.html        see `visuals.report`
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tf2 import calibration
from tf2 import config as config_lib
from tf2.apply import inference, results
from tf2.apply import network as network_lib
from tf2.sources import loaders
from tf2.visuals import gallery, plots, report

PREDICTIONS_FILE = "predictions.csv"

_TOP = 3
_EXAMPLES = 12  # of the most and of the least certain predictions
_SIDE = 96  # pixels of an example, at most
_CONTENTS = {
    "results.csv": "the results table",
    "results.png": "the results as bars",
    "cross_validation.json": "the cross-validated estimate",
    PREDICTIONS_FILE: "classes of all images without a label",
    "labels.csv": "images to label",
}


def open_network(directory: str) -> network_lib.Network:
    """Returns a trained network with the settings of its run."""
    return network_lib.open_network(config_lib.Config(mode="embed", checkpoint=directory))


def unlabeled(images: loaders.Source, split: str) -> loaders.Source | None:
    """Returns a source whose split holds the images without a label; None if all have one."""
    positions = np.flatnonzero(images.labels(split) < 0)
    return images.subset(split, positions) if len(positions) else None


def examples(
    predictions: results.Predictions, images: loaders.Source, split: str, resize: str
) -> tuple[list[report.Example], list[report.Example]]:
    """Returns the most and the least certain predictions, each beginning with the extreme.

    Args:
        predictions: of all images of the split.
        images: the images; their labels, if known, are compared with the predicted classes.
        split: of the images.
        resize: see `data.build_eval_dataset`.
    """
    certainty = predictions.probabilities.max(axis=1)
    order = np.argsort(-certainty, kind="stable")
    count = min(_EXAMPLES, len(order) // 2)
    most, least = order[:count], order[::-1][:count]
    chosen = np.unique([*most, *least])
    if not len(chosen):
        return [], []
    subset = images.subset(split, chosen)
    first = images.decode(next(iter(subset.records(split))))
    side = min(_SIDE, *first["image"].shape[:2])
    pixels = gallery.load_images(subset, split, len(chosen), image_size=side, resize=resize)
    rows = predictions.rows(top=1)
    labels = images.labels(split)

    def example(index: int) -> report.Example:
        label = labels[index]
        names = images.class_names or ()
        return report.Example(
            image=_jpeg(pixels[np.searchsorted(chosen, index)]),
            path=rows[index]["path"],
            predicted=rows[index]["class"],
            probability=rows[index]["probability"],
            true_class=names[label] if 0 <= label < len(names) else None,
        )

    return [example(int(i)) for i in most], [example(int(i)) for i in least]


def _jpeg(image: np.ndarray) -> bytes:
    """Returns an image (h, w, c), float in [0, 1], as a JPEG, in gray unless c is 3."""
    image = image if image.shape[-1] == 3 else image[..., :1]
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return tf.io.encode_jpeg(pixels, quality=90).numpy()


def figures(directories: Mapping[str, str], name: str) -> list[report.Figure]:
    """Returns a figure of each run that has it.

    Args:
        directories: title of a run -> its directory.
        name: of the file in plots/.
    """
    found = []
    for title, directory in directories.items():
        path = os.path.join(directory, "plots", f"{name}.png")
        if tf.io.gfile.exists(path):
            with tf.io.gfile.GFile(path, "rb") as file:
                found.append(report.Figure(file.read(), title.capitalize()))
    return found


def list_files(model_dir: str, directories: Mapping[str, str]) -> list[tuple[str, str, int]]:
    """Returns (path, content, bytes) of what a run has written.

    Args:
        model_dir: of all stages.
        directories: title of a stage -> its directory.
    """
    listed = []
    for name, content in _CONTENTS.items():
        path = os.path.join(model_dir, name)
        if tf.io.gfile.exists(path):
            listed.append((name, content, tf.io.gfile.stat(path).length))
    for title, directory in directories.items():
        size = sum(
            tf.io.gfile.stat(os.path.join(parent, name)).length
            for parent, _, names in tf.io.gfile.walk(directory)
            for name in names
        )
        path = os.path.relpath(directory, model_dir) + "/"
        listed.append((path, f"{title}: checkpoints, export, figures", size))
    return listed


def with_trust(page: report.Report, measured: calibration.Calibration | None) -> report.Report:
    """Returns the page with what is known of the probabilities."""
    drawn = []
    if measured and measured.reliability:
        png = plots.reliability(
            measured.reliability,
            title=f"Reliability on {measured.num_images:,} held-out images",
            labels={"before": "temperature 1", "after": f"temperature {measured.temperature:.2f}"},
        )
        drawn = [report.Figure(png, "Larger dots are bins of more images")]
    return dataclasses.replace(
        page,
        trust=calibration.sentences(measured),
        precisions=calibration.precision_rows(measured),
        reliability=drawn,
    )


def write(
    page: report.Report,
    model_dir: str,
    directories: Mapping[str, str],
    classifier: str | None,
    images: loaders.Source,
    train_split: str,
    eval_split: str,
    *,
    min_precision: float = 0.0,
    coverage: float = 0.0,
) -> list[str]:
    """Writes predictions.csv, if there is what it needs, and report.html.

    Args:
        page: the parts of the report that are no files: results, notes, next steps.
        model_dir: where to write.
        directories: title of a stage -> its directory, in their order.
        classifier: directory of the network to predict with; None without one.
        images: the images of the run, with all of their labels.
        train_split: of them.
        eval_split: of them; "" for none.
        min_precision, coverage: see `inference.predict`; ignored where they are not known.

    Returns:
        The names of the files.
    """
    written = []
    if classifier is not None:
        split, of = train_split, "without a label"
        if images.listing:  # a folder, of which each image counts
            split = "+".join(images.splits)
        shown = unlabeled(images, split)
        if shown is None:
            shown, split, of = images, eval_split, "that were held out"
        if split:
            network = open_network(classifier)
            extract = network_lib.build_extractor(network, shown)
            measured = network.calibration
            asked = {"min_precision": min_precision, "coverage": coverage}
            known = measured is not None and not measured.unknown
            predictions = inference.classify(network, extract, split, **(asked if known else {}))
            page = with_trust(page, measured)
            if known and min_precision:
                trust = [*page.trust, predictions.review_in_words(min_precision)]
                page = dataclasses.replace(page, trust=trust)
            if shown is not images:
                predictions.to_csv(os.path.join(model_dir, PREDICTIONS_FILE), top=_TOP)
                written.append(PREDICTIONS_FILE)
            most, least = examples(predictions, shown, split, network.config.resize)
            page = dataclasses.replace(
                page,
                examples_of=f"{len(predictions.ids):,} images {of}, predicted by the "
                + next(title for title, path in directories.items() if path == classifier),
                most_certain=most,
                least_certain=least,
            )
    last = {title: path for title, path in directories.items() if path == classifier}
    first = dict([next(iter(directories.items()))])
    page = dataclasses.replace(
        page,
        curves=figures(directories, "curves"),
        feature_maps=figures(first | last, "feature_map"),
        confusion=figures(last, "confusion") + figures(last, "class_accuracy"),
        files=list_files(model_dir, directories),
    )
    report.write(page, model_dir)
    return [*written, report.FILE_NAME]
