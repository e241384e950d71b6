"""The results of a run of all stages: table, cross-validated estimate, warnings, page."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf2 import config as config_lib
from tf2 import files, intervals, modes, sanity, schemas
from tf2 import job as job_lib
from tf2.apply import cross_validation, run_report
from tf2.apply import network as network_lib
from tf2.checkpoints import checkpoint_reader, model_json
from tf2.sources import loaders
from tf2.visuals import report, tables

CROSS_VALIDATION_FILE = "cross_validation.json"

TITLES = {
    "pretrain": "pretrained",
    "finetune": "fine-tuned",
    "distill": "self-distilled",
    "student": "distilled student",
    "supervised": "supervised baseline",
}
CLASSIFIERS = ("student", "distill", "finetune")  # whose network may be the result, small first


@dataclasses.dataclass(frozen=True)
class Finished:
    """A stage that was run.

    Attributes:
        name: of `config.STAGES`.
        config: its settings, as planned.
        done: its stage.json.
    """

    name: str
    config: config_lib.Config
    done: Mapping[str, Any]

    @property
    def directory(self) -> str:
        """Its model_dir."""
        return self.config.model_dir or ""

    @property
    def has_network(self) -> bool:
        """Whether there is a checkpoint."""
        return checkpoint_reader.latest_checkpoint(self.directory) is not None

    @property
    def run_config(self) -> config_lib.Config:
        """Its settings, as its run resolved them."""
        stored = model_json.read_checked_flags(self.directory)
        known = {f.name: stored[f.name] for f in config_lib.flag_fields() if f.name in stored}
        return dataclasses.replace(self.config, **known)


def rows(stages: Sequence[Finished]) -> list[dict]:
    """Returns the rows of the results table."""
    largest = max(stage.done.get("images", 0) for stage in stages)
    return [row(stage.name, stage.config, stage.done, largest) for stage in stages]


def result_of(table: Sequence[Mapping]) -> str | None:
    """Returns the stage whose network is the result of all; None without a classifier.

    It is the smallest one, unless another is more accurate by more than its 95 % interval.

    Args:
        table: the rows of the results table.
    """
    stages = {title: name for name, title in TITLES.items()}
    found = {stages[row["method"]]: row for row in table}
    trained = [name for name in CLASSIFIERS if name in found]
    best = max((found[name]["top_1"] or 0.0 for name in trained), default=0.0)
    for name in trained:
        high = found[name]["top_1_high"]
        if high is None or high >= best:
            return name
    return None


def finish(
    title: str,
    model_dir: str,
    stages: Sequence[Finished],
    images: loaders.Source | None,
    *,
    decided: Sequence[tuple[str, str, str]] = (),
    next_steps: str = "",
) -> str:
    """Writes the results of all stages, and returns the text to print.

    Args:
        title: of the table.
        model_dir: of all stages.
        stages: in their order.
        images: with all of their labels; None writes the table alone.
        decided: see `report.Report`.
        next_steps: what to do after the run; see `report.Report`.
    """
    if images is None or stages[0].config.mode != "train_then_eval" or not images.random_access:
        return tables.write_results(rows(stages), model_dir, title=title)
    estimate = cross_validated(stages, model_dir)
    notes = [] if estimate is None else [estimate_in_words(estimate, stages)]
    warnings = warnings_of(stages)
    text = tables.write_results(rows(stages), model_dir, title=title, notes=[*notes, *warnings])
    result = result_of(rows(stages))
    classifier = next((s for s in stages if s.name == result and s.has_network), None)
    config = (classifier or stages[0]).run_config
    listing = images.listing
    page = report.Report(
        title=os.path.basename(os.path.normpath(config.data_dir or "")) if listing else title,
        found=listing.describe() if listing else (),
        decided=decided,
        rows=rows(stages),
        result=TITLES[classifier.name] if classifier else "",
        notes=notes,
        warnings=warnings,
        next_steps=next_steps,
    )
    written = run_report.write(
        page,
        model_dir,
        {TITLES[stage.name]: stage.directory for stage in stages},
        classifier.directory if classifier else None,
        images,
        stages[0].run_config.train_split,
        config.eval_split,
        min_precision=stages[0].config.min_precision,
        coverage=stages[0].config.coverage,
    )
    return ", ".join([text, *written])


def warnings_of(stages: Sequence[Finished]) -> list[str]:
    """Returns the sentences of `sanity` that hold for these stages."""
    accuracies: dict[str, sanity.Accuracy] = {}
    for stage in stages:
        results, top_1 = stage.done.get("results") or {}, "eval/label_top_1_accuracy"
        if top_1 in results and not modes.get(stage.config.train_mode).pretrains:
            accuracies[stage.name] = (results[top_1], intervals.of_result(results, top_1))
    return sanity.compare_stages(accuracies)


def cross_validated(
    stages: Sequence[Finished], model_dir: str
) -> cross_validation.CrossValidation | None:
    """Returns the accuracy of a probe on the pretrained features, cross-validated.

    None unless fewer than 50 labeled images are held out. It is kept in cross_validation.json.

    Args:
        stages: of the run; the labels are the fine-tuning's.
        model_dir: where to write.
    """
    finetune = next((stage for stage in stages if stage.name == "finetune"), None)
    if finetune is None or not finetune.has_network:
        return None
    config, held_out = finetune.run_config, num_held_out(finetune)
    if held_out is None or held_out >= intervals.ENOUGH_IMAGES:
        return None
    path = os.path.join(model_dir, CROSS_VALIDATION_FILE)
    stored = files.read_json(path, schemas.CROSS_VALIDATION.check, optional=True) or {}
    identity = finetune.done.get("identity")
    if stored.pop("identity", None) == identity:
        stored["fold_accuracies"] = tuple(stored["fold_accuracies"])
        return cross_validation.CrossValidation(**stored)
    network = run_report.open_network(config.checkpoint or "")
    source = loaders.build_source(config, network.metadata["preprocessing"].get("channels"))
    features = network_lib.build_extractor(network, source)(config.train_split)
    known = features.labels >= 0
    estimate = cross_validation.cross_validate(
        features.values[known], features.labels[known], seed=config.label_seed
    )
    files.write_json(path, {**dataclasses.asdict(estimate), "identity": identity})
    return estimate


def num_held_out(finetune: Finished) -> float | None:
    """Returns the number of images that a stage was evaluated on, 0 for none; None if unknown."""
    if not finetune.run_config.eval_split:
        return 0.0
    if finetune.config.eval_steps:
        return None
    return (finetune.done.get("results") or {}).get("eval/num_images")


def estimate_in_words(
    estimate: cross_validation.CrossValidation, stages: Sequence[Finished]
) -> str:
    """Returns which number is which."""
    found = intervals.text(estimate.accuracy, (estimate.low, estimate.high))
    number = (
        f"5-fold cross-validation of a logistic regression on the pretrained features of all "
        f"{estimate.num_images:,} labeled training images gives {found}, majority class "
        f"{100 * estimate.majority_class:.1f} %"
    )
    held_out = next(num_held_out(stage) for stage in stages if stage.name == "finetune")
    if not held_out:
        return (
            "No labeled image is held out, so that the networks above have no accuracy. "
            f"{number}: it says what the pretrained features are worth, without fine-tuning."
        )
    return (
        f"Only {held_out:,.0f} labeled images are held out: the accuracies above are uncertain. "
        f"{number}: more certain, but of the pretrained features without fine-tuning."
    )


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
    top_1, per_class = "eval/label_top_1_accuracy", "eval/label_mean_per_class_accuracy"
    low, high = intervals.of_result(measured, top_1) or (None, None)
    class_low, class_high = intervals.of_result(measured, per_class) or (None, None)
    return {
        "method": TITLES[name],
        "labels": _labels_in_words(config, done.get("labels"), num_images),
        "top_1": measured.get(top_1),
        "knn": results.get("eval/knn_accuracy"),
        "parameters": done["parameters"],
        "seconds": done["seconds"],
        "top_1_low": low,
        "top_1_high": high,
        "mean_per_class": measured.get(per_class),
        "mean_per_class_low": class_low,
        "mean_per_class_high": class_high,
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
