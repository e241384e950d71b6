"""Uses of a trained network: probes of its features, features and predictions as files, exports.

The network is that of `checkpoint`, or the one trained in `model_dir`; its model.json says how
images are to be prepared for it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pathlib

import numpy as np
import tensorflow as tf

from tf2 import (
    checkpoint,
    data,
    datasets,
    distribute,
    errors,
    export,
    features,
    files,
    linear_probes,
    probes,
    progress,
)
from tf2 import job as job_lib

PROBES = ("knn", "logistic", "sgd")
TOP = 5


@dataclasses.dataclass
class Network:
    """A trained network and the images to use it on.

    Attributes:
        model: the `model.SimCLR`.
        about: its model.json.
        config: with the image settings of the network's own run.
        images: the `datasets.Source`.
        directory: where results go.
        extract: gives its features.
    """

    model: object
    about: dict
    config: object
    images: datasets.Source
    directory: pathlib.Path
    strategy: tf.distribute.Strategy
    extract: features.Extractor


def open_network(config) -> Network:
    """Loads the network of a configuration, and opens its images.

    Raises:
        errors.UserError: there is no network, or no such data.
    """
    path = config.checkpoint or config.model_dir
    strategy = distribute.build_strategy(config)
    with strategy.scope():
        model, about = checkpoint.load_model(path, weights=config.weights)
    labels = {name: 0 for name in ("label_fraction", "labels_per_class")}
    labels = {name: value for name, value in labels.items() if name not in config.explicit}
    home = pathlib.Path(path) if tf.io.gfile.isdir(path) else pathlib.Path(path).parent
    config = job_lib.take_flags(config, home)
    if not {"dataset"} & config.explicit and not (home / "flags.json").exists():
        config = dataclasses.replace(config, dataset=about.get("dataset", config.dataset))
    # The images are evaluated, whatever the network was trained for.
    config = dataclasses.replace(config, train_mode="supervised", **labels)
    directory = pathlib.Path(config.model_dir or config.default_model_dir())
    job_lib.make_writable(directory)
    images = datasets.build_source(config)
    channels = data.model_channels(config, images)
    if channels != model.hyperparameters["channels"]:
        raise errors.UserError(
            "The images must be of the kind that the network was trained on. Received: "
            f"{path} for {model.hyperparameters['channels']} channel(s), {images.name} with "
            f"{channels}. Give other images, or another network."
        )
    extract = features.Extractor(
        model, config, images, strategy, directory=str(directory / "features")
    )
    return Network(model, about, config, images, directory, strategy, extract)


def run(config) -> dict:
    """Does what a configuration's mode says: probe, embed, predict or export."""
    return {"probe": probe, "embed": embed, "predict": predict, "export": export_network}[
        config.mode
    ](config)


def probe(config) -> dict:
    """Measures classifiers on the frozen features; writes probe.json.

    Returns:
        probe -> {top_1, mean_per_class, and for logistic the chosen l2}.

    Raises:
        errors.UserError: the images have no labels, or there is no such probe.
    """
    wanted = [name.strip() for name in config.probes.split(",") if name.strip()]
    if not wanted or (unknown := [name for name in wanted if name not in PROBES]):
        raise errors.UserError(
            f"Probes are {', '.join(PROBES)}, separated by commas. Received: "
            f"probes={config.probes if not wanted else unknown[0]}. Correct --probes."
        )
    network = open_network(config)
    config, classes = network.config, network.images.num_classes
    if not classes:
        raise errors.UserError(
            f"A probe needs labels. Received: dataset={network.images.name}, which has none. Sort "
            "the pictures into one folder per class, or use --mode=embed."
        )
    train = network.extract(config.train_split, config.endpoint)
    test = network.extract(config.eval_split, config.endpoint)
    results: dict[str, dict] = {}
    for name in wanted:
        if name == "knn":
            predictions = probes.knn_predict(
                *(train.values, train.labels, test.values),
                k=min(config.knn_neighbors, len(train.values)),
                num_classes=classes,
            )
            found = {"k": config.knn_neighbors}
        else:
            fit = _fit(name, train, classes, config.seed)
            predictions = fit.predict(test.values)
            found = {} if fit.l2 is None else {"l2": fit.l2, "converged": fit.converged}
        results[name] = {**linear_probes.accuracies(predictions, test.labels), **found}
    about = {
        "endpoint": config.endpoint,
        "train_images": len(train.values),
        "test_images": len(test.values),
        "chance_accuracy": probes.chance_accuracy(test.labels),
        "global_step": network.about.get("global_step"),
        "probes": results,
    }
    files.write_json(str(network.directory / "probe.json"), about)
    print(
        f"Probes of {config.endpoint} on {network.images.name}/{config.eval_split} "
        f"({len(train.values):,} labeled images, chance {100 * about['chance_accuracy']:.2f} %):"
    )
    for name, found in results.items():
        more = f"  (L2 strength {found['l2']:.3g})" if "l2" in found else ""
        print(
            f"  {name:9} top-1 {100 * found['top_1']:6.2f} %   mean per class "
            f"{100 * found['mean_per_class']:6.2f} %{more}"
        )
    print(f"Written to {network.directory}: probe.json")
    return results


