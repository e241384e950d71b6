"""A run as a user asks for it: train, evaluate, export, say what came out.

The start of a training, in this order: (1) the newest checkpoint in `model_dir`, where the same
run stopped; (2) `--checkpoint`, whose weights a new run starts from; (3) random weights.
"""

from __future__ import annotations

import dataclasses
import os
import time

import keras
import tensorflow as tf
from absl import logging

from tf2 import (
    data,
    distribute,
    errors,
    evaluation,
    files,
    identity,
    knn,
    loop,
    metrics,
    modes,
    momentum_encoder,
    progress,
    teacher,
    training,
    variables,
)
from tf2 import job as job_lib
from tf2 import model as model_lib
from tf2.apply import export
from tf2.checkpoints import checkpoint, checkpoint_reader, model_json
from tf2.sources import loaders
from tf2.visuals import run_figures

_POLL_SECONDS = 2.0
_STEPS_TOGETHER = 20  # between reports, where several workers must keep step


def run(config) -> None:
    """Trains, evaluates, or both, as the configuration says.

    Raises:
        errors.UserError: the configuration, data, checkpoint or machine doesn't allow it.
        loop.Interrupted: a signal ended the training; its state is saved.
    """
    job = job_lib.prepare(config)
    if job.config.mode == "eval":
        evaluate_as_they_come(job)
    else:
        run_job(job)


def run_job(job: job_lib.Job) -> tuple[training.TrainState, dict[str, float]]:
    """Trains, then evaluates and exports as the configuration says, and tells so.

    Returns:
        The trained state and the results of the evaluation, none without one.
    """
    state, saver = train_job(job)
    step, total = int(state.global_step.numpy()), state.schedule.train_steps
    model = state.model
    if job.config.weights == "ema" and state.memory is not None:
        model = state.memory.encoder
    wrote, results = [], {}
    if job.config.mode == "train_then_eval":
        results = evaluate_once(job, model, step)
        keep_best(saver, step, results)
        say_results(job, results)
        wrote.append("result.json")
    if job.config.export:
        described = job.describe(model, step, total)
        wrote.append(os.path.relpath(export_model(job, model, described, results), job.model_dir))
    if job.config.mode == "train_then_eval" and job.config.plots:  # all else is written by now
        wrote += run_figures.draw(job, model, step)
    say_places(job, saver, wrote)
    return state, results


def train(config) -> training.TrainState:
    """Trains as a configuration says and returns the trained state, for use in Python.

    Everything that the command line writes is written to the configuration's model_dir.

    Raises:
        errors.UserError, loop.Interrupted: as `run`.
    """
    return train_job(job_lib.prepare(config.replace(mode="train")))[0]


def evaluate(config, model) -> dict[str, float]:
    """Evaluates a network on the data of a configuration; writes nothing.

    Args:
        config: a `config.Config`; its dataset, split and sizes count.
        model: a `model.SimCLR`.

    Returns:
        Results under the names of result.json: accuracies with a supervised head, contrastive
        measures without.

    Raises:
        errors.UserError: the data can't be read.
    """
    strategy = tf.distribute.get_strategy()
    return evaluation.Evaluator(config, loaders.build_source(config), strategy).evaluate(model)


def train_job(job: job_lib.Job) -> tuple[training.TrainState, checkpoint.Saver]:
    """Trains to the last step, from wherever the run stands; returns what it ended with."""
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
        start = begin(job, state, saver)
    total = state.schedule.train_steps
    if start >= total:
        job.say(
            f"The run in {job.model_dir} already finished at step {start}. For more, raise "
            "--train_steps or --train_epochs, or choose another --model_dir."
        )
        return state, saver
    training.warn_of_long_warmup(state.schedule)
    logging.info("%s", training.describe_masks(state))
    if job.writer is not None:
        write_start(job, state, start)
    run_training(job, state, saver, start, num_examples)
    return state, saver


def begin(job: job_lib.Job, state: training.TrainState, saver: checkpoint.Saver) -> int:
    """Resumes, or loads the weights to start from, or leaves random ones; returns the step."""
    config = job.config
    if saver.latest is not None:
        check_same_run(job)
    step = saver.restore_latest()
    if step is not None:
        state.set_step(step)
        if step < state.schedule.train_steps:
            job.say(f"Continuing the run in {job.model_dir} from step {step}.")
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
        job.say(f"Weights from {config.checkpoint}: {report}")
    if config.zero_init_logits_layer and hasattr(state.model, "supervised_head"):
        state.model.supervised_head.zero_init()
    return 0


def check_same_run(job: job_lib.Job) -> None:
    """Raises errors.UserError where the run in model_dir had other settings; it names them."""
    stored = files.read_json(str(job.model_dir / "flags.json"))
    if stored is not None:
        identity.check_same_run(str(job.model_dir), stored, job.config)


