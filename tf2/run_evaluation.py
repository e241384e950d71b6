"""Evaluates a run: its network once, or each of its checkpoints as training writes them."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import keras
import tensorflow as tf

from tf2 import (
    calibration,
    data,
    errors,
    evaluation,
    intervals,
    knn,
    modes,
    run_directory,
    variables,
)
from tf2 import job as job_lib
from tf2 import model as model_lib
from tf2.checkpoints import checkpoint, checkpoint_reader, model_json
from tf2.sources import source as source_lib

_POLL_SECONDS = 2.0
_CALIBRATED_ON = 10_000  # held-out images at most

# The result that decides which checkpoint is best, in order of preference: name -> sign.
_BEST_MEASURES = (
    ("eval/label_top_1_accuracy", 1.0),
    ("eval/knn_accuracy", 1.0),
    ("eval/contrast_loss", -1.0),
)
# Result -> the title it is printed under
_TITLES = {
    "eval/label_top_1_accuracy": "top-1 accuracy",
    "eval/label_mean_per_class_accuracy": "mean per-class accuracy",
    "eval/label_top_5_accuracy": "top-5 accuracy",
    "eval/contrast_acc": "contrastive accuracy",
    "eval/knn_accuracy": "kNN accuracy of the frozen features",
    "eval/knn_accuracy_untrained": "  the same network untrained",
    "eval/majority_class_accuracy": "  majority-class accuracy",
}


def evaluate_model(job: job_lib.Job, model: model_lib.SimCLR, step: int) -> dict[str, float]:
    """Evaluates a network and writes result.json, result_<step>.json and TensorBoard scalars."""
    results = job.evaluator.evaluate(model)
    if _measures_knn(job):
        results["eval/knn_accuracy"] = job.evaluator.knn_accuracy(model)
        results["eval/knn_accuracy_untrained"] = untrained_knn_accuracy(job)
        labels = job.evaluator.knn_labels()
        correct = results["eval/knn_accuracy"] * len(labels)
        low, high = intervals.wilson(correct, len(labels))
        results |= {"eval/knn_low": low, "eval/knn_high": high}
        results.setdefault("eval/num_images", float(len(labels)))
        results["eval/majority_class_accuracy"] = knn.majority_class_accuracy(labels)
        # The former name, which readers of result.json may still look for.
        results["eval/chance_accuracy"] = results["eval/majority_class_accuracy"]
    if job.writer is not None:
        (job.eval_writer or job.writer).scalars(results, step)
        job.writer.write_result({**results, "global_step": float(step)}, step)
    return results


def _measures_knn(job: job_lib.Job) -> bool:
    """Whether to measure kNN accuracy: by default after pretraining on images with labels."""
    if job.config.eval_knn == "off" or not job.evaluator.measures_knn:
        return False
    return job.config.eval_knn == "on" or modes.get(job.config.train_mode).pretrains


def untrained_knn_accuracy(job: job_lib.Job) -> float:
    """Returns the kNN accuracy of the network's initial weights, measured once per run."""
    if job.untrained_knn is None:
        with job.strategy.scope():
            keras.utils.set_random_seed(job.config.seed)
            model = model_lib.build_model(
                job.config,
                num_classes=job.source.num_classes,
                channels=data.model_channels(job.config, job.source),
            )
        # A separate evaluator: the job's holds the graphs of the trained network.
        evaluator = evaluation.Evaluator(job.config, job.source, job.strategy)
        job.untrained_knn = evaluator.knn_accuracy(model)
    return job.untrained_knn


def calibrate(job: job_lib.Job, model: model_lib.SimCLR, step: int) -> dict[str, Any] | None:
    """Measures how far a classifier's probabilities can be trusted, and adds that to model.json.

    On the labeled images of the evaluation split, and only where training has not used them.

    Returns:
        A `calibration.Calibration` as a dict; None without a classifier or held-out labels.
    """
    config, source = job.config, job.source
    classes = model.hyperparameters["num_classes"]
    if modes.get(config.train_mode).pretrains or not classes or classes != source.num_classes:
        return None
    if not source.num_labeled(config.eval_split) or source_lib.overlap(
        source, config.train_split, config.eval_split
    ):
        return None
    logits, labels = job.evaluator.features(
        model, config.eval_split, endpoint="logits_sup", limit=_CALIBRATED_ON, labeled=True
    )
    found = calibration.calibrate(logits, labels, global_step=step)
    stored = model_json.read_model_json(str(job.model_dir))
    described = dataclasses.asdict(found)
    if job.writer is not None and stored is not None and stored["global_step"] == step:
        model_json.write_model_json(str(job.model_dir), {**stored, "calibration": described})
    for text in calibration.sentences(found):
        job.print(text)
    return described


