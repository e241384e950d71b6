"""One run: train, evaluate, export.

`resolve` decides the settings and `job` opens data, devices and directory; this module runs them.
Training starts from the first of these that exists:

1. the newest checkpoint in `model_dir`: the run resumes;
2. the weights of `--checkpoint`;
3. random weights.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from absl import logging

from tf2 import (
    compat,
    data,
    distribute,
    errors,
    evaluation,
    files,
    identity,
    loop,
    metrics,
    modes,
    momentum_encoder,
    progress,
    run_data,
    run_evaluation,
    run_lock,
    teacher,
    training,
    watch,
)
from tf2 import config as config_lib
from tf2 import job as job_lib
from tf2 import model as model_lib
from tf2.apply import export
from tf2.checkpoints import checkpoint, model_json
from tf2.sources import loaders
from tf2.visuals import run_figures

_MULTI_WORKER_LOG_STEPS = 20
_SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal
_STEPS_BETWEEN_CHECKPOINTS = 100  # at least, where an epoch is shorter


def run(config: config_lib.Config) -> None:
    """Trains, evaluates, or both, according to `config.mode`.

    Raises:
        errors.UserError: the configuration, data, checkpoint or machine is unsuitable.
        loop.Interrupted: a signal stopped the training; its state is saved.
    """
    job = job_lib.prepare(config)
    if job.config.mode == "eval":
        run_evaluation.evaluate_checkpoints(job)
    else:
        run_job(job)


def run_job(job: job_lib.Job) -> tuple[training.TrainState, dict[str, float]]:
    """Trains, evaluates and exports according to the configuration, and prints the results.

    Returns:
        The trained state and the evaluation results, empty if the run is not evaluated.
    """
    with run_data.naming_changed_files(job.source, job.config.max_pixels):
        return _run_job(job)


def _run_job(job: job_lib.Job) -> tuple[training.TrainState, dict[str, float]]:
    state, saver = train_job(job)
    step, total = int(state.global_step.numpy()), state.schedule.train_steps
    model = state.model
    if job.config.weights == "ema" and state.memory is not None:
        model = state.memory.encoder
    outputs: list[str] = []
    results: dict[str, float] = {}
    trust = None
    if job.config.evaluates:
        results = run_evaluation.evaluate_model(job, model, step)
        run_evaluation.print_results(job, results)
        trust = run_evaluation.calibrate(job, model, step)
        run_evaluation.save_best(saver, step, results)
        outputs.append("result.json")
    if job.config.export:
        described = job.describe(model, step, total)
        described |= {"calibration": trust} if trust else {}
        directory = export_model(job, model, described, results)
        outputs.append(os.path.relpath(directory, job.model_dir))
    if job.config.mode == "train_then_eval" and job.config.plots:  # last: everything else is saved
        outputs += run_figures.draw(job, model, step)
    print_outputs(job, saver, outputs)
    return state, results


def train(config: config_lib.Config) -> training.TrainState:
    """Trains from Python and returns the trained state.

    Writes the same files to `config.model_dir` as the command line, and resumes the run there.

    Args:
        config: the settings, as `configure` returns them.

    Returns:
        A state whose `model` is the trained network.

    Raises:
        errors.UserError: the configuration, data, checkpoint or machine is unsuitable.
        loop.Interrupted: a signal stopped the training; its state is saved.
    """
    config = config.replace(mode="train")
    gc.collect()  # the graphs of an earlier training in this process
    model_dir = config.model_dir or config.default_model_dir()
    with run_lock.hold(model_dir, needed=config.locks_model_dir):
        job = job_lib.prepare(config)
        with run_data.naming_changed_files(job.source, job.config.max_pixels):
            return train_job(job)[0]


def evaluate(config: config_lib.Config, model: model_lib.SimCLR) -> dict[str, float]:
    """Evaluates a network on the data of a configuration; writes nothing.

    Args:
        config: the settings, as `configure` returns them; dataset, split and sizes are used.
        model: the network, as `load_model` returns it.

    Returns:
        The results under the names of result.json: accuracies if the network has a supervised
        head, contrastive loss and accuracy otherwise.

    Raises:
        errors.UserError: the data cannot be read.
    """
    strategy = tf.distribute.get_strategy()
    return evaluation.Evaluator(config, loaders.build_source(config), strategy).evaluate(model)


def train_job(job: job_lib.Job) -> tuple[training.TrainState, checkpoint.Saver]:
    """Trains or resumes to the last step; returns the state and the saver of its checkpoints."""
    config, mode = job.config, modes.get(job.config.train_mode)
    num_examples = job.source.num_examples(config.train_split)
    channels = data.model_channels(config, job.source)
    with job.strategy.scope():
        if mode.distills:
            job.teacher = teacher.build_teacher(
                config,
                channels=channels,
                num_classes=job.source.num_classes,
                class_names=job.source.class_names,
            )
        state = training.build_train_state(
            config,
            num_examples=num_examples,
            num_classes=job.num_classes,
            channels=channels,
            teacher=job.teacher,
        )
        saver = checkpoint.Saver(
            str(job.model_dir),
            state.checkpoint_variables(),
            keep_max=config.keep_checkpoint_max,
            write=job.writer is not None,
        )
        start = restore_or_initialize(job, state, saver)
    total = state.schedule.train_steps
    if start >= total:
        job.print(
            f"The run in {job.model_dir} already finished at step {start}. To train longer, raise "
            "--train_steps or --train_epochs; to train again, choose another --model_dir."
        )
        return state, saver
    training.warn_of_long_warmup(state.schedule)
    logging.debug("%s", training.describe_masks(state))
    if job.writer is not None:
        write_start(job, state, start)
    run_training(job, state, saver, start, num_examples)
    return state, saver


def restore_or_initialize(
    job: job_lib.Job, state: training.TrainState, saver: checkpoint.Saver
) -> int:
    """Resumes the run, or loads the weights it starts from; returns the step to start at."""
    config = job.config
    if saver.latest is not None:
        check_same_run(job)
    step = saver.restore_latest()
    if step is not None:
        state.set_step(step)
        if step < state.schedule.train_steps:
            job.print(f"Resuming the run in {job.model_dir} from step {step}.")
        return step
    if config.checkpoint and modes.get(config.train_mode).checkpoint != "unused":
        report = checkpoint.load_weights(
            state.model,
            config.checkpoint,
            restore_head=config.restore_head,
            allow_partial=config.allow_partial,
            weights=config.weights,
        )
        if state.memory is not None:
            momentum_encoder.begin(state.memory, state.model)
        job.print(f"Weights from {config.checkpoint}: {report}")
    if config.zero_init_logits_layer and hasattr(state.model, "supervised_head"):
        state.model.supervised_head.zero_init()
    return 0


def check_same_run(job: job_lib.Job) -> None:
    """Raises errors.UserError if the run in model_dir was trained with other settings or images."""
    stored = files.read_json(str(job.model_dir / "flags.json"))
    if stored is not None:
        identity.check_same_run(str(job.model_dir), stored, job.config)
    if not job.config.allow_changed_data:
        run_data.check(str(job.model_dir), job.source, labels=job_lib.depends_on_labels(job.config))


def check_not_deleted(job: job_lib.Job) -> None:
    """Raises errors.UserError if somebody has deleted the run's files: it would go on for nothing.

    `write_start` writes flags.json, and nothing removes it.
    """
    if job.writer is not None and not tf.io.gfile.exists(str(job.model_dir / "flags.json")):
        raise errors.UserError(
            "The files of a run must stay while it runs. Received: "
            f"model_dir={job.model_dir}, which somebody has deleted or moved. Repeat the command "
            "to train again, or move the files back to resume."
        )


def write_start(job: job_lib.Job, state: training.TrainState, start: int) -> None:
    """Writes flags, architecture, variable lists and augmented images before the first step."""
    config = job.config
    assert job.writer is not None
    job.writer.write_flags(config.as_flags())
    run_data.write(str(job.model_dir), job.source)
    total = state.schedule.train_steps
    model_json.write_model_json(str(job.model_dir), job.describe(state.model, 0, total))
    files.write_json(str(job.model_dir / "variables.json"), dataclasses.asdict(state.masks))
    if modes.get(config.train_mode).views == 2:
        if start == 0:
            pairs = data.build_dataset(config, job.source, config.train_split, training=True)
            job.writer.image_pairs("train/augmented_pairs", next(iter(pairs))["image"], 0)
        logging.info(
            "%d negatives per anchor; at chance level the contrastive loss is "
            "2 ln(2N - 1) = %.3f (both directions).",
            2 * config.train_batch_size - 2,
            2 * metrics.chance_level(config.train_batch_size),
        )
        if config.use_memory:
            logging.info("Once full, the memory adds %d negatives.", config.memory_size)


def run_training(
    job: job_lib.Job,
    state: training.TrainState,
    saver: checkpoint.Saver,
    start: int,
    num_examples: int,
) -> None:
    """Trains from step `start` to the end of the schedule, with progress and checkpoints."""
    config, total = job.config, state.schedule.train_steps
    bar = progress.Progress(
        total,
        start_step=start,
        examples_per_step=config.train_batch_size,
        examples_per_epoch=num_examples,
        seconds_between_lines=0.0 if config.log_every_steps else _SECONDS_BETWEEN_LINES,
    )
    batches = job.strategy.distribute_datasets_from_function(
        lambda context: data.build_dataset(
            config,
            job.source,
            config.train_split,
            training=True,
            start_step=start,
            input_context=context,
        )
    )

    steps_per_epoch = max(int(round(num_examples / config.train_batch_size)), 1)
    follow = watch.Watch(job, total, steps_per_epoch, bar.write)

    def report(step: int, scalars: Mapping[str, float]) -> None:
        check_not_deleted(job)
        follow.check(step, scalars)
        bar.update(step, scalars, float(state.schedule(step - 1)))
        if job.writer is not None:
            named = {f"train/{name}": value for name, value in scalars.items()}
            # As in the reference: the rate of the next update.
            job.writer.scalars({**named, "learning_rate": float(state.schedule(step))}, step)

    def save(step: int) -> None:
        check_not_deleted(job)
        state.global_step.assign(step)
        saver.save(step)
        if job.writer is not None:
            metadata = job.describe(state.model, step, total)
            model_json.write_model_json(str(job.model_dir), metadata)

    # Workers that each chose their own interval would stop at different steps.
    log_every = _MULTI_WORKER_LOG_STEPS if distribute.is_multi_worker(job.strategy) else 0
    pace = loop.Pace(
        total=total,
        save_every=_steps_between_checkpoints(config, steps_per_epoch, total),
        log_every=config.log_every_steps or log_every,
        measure_every=follow.every,
    )
    steps = loop.make_train_loop(job.strategy, state.step, jit_compile=config.jit_compile)
    with loop.StopSignal() as stop, bar, compat.forgotten_gradients():
        loop.run_steps(
            steps,
            iter(batches),
            start=start,
            pace=pace,
            report=report,
            save=save,
            stop_signal=lambda: (
                distribute.max_over_workers(job.strategy, stop.received or 0) or None
            ),
            last_saved=lambda: f"The last good checkpoint is {saver.latest or 'not written yet'}.",
            measure=lambda step: follow.measure(step, state.model),
        )
    if stop.received:  # in the last steps: what follows is not to be waited for
        signal.raise_signal(stop.received)


def _steps_between_checkpoints(config: config_lib.Config, steps_per_epoch: int, total: int) -> int:
    """Returns the number of steps between checkpoints.

    On few images an epoch is a few steps. Unless the user sets checkpoint_epochs, checkpoints are
    at least a hundred steps or a twentieth of the training apart, on a labeled subset a twentieth.
    """
    if config.checkpoint_steps:
        return config.checkpoint_steps
    least = 0
    if "checkpoint_epochs" not in config.explicit:
        least = total // 20 if config.few_labels else min(total // 20, _STEPS_BETWEEN_CHECKPOINTS)
    return max(config.checkpoint_epochs * steps_per_epoch, least)


def print_outputs(job: job_lib.Job, saver: checkpoint.Saver, outputs: list[str]) -> None:
    """Prints the files of a run."""
    job.print(f"Written to {job.model_dir}:")
    names = [
        os.path.basename(saver.latest or "no checkpoint"),
        "model.json",
        "flags.json",
        *outputs,
    ]
    job.print(f"  {', '.join(names)}, TensorBoard events (tensorboard --logdir {job.model_dir})")


def export_model(
    job: job_lib.Job,
    model: model_lib.SimCLR,
    metadata: dict[str, Any],
    results: dict[str, float],
) -> str:
    """Exports a SavedModel to saved_model/<step> and returns its directory."""
    return export.export_saved_model(
        model,
        str(job.model_dir / "saved_model" / str(metadata["global_step"])),
        preprocessing=job.preprocessing,
        class_names=job.class_names,
        model_json=metadata,
        settings=job.config.as_flags(),
        results=results,
        keep=job.config.keep_hub_module_max,
        write=job.writer is not None,
    )
