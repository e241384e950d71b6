"""Uses of a trained network: probes of its features, features and predictions as files, exports.

The network is that of `checkpoint`, or the one trained in `model_dir`; its model.json says how
images are to be prepared for it.
"""

from __future__ import annotations

import csv
import io
import os
import pathlib

import numpy as np

from tf2 import distribute, errors, files, knn, progress
from tf2 import job as job_lib
from tf2.apply import export, features, inference, linear_probes

PROBES = ("knn", "logistic", "sgd")


def run(config):
    """Does what a configuration's mode says: probe, embed, predict or export.

    Raises:
        errors.UserError: there is no network, or no such data.
    """
    config.validate()
    modes = {"probe": probe, "embed": embed, "predict": predict, "export": export_network}
    return modes[config.mode](config)


def probe(config) -> dict:
    """Measures classifiers on the frozen features; writes probe.json.

    Returns:
        probe -> {top_1, mean_per_class, and for logistic the chosen l2}.

    Raises:
        errors.UserError: the images have no labels, or there is no such probe.
    """
    wanted = list(dict.fromkeys(n.strip() for n in config.probes.split(",") if n.strip()))
    if not wanted or (unknown := [name for name in wanted if name not in PROBES]):
        raise errors.UserError(
            f"Probes are {', '.join(PROBES)}, separated by commas. Received: "
            f"probes={unknown[0] if wanted else repr(config.probes)}. Correct --probes."
        )
    network, images, extract, directory = _open(config)
    config = network.config
    train, test = (
        _labeled(extract(split, config.endpoint), images, split)
        for split in (config.train_split, config.eval_split)
    )
    results = {
        name: _measure(name, train, test, classes=images.num_classes, config=config)
        for name in wanted
    }
    majority = knn.majority_class_accuracy(test.labels)
    about = {
        "endpoint": config.endpoint,
        "dataset": images.name,
        "train_images": len(train.values),
        "test_images": len(test.values),
        "majority_class_accuracy": majority,
        "chance_accuracy": majority,  # its former name
        "global_step": network.about.get("global_step"),
        "probes": results,
    }
    if distribute.is_chief(network.strategy):
        files.write_json(str(directory / "probe.json"), about)
        print(
            f"Probes of {config.endpoint} on {images.name}/{config.eval_split} "
            f"({len(train.values):,} labeled images, "
            f"majority-class accuracy {100 * majority:.2f} %)"
        )
        for name, found in results.items():
            more = f"  (L2 strength {found['l2']:.3g})" if "l2" in found else ""
            print(
                f"  {name:9} top-1 {100 * found['top_1']:6.2f} %   mean per class "
                f"{100 * found['mean_per_class']:6.2f} %{more}"
            )
        print(f"Written to {directory}: probe.json")
    return results


def _labeled(found: features.Features, images, split: str) -> features.Features:
    """Returns the images of a split that have labels.

    Raises:
        errors.UserError: there are none.
    """
    known = np.flatnonzero(found.labels >= 0)
    if not len(known):
        raise errors.UserError(
            f"A probe needs labels. Received: split {split} of dataset={images.name}, which has "
            "none. Sort the pictures into one folder per class, or use --mode=embed."
        )
    ids = [found.ids[place] for place in known]
    return features.Features(found.values[known], found.labels[known], ids)


def _measure(name: str, train, test, *, classes: int, config) -> dict:
    """Fits one probe; returns its accuracies and what it chose."""
    if name == "knn":
        k = min(config.knn_neighbors, len(train.values))
        predictions = knn.knn_predict(
            train.values, train.labels, test.values, k=k, num_classes=classes
        )
        return {**linear_probes.accuracies(predictions, test.labels), "k": k}
    arguments = {"num_classes": classes, "seed": config.seed}
    if name == "sgd":
        fit = linear_probes.fit_sgd(train.values, train.labels, **arguments)
        return linear_probes.accuracies(fit.predict(test.values), test.labels)
    lines = progress.Lines(len(linear_probes.L2_SWEEP), "L2 strengths")
    fit = linear_probes.sweep_logistic(
        *(train.values, train.labels),
        **arguments,
        report=lambda number, *_: lines.update(number),
    )
    found = linear_probes.accuracies(fit.predict(test.values), test.labels)
    return {**found, "l2": fit.l2, "converged": fit.converged}


