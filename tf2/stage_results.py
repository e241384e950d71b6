"""The results of a run of all stages: what its table says of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tf2 import config as config_lib
from tf2 import intervals, modes
from tf2 import job as job_lib

TITLES = {
    "pretrain": "pretrained",
    "finetune": "fine-tuned",
    "distill": "self-distilled",
    "student": "distilled student",
    "supervised": "supervised baseline",
}


def labels_used(job: job_lib.Job) -> list[int] | None:
    """Returns the number of labeled images of each class that a run trains on.

    None where it reads no label, and where counting them would take a pass over the data.
    """
    source, mode = job.source, modes.get(job.config.train_mode)
    known = source.random_access or job.config.few_labels
    if not source.num_classes or not known or mode.pretrains or mode.hides_labels:
        return None
    labels = source.labels(job.config.train_split)
    return np.bincount(labels[labels >= 0], minlength=source.num_classes).tolist()


def row(name: str, config: config_lib.Config, done: Mapping, num_images: int = 0) -> dict:
    """Returns a stage's row of the results table; see `tables.write_results`.

    Args:
        name: of the stage.
        config: its settings.
        done: its stage.json.
        num_images: of the largest training split of all stages.
    """
    results = done.get("results") or {}
    measured = {} if modes.get(config.train_mode).pretrains else results
    top_1 = "eval/label_top_1_accuracy"
    low, high = intervals.of_result(measured, top_1) or (None, None)
    return {
        "method": TITLES[name],
        "labels": _labels_in_words(config, done.get("labels"), num_images),
        "top_1": measured.get(top_1),
        "knn": results.get("eval/knn_accuracy"),
        "parameters": done["parameters"],
        "seconds": done["seconds"],
        "top_1_low": low,
        "top_1_high": high,
        "mean_per_class": measured.get("eval/label_mean_per_class_accuracy"),
        "majority_class": results.get("eval/majority_class_accuracy"),
        "num_images": results.get("eval/num_images"),
    }


def _labels_in_words(
    config: config_lib.Config, counts: Sequence[int] | None, num_images: int
) -> str:
    """Returns a stage's labels: none, "100 (10 per class)", "150 of 1,950" or "all 1,437"."""
    if modes.get(config.train_mode).pretrains:
        return "none"
    if counts and sum(counts) == num_images:
        return f"all {num_images:,}"
    if counts and len(set(counts)) == 1:
        return f"{sum(counts):,} ({counts[0]:,} per class)"
    if counts:
        return f"{sum(counts):,}" + (f" of {num_images:,}" if num_images else "")
    if config.labels_per_class:
        return f"{config.labels_per_class} per class"
    return f"{100 * config.label_fraction:g} %" if config.label_fraction else "all"
