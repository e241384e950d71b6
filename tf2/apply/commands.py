"""What `--mode=probe`, `embed`, `predict`, `select`, `audit` and `export` do: they write files.

The network is that of `checkpoint`, or the one trained in `model_dir`; its model.json says how
images are prepared for it.
"""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from tf2 import config as config_lib
from tf2 import distribute, errors, files, guide, knn, progress
from tf2 import job as job_lib
from tf2.apply import audit, export, features, formats, images_to_label, inference, linear_probes
from tf2.apply import network as network_lib
from tf2.apply import results as results_lib
from tf2.checkpoints import model_json
from tf2.sources import folder, loaders
from tf2.visuals import label_page

PROBES = ("knn", "logistic", "sgd")


def run(config: config_lib.Config) -> None:
    """Runs the configuration's mode: probe, embed, predict, select, audit or export.

    Raises:
        errors.UserError: the network or the data do not exist or do not fit.
    """
    config.validate()
    modes: dict[str, Callable] = {
        "probe": run_probes,
        "embed": write_embeddings,
        "predict": write_predictions,
        "audit": write_audit,
        "select": write_images_to_label,
        "export": export_network,
    }
    modes[config.mode](config)


def run_probes(config: config_lib.Config) -> dict[str, dict]:
    """Measures classifiers on the frozen features; writes probe.json.

    Returns:
        probe -> {top_1, mean_per_class, and for logistic the chosen l2}.

    Raises:
        errors.UserError: the images have no labels, or a probe is unknown.
    """
    names = _parse_probes(config.probes)
    network, images, extract, directory = _open(config)
    config = network.config
    train, test = (
        _labeled(extract(split, config.endpoint), images, split)
        for split in (config.train_split, config.eval_split)
    )
    classes = images.num_classes or 0  # labeled images have classes
    results = {name: _run_probe(name, train, test, classes, config) for name in names}
    majority = knn.majority_class_accuracy(test.labels)
    summary = {
        "endpoint": config.endpoint,
        "dataset": images.name,
        "train_images": len(train.values),
        "test_images": len(test.values),
        "majority_class_accuracy": majority,
        "chance_accuracy": majority,  # the former name
        "global_step": network.metadata.get("global_step"),
        "probes": results,
    }
    if distribute.is_chief(network.strategy):
        files.write_json(str(directory / "probe.json"), summary)
        _print_probes(summary, config.eval_split)
        print(f"Written to {directory}: probe.json")
    return results


def _parse_probes(probes: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in probes.split(",") if name.strip()))
    unknown = [name for name in names if name not in PROBES]
    if unknown or not names:
        raise errors.UserError(
            f"--probes lists {', '.join(PROBES)}, separated by commas. Received: "
            f"probes={unknown[0] if unknown else repr(probes)}. Correct --probes."
        )
    return names


def _labeled(extracted: features.Features, images: loaders.Source, split: str) -> features.Features:
    """Returns the features of the labeled images of a split.

    Raises:
        errors.UserError: no image has a label.
    """
    indices = np.flatnonzero(extracted.labels >= 0)
    if not len(indices):
        raise errors.UserError(
            f"A probe needs labels. Received: split {split} of dataset={images.name}, which has "
            "none. Sort the images into one folder per class, or use --mode=embed."
        )
    ids = [extracted.ids[int(index)] for index in indices]
    return features.Features(extracted.values[indices], extracted.labels[indices], ids)


