"""Which images to label? Trains on the images that each method of --mode=select chooses.

    python -m tf2.study --recipe=digits --select=random,maxherding --counts=10,20,40,100 --seeds=10

For every seed a network is pretrained, unless --checkpoint names one for all seeds. Each method
chooses among a random 80 % of the training images, so that one without random choices differs
between seeds too. Two classifiers learn from the labels: the network, fine-tuned as its stage
says (unless --methods lacks finetune), and a logistic regression on its frozen features. A method
that needs a classifier begins with maxherding's choice for the smallest count, and goes on from
count to count with the logistic regression on the labels so far. Writes to model_dir:

    select.csv    a row per method, count and seed; what is there is not measured again
    select.md     mean and standard deviation over the seeds
    select.png    accuracy over the number of labels, a line per method
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import console, distribute, errors, files, pipeline, stages
from tf2 import job as job_lib
from tf2.apply import linear_probes, run_report
from tf2.apply import network as network_lib
from tf2.flags import evaluation
from tf2.selection import methods as methods_lib
from tf2.sources import loaders
from tf2.visuals import plots, tables

_POOL = 0.8  # of the training images
_L2 = 1.0  # of the logistic regression
# Columns of select.csv -> what they measure.
MEASURES = {"fine_tuned": "fine-tuned", "frozen": "logistic regression on frozen features"}
Key = tuple[str, int, int]  # method, count and seed of a row


@dataclasses.dataclass(frozen=True)
class _Images:
    """The images of a seed.

    Attributes:
        positions: (n,) in the training split, of the images to choose from.
        train: their features (n, d), with a root mean square of 1.
        labels: (n,).
        test: features (m, d).
        test_labels: (m,).
    """

    positions: np.ndarray
    train: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    def fit(self, chosen: np.ndarray) -> linear_probes.Fit:
        """Returns the logistic regression on the labels of chosen images."""
        return linear_probes.fit_logistic(
            *(self.train[chosen], self.labels[chosen]),
            l2=_L2,
            num_classes=int(self.labels.max()) + 1,
        )


def select_study(
    config: config_lib.Config,
    *,
    methods: Sequence[str],
    counts: Sequence[int],
    seeds: Sequence[int],
    finetune: bool = True,
) -> list[dict]:
    """Measures every method for each count and seed.

    Args:
        config: the settings of every run; model_dir is the directory of the study.
        methods: of `selection.methods.METHODS`.
        counts: numbers of labeled images.
        seeds: of the network, the images to choose from, the choice and the fine-tuning.
        finetune: whether to fine-tune too.

    Returns:
        The rows of select.csv: method, labels, seed, frozen, fine_tuned (None if it is not).

    Raises:
        errors.UserError: a method is unknown, or a training image has no label.
        loop.Interrupted: a signal stopped the study; the same call resumes it.
    """
    if unknown := [name for name in methods if name not in methods_lib.METHODS]:
        raise errors.UserError(
            f"--select lists {', '.join(methods_lib.METHODS)}, separated by commas. Received: "
            f"select={unknown[0]}. Correct --select."
        )
    config = config.replace(
        mode="train_then_eval", train_mode="simclrv2", labels_per_class=0, label_fraction=0.0
    )
    directory, strategy = config.model_dir or "", distribute.build_strategy(config)
    files.make_directory(directory)
    rows = read(directory)
    for seed in seeds:
        settings = dataclasses.replace(config, seed=seed, label_seed=seed)
        planned = stages.plan(settings, os.path.join(directory, f"seed{seed}"))
        tuned = next(stage.config for stage in planned if stage.name == "finetune")
        images = None
        for method in methods:
            wanted = [c for c in counts if _lacks(rows.get((method, c, seed)), finetune)]
            if wanted and images is None:
                if planned[0].name == "pretrain":
                    stages.run_stage(planned[0], strategy)
                images = _open_images(tuned)
            if images is None:
                continue
            for count, chosen in choose(method, images, counts, seed).items():
                if count in wanted:
                    row = _measure(images, chosen, tuned if finetune else None, strategy)
                    rows[method, count, seed] = {
                        **{"method": method, "labels": count, "seed": seed},
                        **row,
                    }
                    print(rows[method, count, seed], flush=True)
                    write(rows.values(), directory, title=_title(config))
    print(f"\n{summary(rows.values())}\n\nWritten to {directory}: select.csv, .md, .png")
    return list(rows.values())


def _lacks(row: Mapping | None, finetune: bool) -> bool:
    return row is None or (finetune and row["fine_tuned"] is None)


def _title(config: config_lib.Config) -> str:
    return f"Top-1 accuracy on {config.dataset_name}/{config.eval_split}"


def _open_images(config: config_lib.Config) -> _Images:
    """Returns the images of a seed, with the features of its pretrained network.

    Args:
        config: of the fine-tuning.
    """
    network = run_report.open_network(config.checkpoint or "")
    source = loaders.build_source(config, network.metadata["preprocessing"].get("channels"))
    extract = network_lib.build_extractor(network, source)
    train, test = (extract(split) for split in (config.train_split, config.eval_split))
    if (train.labels < 0).any():
        raise errors.UserError(
            "The study looks up the labels of chosen images, so that all need one. Received: "
            f"dataset={source.name}, with unlabeled images. Use a labeled dataset."
        )
    size = len(train.values)
    positions = np.sort(np.random.RandomState(config.seed).permutation(size)[: int(_POOL * size)])
    scale = float(np.sqrt(np.mean(np.square(train.values)))) or 1.0
    return _Images(
        positions,
        train.values[positions] / scale,
        train.labels[positions],
        test.values / scale,
        test.labels,
    )


def choose(method: str, images: _Images, counts: Iterable[int], seed: int) -> dict[int, np.ndarray]:
    """Returns count -> the chosen images, indices of `images`."""
    chosen: dict[int, np.ndarray] = {}
    labeled: np.ndarray = np.zeros(0, np.int64)
    for count in sorted(counts):
        if method in evaluation.CLASSIFIER_METHODS and len(labeled):
            is_labeled = np.isin(np.arange(len(images.train)), labeled)
            more = methods_lib.choose(
                images.train,
                count - len(labeled),
                method=method,
                is_labeled=is_labeled,
                probabilities=images.fit(labeled).probabilities(images.train),
                seed=seed,
            )
            labeled = np.concatenate([labeled, more.indices])
        else:
            first = "maxherding" if method in evaluation.CLASSIFIER_METHODS else method
            labeled = methods_lib.choose(images.train, count, method=first, seed=seed).indices
        chosen[count] = labeled
    return chosen


def _measure(
    images: _Images,
    chosen: np.ndarray,
    tuned: config_lib.Config | None,
    strategy: tf.distribute.Strategy,
) -> dict[str, float | None]:
    """Returns the accuracies of both classifiers that learn from the chosen images.

    Args:
        images: of the seed.
        chosen: indices of them.
        tuned: of the fine-tuning; None for the frozen features alone.
        strategy: the devices.
    """
    predicted = images.fit(chosen).predict(images.test)
    frozen = linear_probes.accuracies(predicted, images.test_labels)["top_1"]
    if tuned is None:
        return {"frozen": frozen, "fine_tuned": None}
    model_dir = os.path.join(os.path.dirname(tuned.model_dir or ""), "finetune")
    files.remove(model_dir)
    batch = min(tuned.train_batch_size, len(chosen))
    changes: dict[str, Any] = {"plots": False, "export": False, "train_batch_size": batch}
    job = job_lib.prepare(dataclasses.replace(tuned, model_dir=model_dir, **changes), strategy)
    job.source = job.source.subset(job.config.train_split, images.positions[chosen])
    _, results = pipeline.run_job(job)
    keras.backend.clear_session()  # frees the network's memory for the next one
    files.remove(model_dir)
    return {"frozen": frozen, "fine_tuned": results["eval/label_top_1_accuracy"]}


# ---- what is written


def read(directory: str) -> dict[Key, dict]:
    """Returns the rows of select.csv; none without it."""
    path = os.path.join(directory, "select.csv")
    if not tf.io.gfile.exists(path):
        return {}
    with tf.io.gfile.GFile(path) as file:
        found = list(csv.DictReader(file))
    rows: list[dict[str, Any]] = [
        {
            **{"method": row["method"], "labels": int(row["labels"]), "seed": int(row["seed"])},
            **{name: float(row[name]) if row[name] else None for name in MEASURES},
        }
        for row in found
    ]
    return {(row["method"], row["labels"], row["seed"]): row for row in rows}


def summary(rows: Iterable[Mapping]) -> str:
    """Returns a Markdown table per measure: a row per method, a column per number of labels."""
    rows, parts = list(rows), []
    counts = sorted({row["labels"] for row in rows})
    for measure, title in MEASURES.items():
        points = tables.over_seeds(rows, measure, methods_lib.METHODS)
        lines = [(m, *tables.cells_over_labels(own, rows)) for m, own in points.items()]
        if lines:
            heads = (title, *(f"{count} labels" for count in counts))
            parts.append(console.markdown_table(heads, lines))
    return "\n\n".join(parts)


def write(rows: Iterable[Mapping], directory: str, *, title: str) -> None:
    """Writes the study's files atomically."""
    rows = list(rows)
    title = tables.study_title(title, rows)
    files.write_csv(os.path.join(directory, "select.csv"), rows)
    files.write_text(os.path.join(directory, "select.md"), f"# {title}\n\n{summary(rows)}\n")
    shown = next(name for name in MEASURES if any(row[name] is not None for row in rows))
    png = plots.label_efficiency(
        tables.over_seeds(rows, shown, methods_lib.METHODS),
        title=f"{title}\n{MEASURES[shown]}",
        xlabel="labeled images",
    )
    files.write_bytes(os.path.join(directory, "select.png"), png)