def embed(config) -> str:
    """Writes the features of a split, as .npz or .parquet; returns the file's path.

    The file holds ids (`id` in a table), features (n, d) float32, and labels (`label`), -1 where
    there is none.
    """
    suffix = os.path.splitext(config.output or "x.npz")[1]
    if suffix not in _EMBEDDING_WRITERS:
        raise errors.UserError(
            f"Embeddings are written as .npz or .parquet. Received: output={config.output}. "
            "Correct --output."
        )
    if suffix == ".parquet":
        _import_parquet()
    network, images, extract, directory = _open(config)
    split = _split(network.config, images)
    found = extract(split, network.config.endpoint)
    path = config.output or str(directory / f"embeddings_{split}.npz")
    if distribute.is_chief(network.strategy):
        contents = io.BytesIO()
        _EMBEDDING_WRITERS[suffix](contents, found)
        _write(path, contents.getvalue())
        print(f"Written: {path}, {len(found.ids):,} images, {found.values.shape[1]} features each")
    return path


def _write_npz(file, found: features.Features) -> None:
    np.savez(file, ids=np.array(found.ids), features=found.values, labels=found.labels)


def _write_parquet(file, found: features.Features) -> None:
    pyarrow, parquet = _import_parquet()
    width = found.values.shape[1]
    rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(found.values.ravel()), width)
    columns = {"id": list(found.ids), "label": found.labels, "features": rows}
    parquet.write_table(pyarrow.table(columns), file)


def _import_parquet():
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise errors.UserError(
            "Parquet files are written by pyarrow. Received: --output ending in .parquet, without "
            "pyarrow; run `pip install pyarrow`, or let --output end in .npz."
        ) from error
    return pyarrow, parquet


_EMBEDDING_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}


def predict(config) -> str:
    """Writes a CSV of classes and probabilities for each image; returns its path.

    Columns: path, class, probability, and class_2, probability_2, ... up to five.

    Raises:
        errors.UserError: the network has no classifier.
    """
    if config.output and os.path.splitext(config.output)[1] != ".csv":
        raise errors.UserError(
            f"Predictions are written as .csv. Received: output={config.output}. Correct --output."
        )
    network, images, extract, directory = _open(config)
    split = _split(network.config, images)
    rows = inference.classify(network, extract, split).rows()
    path = config.output or str(directory / f"predictions_{split}.csv")
    if distribute.is_chief(network.strategy):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow([f"{v:.6f}" if isinstance(v, float) else v for v in row.values()])
        _write(path, text.getvalue().encode("utf-8", "surrogateescape"))
        print(f"Written: {path}, {len(rows):,} images")
    return path


def export_network(config) -> str:
    """Exports the network as a SavedModel; returns its directory."""
    network = inference.open_network(config)
    config, about = network.config, network.about
    parent = job_lib.make_writable(_directory(config)) / "saved_model"
    directory = export.export_saved_model(
        network.model,
        str(parent / str(about.get("global_step") or 0)),
        preprocessing=about["preprocessing"],
        class_names=about["class_names"],
        model_json=about,
        settings=files.read_json(str(network.home / "flags.json")),
        results=_results(network),
        keep=config.keep_hub_module_max,
        write=distribute.is_chief(network.strategy),
    )
    print(f"Written: {directory}")
    return directory


def _results(network: inference.Network) -> dict | None:
    """Returns the result.json of a network's run, where it is of these weights."""
    found = files.read_json(str(network.home / "result.json"))
    same = found and found.get("global_step") == network.about.get("global_step")
    return found if same and network.config.weights == "online" else None


def _open(config):
    """Returns network, images, what extracts its features, and the directory for results."""
    network = inference.open_network(config)
    directory = job_lib.make_writable(_directory(network.config))
    images = inference.open_images(network)
    # Several workers must all compute, or none: one could find what another hasn't written yet.
    kept = None if distribute.several_workers(network.strategy) else str(directory / "features")
    return network, images, inference.extractor(network, images, kept), directory


def _directory(config) -> pathlib.Path:
    return pathlib.Path(config.model_dir or config.default_model_dir())


def _split(config, images) -> str:
    """Returns the split to use: the one asked for, else the only one, else the evaluation's."""
    if "eval_split" not in config.explicit and len(images.splits) == 1:
        return next(iter(images.splits))
    return config.eval_split


def _write(path: str, contents: bytes) -> None:
    files.make_directory(os.path.dirname(path) or ".")
    files.write_bytes(path, contents)