def _run_probe(
    name: str,
    train: features.Features,
    test: features.Features,
    classes: int,
    config: config_lib.Config,
) -> dict[str, Any]:
    """Fits one probe; returns its accuracies and the setting it chose."""
    if name == "knn":
        k = min(config.knn_neighbors, len(train.values))
        predicted = knn.knn_predict(
            train.values, train.labels, test.values, k=k, num_classes=classes
        )
        return {**linear_probes.accuracies(predicted, test.labels), "k": k}
    if name == "sgd":
        fit = linear_probes.fit_sgd(
            train.values, train.labels, num_classes=classes, seed=config.seed
        )
        return linear_probes.accuracies(fit.predict(test.values), test.labels)
    lines = progress.LineProgress(len(linear_probes.L2_SWEEP), "L2 strengths")
    fit = linear_probes.sweep_logistic(
        *(train.values, train.labels),
        num_classes=classes,
        seed=config.seed,
        report=lambda number, *_: lines.update(number),
    )
    accuracies = linear_probes.accuracies(fit.predict(test.values), test.labels)
    return {**accuracies, "l2": fit.l2, "converged": fit.converged}


def _print_probes(summary: dict[str, Any], split: str) -> None:
    print(
        f"Probes of {summary['endpoint']} on {summary['dataset']}/{split} "
        f"({summary['train_images']:,} labeled images to train on, majority-class accuracy "
        f"{100 * summary['majority_class_accuracy']:.2f} %)"
    )
    for name, result in summary["probes"].items():
        chosen = f"  (L2 strength {result['l2']:.3g})" if "l2" in result else ""
        print(
            f"  {name:9} top-1 {100 * result['top_1']:6.2f} %   mean per class "
            f"{100 * result['mean_per_class']:6.2f} %{chosen}"
        )