def _fit(name: str, train: features.Features, classes: int, seed: int) -> linear_probes.Fit:
    if name == "sgd":
        return linear_probes.fit_sgd(train.values, train.labels, num_classes=classes, seed=seed)
    lines = progress.Lines(len(linear_probes.L2_SWEEP), "L2 strengths")
    return linear_probes.sweep_logistic(
        *(train.values, train.labels),
        num_classes=classes,
        seed=seed,
        report=lambda number, *_: lines.update(number),
    )


def embed(config) -> str:
    """Writes the features of a split, as .npz or .parquet; returns the file's path.

    The file holds ids, features (n, d) float32, and labels (-1 where there is none).
    """
    network = open_network(config)
    split = _split(network)
    found = network.extract(split, network.config.endpoint)
    path = network.config.output or str(network.directory / f"embeddings_{split}.npz")
    suffix = os.path.splitext(path)[1]
    if suffix == ".npz":
        contents = io.BytesIO()
        np.savez(contents, ids=np.array(found.ids), features=found.values, labels=found.labels)
        files.write_bytes(path, contents.getvalue())
    elif suffix == ".parquet":
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise errors.UserError(
                f"A .parquet file is written with pyarrow. Received: output={path}, and {error}. "
                "Install a pyarrow that fits, or write a .npz file."
            ) from error
        table = pyarrow.table(
            {
                "id": list(found.ids),
                "label": found.labels,
                "features": pyarrow.FixedSizeListArray.from_arrays(
                    found.values.ravel(), found.values.shape[1]
                ),
            }
        )
        contents = io.BytesIO()
        parquet.write_table(table, contents)
        files.write_bytes(path, contents.getvalue())
    else:
        raise errors.UserError(
            f"Embeddings are written as .npz or .parquet. Received: output={path}. Correct "
            "--output."
        )
    print(f"Written: {path}, {len(found.ids):,} images, {found.values.shape[1]} features each")
    return path


def predict(config) -> str:
    """Writes a CSV of classes and probabilities for each image; returns its path.

    Columns: path, class, probability, and class_2, probability_2, ... up to five.

    Raises:
        errors.UserError: the network has no classifier.
    """
    network = open_network(config)
    classes = network.model.hyperparameters["num_classes"]
    if not classes:
        raise errors.UserError(
            "Predictions need a network with a classifier. Received: "
            f"{config.checkpoint or config.model_dir}, which has none. Fine-tune it first "
            "(--train_mode=finetune), or use --mode=embed."
        )
    split = _split(network)
    found = network.extract(split, "logits_sup")
    logits = found.values.astype(np.float64)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    names = network.about.get("class_names") or [str(number) for number in range(classes)]
    top = min(TOP, classes)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ["", *(f"_{place}" for place in range(2, top + 1))]
    writer.writerow(["path", *(f"{c}{n}" for n in numbers for c in ("class", "probability"))])
    for name, row, best in zip(found.ids, probabilities, order, strict=True):
        cells = [cell for k in best for cell in (names[k], f"{row[k]:.6f}")]
        writer.writerow([name, *cells])
    path = network.config.output or str(network.directory / f"predictions_{split}.csv")
    files.write_text(path, text.getvalue())
    print(f"Written: {path}, {len(found.ids):,} images")
    return path


def export_network(config) -> str:
    """Exports the network as a SavedModel; returns its directory."""
    network = open_network(config)
    step = network.about.get("global_step") or 0
    directory = str(network.directory / "saved_model" / str(step))
    export.export_saved_model(
        network.model,
        directory,
        preprocessing=network.about["preprocessing"],
        class_names=network.about.get("class_names"),
        model_json=network.about,
        keep=network.config.keep_hub_module_max,
        write=distribute.is_chief(network.strategy),
    )
    print(f"Written: {directory}")
    return directory


def _split(network: Network) -> str:
    """Returns the split to use: the one asked for, else the only one, else the evaluation's."""
    config, splits = network.config, network.images.splits
    if "eval_split" not in config.explicit and len(splits) == 1:
        return next(iter(splits))
    return config.eval_split