def write_start(job: job_lib.Job, state: training.TrainState, start: int) -> None:
    """Writes what is known before the first step: flags, architecture, lists, figures."""
    config = job.config
    job.writer.write_flags(config.as_flags())
    total = state.schedule.train_steps
    model_json.write_model_json(str(job.model_dir), job.describe(state.model, 0, total))
    files.write_json(str(job.model_dir / "variables.json"), dataclasses.asdict(state.masks))
    if modes.get(config.train_mode).views == 2:
        if start == 0:
            pairs = data.build_dataset(config, job.source, config.train_split, training=True)
            job.writer.image_pairs("train/augmented_pairs", next(iter(pairs))["image"], 0)
        logging.info(
            "%d negatives per anchor; the contrastive loss of a network that knows nothing "
            "is 2 ln(2N - 1) = %.3f (both directions).",
            2 * config.train_batch_size - 2,
            2 * metrics.chance_level(config.train_batch_size),
        )
        if config.use_memory:
            logging.info("The memory will add %d negatives, once full.", config.memory_size)


def run_training(job, state, saver, start: int, num_examples: int) -> None:
    """Runs the loop from `start` to the end of the schedule, reporting and saving."""
    config, total = job.config, state.schedule.train_steps
    bar = progress.Progress(
        total,
        start_step=start,
        examples_per_step=config.train_batch_size,
        examples_per_epoch=num_examples,
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

    def report(step, scalars):
        rate = float(state.schedule(step))
        bar.update(step, scalars, rate)
        if job.writer is not None:
            named = {f"train/{name}": value for name, value in scalars.items()}
            job.writer.scalars({**named, "learning_rate": rate}, step)

    def save(step):
        state.global_step.assign(step)
        saver.save(step)
        if job.writer is not None:
            described = job.describe(state.model, step, total)
            model_json.write_model_json(str(job.model_dir), described)

    def measure(step):
        accuracy = job.evaluator.knn_accuracy(state.model)
        if job.writer is not None:
            job.writer.scalars({"eval/knn_accuracy": accuracy}, step)
            bar.write(f"kNN accuracy of the features after step {step}: {100 * accuracy:.2f} %")

    steps_per_epoch = max(int(round(num_examples / config.train_batch_size)), 1)
    together = distribute.is_multi_worker(job.strategy)
    pace = loop.Pace(
        total=total,
        save_every=_steps_between_checkpoints(config, steps_per_epoch, total),
        # A pace that each worker found for itself would have them stop at different steps.
        log_every=config.log_every_steps or (_STEPS_TOGETHER if together else 0),
        measure_every=knn_epochs(job) * steps_per_epoch,
    )
    steps = loop.make_train_loop(job.strategy, state.step, jit_compile=config.jit_compile)
    with loop.StopSignal() as stop, bar:
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
            measure=measure,
        )


def _steps_between_checkpoints(config, steps_per_epoch: int, total: int) -> int:
    """Returns how many steps apart checkpoints are.

    The epochs of few labels are short, one step often: unless the user asks for checkpoints so
    often, they are a twentieth of the training apart, or further.
    """
    if config.checkpoint_steps:
        return config.checkpoint_steps
    least = total // 20 if config.few_labels and "checkpoint_epochs" not in config.explicit else 0
    return max(config.checkpoint_epochs * steps_per_epoch, least)


def knn_epochs(job: job_lib.Job) -> int:
    """Returns the epochs between measurements of nearest neighbours in training; 0 for none."""
    if not modes.get(job.config.train_mode).pretrains or not job.config.knn_every_epochs:
        return 0
    if not job.source.num_classes:
        job.say("The images have no classes: --knn_every_epochs has nothing to compare with.")
        return 0
    return job.config.knn_every_epochs


def evaluate_once(job: job_lib.Job, model, step: int) -> dict[str, float]:
    """Evaluates a network and writes result.json, result_<step>.json and TensorBoard's points."""
    results = job.evaluator.evaluate(model)
    if wants_knn(job):
        results["eval/knn_accuracy"] = job.evaluator.knn_accuracy(model)
        results["eval/knn_accuracy_untrained"] = untrained_knn(job)
        labels = job.source.labels(job.config.eval_split)
        results["eval/majority_class_accuracy"] = knn.majority_class_accuracy(labels)
        # The former name, which readers of result.json may still look for.
        results["eval/chance_accuracy"] = results["eval/majority_class_accuracy"]
    if job.writer is not None:
        (job.eval_writer or job.writer).scalars(results, step)
        job.writer.write_result({**results, "global_step": float(step)}, step)
    return results


def wants_knn(job: job_lib.Job) -> bool:
    """Whether to measure nearest neighbours: after pretraining, where there are labels."""
    if not job.source.num_classes or job.config.eval_knn == "off":
        return False
    return job.config.eval_knn == "on" or modes.get(job.config.train_mode).pretrains


def untrained_knn(job: job_lib.Job) -> float:
    """Measures the same network with the weights that the seed gave it, once, to compare with."""
    if job.untrained_knn is None:
        with job.strategy.scope():
            keras.utils.set_random_seed(job.config.seed)
            model = model_lib.build_model(
                job.config,
                num_classes=job.source.num_classes,
                channels=data.model_channels(job.config, job.source),
            )
        # An evaluator of its own: the job's keeps the graphs of the trained network.
        other = evaluation.Evaluator(job.config, job.source, job.strategy)
        job.untrained_knn = other.knn_accuracy(model)
    return job.untrained_knn