def write_embeddings(config: config_lib.Config) -> str:
    """Writes the features of a split as .npz or .parquet; returns the file's path.

    The file holds ids (`id` in a table), features (n, d) float32, and labels (`label`), -1 for an
    unlabeled image.
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
    extracted = extract(split, network.config.endpoint)
    path = config.output or str(directory / f"embeddings_{split}.npz")
    if distribute.is_chief(network.strategy):
        buffer = io.BytesIO()
        _EMBEDDING_WRITERS[suffix](buffer, extracted)
        results_lib.write_file(path, buffer.getvalue())
        count, width = extracted.values.shape
        print(f"Written: {path}, {count:,} images, {width} features each")
    return path


def _write_npz(file: BinaryIO, extracted: features.Features) -> None:
    np.savez(file, ids=np.array(extracted.ids), features=extracted.values, labels=extracted.labels)


def _write_parquet(file: BinaryIO, extracted: features.Features) -> None:
    pyarrow, parquet = _import_parquet()
    width = extracted.values.shape[1]
    rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(extracted.values.ravel()), width)
    columns = {"id": list(extracted.ids), "label": extracted.labels, "features": rows}
    parquet.write_table(pyarrow.table(columns), file)


def _import_parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise errors.UserError(
            "Parquet files are written by pyarrow. Received: --output ending in .parquet, without "
            "pyarrow. Run `pip install pyarrow`, or let --output end in .npz."
        ) from error
    return pyarrow, parquet


_EMBEDDING_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet}


def write_predictions(config: config_lib.Config) -> str:
    """Writes a CSV with the most probable classes of each image; returns its path.

    Columns: path, class, probability, and class_2, probability_2, ... up to five; review and set
    with --min_precision and --coverage.

    Raises:
        errors.UserError: the network has no classifier.
    """
    if config.output and os.path.splitext(config.output)[1] != ".csv":
        raise errors.UserError(
            f"Predictions are written as .csv. Received: output={config.output}. Correct --output."
        )
    network, images, extract, directory = _open(config)
    split = _split(network.config, images)
    predictions = inference.classify(
        network, extract, split, min_precision=config.min_precision, coverage=config.coverage
    )
    rows = predictions.rows()
    path = config.output or str(directory / f"predictions_{split}.csv")
    if distribute.is_chief(network.strategy):
        results_lib.write_csv(path, rows)
        print(f"Written: {path}, {len(rows):,} images")
        if config.min_precision:
            print(predictions.review_in_words(config.min_precision))
    return path


def write_audit(config: config_lib.Config) -> audit.Audit:
    """Writes audit.csv and audit.html; returns the findings.

    Raises:
        errors.UserError: there are fewer than two images.
    """
    # Unreadable images are findings, however many there are.
    config = config.replace(max_bad_fraction=1.0)
    network, images, extract, directory = _open(config)
    found = audit.inspect(network, images, extract)
    if distribute.is_chief(network.strategy):
        names = audit.write(found, str(directory))
        print(found.describe())
        print(f"Written to {directory}: {', '.join(names)}")
    return found


def write_images_to_label(config: config_lib.Config) -> images_to_label.ImagesToLabel:
    """Chooses the images whose labels help most and writes files to label them with.

    Raises:
        errors.UserError: see `images_to_label.select`.
    """
    network, images, extract, directory = _open(config)
    config = network.config
    split = config.train_split
    if "train_split" not in config.explicit:
        split = network_lib.default_split(images)
    chosen = images_to_label.build_choice(network, images, extract, split)
    if distribute.is_chief(network.strategy):
        target = directory / images_to_label.DIRECTORY
        train = network_lib.flags_to_continue(network)
        names = chosen.write(str(target), guide.continue_with_labels(train, guide.LABELS_FILE))
        print(
            f"Chosen by {config.select_method}: {len(chosen):,} of {images.num_examples(split):,} "
            f"images, coverage {chosen.coverage[-1]:.3f}\nWritten to {target}: {', '.join(names)}"
        )
        if images.listing:
            print(f"\n{guide.after_selection(train, str(target / label_page.FILE_NAME))}")
    return chosen


def export_network(config: config_lib.Config) -> str:
    """Exports the network as a SavedModel and in further formats; returns their directory."""
    network = network_lib.open_network(config)
    config, metadata = network.config, network.metadata
    write_formats = None
    if config.other_formats:
        images = network_lib.open_images(network)
        write_formats = formats.build_writer(network, images, _split(config, images))
    parent = job_lib.make_writable(_directory(config)) / "saved_model"
    directory = export.export_saved_model(
        network.model,
        str(parent / str(metadata.get("global_step") or 0)),
        preprocessing=metadata["preprocessing"],
        class_names=metadata["class_names"],
        model_json=metadata,
        settings=files.read_json(str(network.home / "flags.json")),
        results=_read_results(network),
        keep=config.keep_hub_module_max,
        write=distribute.is_chief(network.strategy),
        write_formats=write_formats,
    )
    print(f"Written: {directory}")
    return directory


def _read_results(network: network_lib.Network) -> dict | None:
    """Returns the result.json of a network's run if it is of these weights."""
    if network.config.weights != "online":
        return None
    return model_json.read_results(network.home, network.metadata.get("global_step"))


def _open(
    config: config_lib.Config,
) -> tuple[network_lib.Network, loaders.Source, features.Extractor, pathlib.Path]:
    """Returns network, images, the extractor of its features, and the directory for results."""
    network = network_lib.open_network(config)
    directory = job_lib.make_writable(_directory(network.config))
    images = network_lib.open_images(network)
    # Several workers must all compute, or none of them: no cache that one might see before another.
    several = distribute.is_multi_worker(network.strategy)
    cache = None if several else str(directory / "features")
    return network, images, network_lib.build_extractor(network, images, cache), directory


def _directory(config: config_lib.Config) -> pathlib.Path:
    return pathlib.Path(config.model_dir or config.default_model_dir()).expanduser()


def _split(config: config_lib.Config, images: loaders.Source) -> str:
    """Returns --eval_split if given, else the only split, else the default of --eval_split.

    A folder need not have that one: then all its images to train on are used.
    """
    chosen = config.eval_split
    if "eval_split" in config.explicit:
        return chosen
    if len(images.splits) == 1:
        return next(iter(images.splits))
    if isinstance(images, folder.FolderSource) and not images.listing.has_split(chosen):
        return network_lib.default_split(images)
    return chosen