def save_best(saver: checkpoint.Saver, step: int, results: dict[str, float]) -> None:
    """Saves a checkpoint under best/ if it beats the best one so far."""
    for name, sign in _BEST_MEASURES:
        if name in results:
            saver.save_best(step, sign * results[name], name)
            return


def print_results(job: job_lib.Job, results: dict[str, float]) -> None:
    """Prints the accuracies, with their 95 % intervals."""
    if not _TITLES.keys() & results.keys():
        job.print("The images have no labels, so no accuracy is reported.")
        return
    count = f", {results['eval/num_images']:,.0f} images" if "eval/num_images" in results else ""
    job.print(f"Results on {job.source.name}/{job.config.eval_split}{count}:")
    for name, title in _TITLES.items():
        if name in results:
            interval = intervals.of_result(results, name)
            text = intervals.bounds(*interval) if interval else ""
            text += job.evaluator.knn_scope() if name == "eval/knn_accuracy" else ""
            job.print(f"  {title:38} {100 * results[name]:6.2f} % {text}".rstrip())


def evaluate_checkpoints(job: job_lib.Job) -> None:
    """Evaluates a run's newest checkpoint and each later one, up to the last step.

    Checkpoints that training removes before they are read are skipped.

    Raises:
        errors.UserError: no new checkpoint appeared within `eval_timeout` seconds.
    """
    evaluated_step: int | None = None
    waiting_since = time.monotonic()
    network: tuple[model_lib.SimCLR, checkpoint.Saver | None] | None = None
    while True:
        prefix = checkpoint_reader.latest_checkpoint(str(job.model_dir))
        metadata = checkpoint_reader.run_metadata(str(job.model_dir))
        # model.json is written separately and may appear after the checkpoint.
        if (
            prefix is None
            or metadata is None
            or checkpoint_reader.step_of(prefix) == evaluated_step
        ):
            _wait_for_checkpoint(job, waiting_since, evaluated_step)
            continue
        if network is None:
            job.adopt_run_flags()
            job_lib.check_images(job, metadata)
            network = _build_restorable(job, metadata)
        model, saver = network
        try:
            evaluated_step = saver.restore(prefix) if saver else _load_foreign(model, prefix)
        except checkpoint_reader.MissingCheckpoint:
            continue
        job.print(f"Evaluating {prefix}.")
        results = evaluate_model(job, model, evaluated_step)
        if saver is not None:
            save_best(saver, evaluated_step, results)
        print_results(job, results)
        if evaluated_step >= metadata.get("train_steps", evaluated_step):
            calibrate(job, model, evaluated_step)  # of the last weights: training is over
            return
        waiting_since = time.monotonic()


def _build_restorable(
    job: job_lib.Job, metadata: dict[str, Any]
) -> tuple[model_lib.SimCLR, checkpoint.Saver | None]:
    """Builds the network that a model.json describes and the saver that restores it.

    A run of the reference has no saver: its files stay as they are.
    """
    architecture, section = metadata["architecture"], "model"
    if job.config.weights == "ema":
        if not job.config.use_memory:
            raise errors.UserError(
                "Only pretraining with a memory has a moving average of the weights. Received: "
                f"weights=ema for {job.model_dir}, a run without a memory. Use --weights=online."
            )
        architecture, section = {**architecture, "num_classes": 0}, "ema"
    with job.strategy.scope():
        model = model_lib.SimCLR(**architecture)
        if run_directory.is_of_reference(str(job.model_dir)):
            return model, None
        contents = {
            section: variables.named_variables(model),
            "global_step": tf.Variable(0, dtype=tf.int64),
        }
        write = job.writer is not None
        return model, checkpoint.Saver(str(job.model_dir), contents, write=write)


def _load_foreign(model: model_lib.SimCLR, prefix: str) -> int:
    """Loads a checkpoint of the reference; returns its step."""
    checkpoint.load_weights(model, prefix, restore_head=True)
    return checkpoint_reader.step_of(prefix)


def _wait_for_checkpoint(job: job_lib.Job, since: float, evaluated_step: int | None) -> None:
    """Sleeps briefly; raises errors.UserError once `eval_timeout` has passed."""
    timeout = job.config.eval_timeout
    if timeout and time.monotonic() - since > timeout:
        last = "none" if evaluated_step is None else f"step {evaluated_step}"
        raise errors.UserError(
            f"No new checkpoint appeared in {job.model_dir} before the timeout (last evaluated: "
            f"{last}). Received: eval_timeout={timeout}. Check that training is still running."
        )
    time.sleep(_POLL_SECONDS)