# What a checkpoint is better by, in order of preference: name -> sign.
MEASURES = (
    ("eval/label_top_1_accuracy", 1.0),
    ("eval/knn_accuracy", 1.0),
    ("eval/contrast_loss", -1.0),
)


def keep_best(saver: checkpoint.Saver, step: int, results: dict[str, float]) -> None:
    """Keeps a checkpoint under best/ if it is, by the first measure that there is."""
    for name, sign in MEASURES:
        if name in results:
            saver.save_best(step, sign * results[name], name)
            return


def say_results(job: job_lib.Job, results: dict[str, float]) -> None:
    """Prints the accuracies and where everything was written."""
    told = {
        "eval/label_top_1_accuracy": "top-1 accuracy",
        "eval/label_top_5_accuracy": "top-5 accuracy",
        "eval/contrast_acc": "contrastive accuracy",
        "eval/knn_accuracy": "kNN accuracy of the frozen features",
        "eval/knn_accuracy_untrained": "  the same network untrained",
        "eval/majority_class_accuracy": "  majority-class accuracy",
    }
    if not told.keys() & results.keys():
        job.say("The images have no classes: there is nothing to compare the answers with.")
        return
    job.say(f"Results on {job.source.name}/{job.config.eval_split}:")
    for name, title in told.items():
        if name in results:
            job.say(f"  {title:38} {100 * results[name]:6.2f} %")


def say_places(job: job_lib.Job, saver: checkpoint.Saver, wrote: list[str]) -> None:
    """Prints the paths of what a run left."""
    job.say(f"Written to {job.model_dir}:")
    names = [os.path.basename(saver.latest or "no checkpoint"), "model.json", "flags.json", *wrote]
    job.say(f"  {', '.join(names)}, TensorBoard events (tensorboard --logdir {job.model_dir})")


def export_model(job: job_lib.Job, model, described: dict, results: dict) -> str:
    """Exports a SavedModel to saved_model/<step> and returns its directory."""
    return export.export_saved_model(
        model,
        str(job.model_dir / "saved_model" / str(described["global_step"])),
        preprocessing=job.preprocessing,
        class_names=job.class_names,
        model_json=described,
        settings=job.config.as_flags(),
        results=results,
        keep=job.config.keep_hub_module_max,
        write=job.writer is not None,
    )


def evaluate_as_they_come(job: job_lib.Job) -> None:
    """Evaluates the newest checkpoint of a run, and each one that follows, to the run's last.

    A checkpoint that training removed before it could be read is passed over.

    Raises:
        errors.UserError: no (other) checkpoint appeared in `eval_timeout` seconds.
    """
    done: int | None = None
    waiting_since = time.monotonic()
    model, saver = None, None
    while True:
        prefix = checkpoint_reader.latest_checkpoint(str(job.model_dir))
        if prefix is None or checkpoint_reader.step_of(prefix) == done:
            wait_for_checkpoint(job, waiting_since, done)
            continue
        stored = model_json.read_model_json(str(job.model_dir))
        if stored is None:  # written aside from the checkpoint, and not there yet
            wait_for_checkpoint(job, waiting_since, done)
            continue
        if model is None:
            job.adopt_run_flags()
            job_lib.check_images(job, stored)
            model, saver = restorable(job, stored)
        try:
            done = saver.restore(prefix)
        except checkpoint_reader.MissingCheckpoint:
            continue
        job.say(f"Evaluating {prefix}.")
        results = evaluate_once(job, model, done)
        keep_best(saver, done, results)
        say_results(job, results)
        if done >= stored.get("train_steps", done):
            return
        waiting_since = time.monotonic()


def restorable(job: job_lib.Job, stored: dict) -> tuple[model_lib.SimCLR, checkpoint.Saver]:
    """Builds the network that a model.json describes and what restores its checkpoints."""
    architecture, section = stored["architecture"], "model"
    if job.config.weights == "ema":
        if not job.config.use_memory:
            raise errors.UserError(
                "Only pretraining with a memory keeps a moving average of the weights. Received: "
                f"weights=ema for {job.model_dir}, a run without. Use --weights=online."
            )
        architecture, section = {**architecture, "num_classes": 0}, "ema"
    with job.strategy.scope():
        model = model_lib.SimCLR(**architecture)
        contents = {
            section: variables.named_variables(model),
            "global_step": tf.Variable(0, dtype=tf.int64),
        }
        write = job.writer is not None
        return model, checkpoint.Saver(str(job.model_dir), contents, write=write)


def wait_for_checkpoint(job: job_lib.Job, since: float, done: int | None) -> None:
    """Sleeps a little; raises when `eval_timeout` has passed."""
    timeout = job.config.eval_timeout
    if timeout and time.monotonic() - since > timeout:
        last = "none was evaluated" if done is None else f"the last one evaluated is of step {done}"
        raise errors.UserError(
            f"No new checkpoint appeared in {job.model_dir} within the timeout, and {last}. "
            f"Received: eval_timeout={timeout}. Is training still running?"
        )
    time.sleep(_POLL_SECONDS)
