"""SimCLRv2 whole: pretraining, fine-tuning and distillation as one run that can be resumed.

Each step has a directory of its own below model_dir. Its step.json says what made it: its
settings, and the steps that it started from. A step is done again where that has changed; its
earlier directory is kept, under a number.

    pretrain      all images, no labels
    finetune      pretrain's network on the few labels
    distill       finetune teaches a network of the same size on all images (self-distillation)
    student       distill teaches a smaller network, where the settings name one
    supervised    the baseline: the same network on the same labels, from scratch
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import time
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import datasets, distribute, errors, files, loop, pipeline, progress, report
from tf2 import job as job_lib

STEP_FILE = "step.json"
TITLES = {
    "pretrain": "pretrained",
    "finetune": "fine-tuned",
    "distill": "self-distilled",
    "student": "distilled student",
    "supervised": "supervised baseline",
}
# What may change without making a step another one: places, devices, reports, evaluation.
_FREE = {
    *("mode", "recipe", "model_dir", "checkpoint", "teacher", "data_dir", "allow_partial"),
    *("log_every_steps", "checkpoint_epochs", "checkpoint_steps", "keep_checkpoint_max"),
    *("eval_split", "eval_batch_size", "eval_steps", "eval_name", "eval_timeout", "eval_knn"),
    *("knn_neighbors", "knn_bank_size", "export", "keep_hub_module_max", "num_parallel_calls"),
    *("strategy", "use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master", "jit_compile"),
    *("cache_dataset", "max_bad_fraction"),
}
_EVALUATION = ("eval_split", "eval_steps", "eval_knn", "knn_neighbors", "knn_bank_size")


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the whole, ready to run.

    Attributes:
        name: of `config.SECTIONS`.
        config: its own; checkpoint and teacher are paths.
        after: the steps that it starts from.
    """

    name: str
    config: config_lib.Config
    after: tuple[Step, ...] = ()

    @property
    def directory(self) -> str:
        """Where it works."""
        return self.config.model_dir

    @property
    def settings(self) -> dict:
        """What makes it this step: its flags, and the weights from outside that it starts from."""
        ours = {field.name for field in config_lib.flag_fields()} - _FREE
        kept = {name: value for name, value in self.config.as_flags().items() if name in ours}
        for name in ("checkpoint", "teacher"):
            value = getattr(self.config, name)
            kept[name] = [step.name for step in self.after if step.directory == value] or value
        return kept

    @property
    def identity(self) -> str:
        """A hash of the settings and of the steps before."""
        made_of = [self.settings, [step.identity for step in self.after]]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def run_all_steps(config) -> list[dict]:
    """Runs all steps, each from wherever it stands, and tells what came out.

    Returns:
        The rows of the results table; see `report.write_table`.

    Raises:
        errors.UserError: see `pipeline.run`.
        loop.Interrupted: a signal ended a step; the same call goes on there.
    """
    model_dir = config.model_dir or config.default_model_dir()
    planned = plan(config, model_dir)
    strategy = distribute.build_strategy(config)
    rows = []
    for number, step in enumerate(planned, 1):
        say(strategy, f"\n== {step.name}, step {number} of {len(planned)}: {step.directory}")
        done = run_step(step, strategy)
        rows.append(row(step, done))
    if distribute.is_chief(strategy):
        title = f"SimCLRv2 on {config.dataset_name}/{config.eval_split}"
        print("\n" + report.write_table(rows, model_dir, title=title), flush=True)
    return rows


def plan(config, model_dir: str, pretrained: str | None = None) -> list[Step]:
    """Lays out the steps of a configuration.

    Args:
        config: of train_mode simclrv2.
        model_dir: the steps' directories are made below it.
        pretrained: directory of the pretraining, where it isn't model_dir/pretrain.

    Raises:
        errors.UserError: the settings of a step contradict each other.
    """
    steps: dict[str, Step] = {}

    def path(value: str | None) -> str | None:
        """Returns the directory where a setting names a step, such as teacher=finetune."""
        return steps[value].directory if value in steps else value

    def add(name: str, *, start: str | None = None, **settings) -> None:
        section = config.section(name)
        own = config.sections.get(name, {})
        section = dataclasses.replace(
            section,
            model_dir=os.path.join(model_dir, name),
            checkpoint=path(own.get("checkpoint", start)),
            **{**settings, **{key: path(own[key]) for key in ("teacher",) if key in own}},
        )
        named = {section.checkpoint, *section.teachers}
        after = tuple(step for step in steps.values() if step.directory in named)
        section.validate()
        steps[name] = Step(name, section, after)

    if config.checkpoint is None:
        add("pretrain")
        if pretrained:
            moved = dataclasses.replace(steps["pretrain"].config, model_dir=pretrained)
            steps["pretrain"] = dataclasses.replace(steps["pretrain"], config=moved)
    add("finetune", start=config.checkpoint or "pretrain")
    add("distill", teacher=steps["finetune"].directory)
    if set(config.sections.get("student", {})) & set(config_lib.ARCHITECTURE_FLAGS):
        add("student", teacher=steps["distill"].directory)
    add("supervised")
    return list(steps.values())


def run_step(step: Step, strategy: tf.distribute.Strategy) -> dict:
    """Runs a step to its end, unless it has been; returns its step.json.

    Raises:
        errors.UserError, loop.Interrupted: see `run`.
    """
    known = files.read_json(os.path.join(step.directory, STEP_FILE)) or {}
    if known and known["identity"] != step.identity:
        retire(step, known, strategy)
        known = {}
    evaluation = {name: getattr(step.config, name) for name in _EVALUATION}
    if known.get("finished") and known.get("evaluation") in (None, evaluation):
        say(
            strategy,
            f"Finished before ({progress.format_seconds(known['seconds'])}): nothing to do.",
        )
        return known
    about = {
        "identity": step.identity,
        "settings": step.settings,
        "after": {earlier.name: earlier.identity for earlier in step.after},
        "finished": False,
        "seconds": known.get("seconds", 0.0),
    }
    begin = time.monotonic()

    def write(**more) -> dict:
        seconds = about["seconds"] + time.monotonic() - begin
        found = {**about, **more, "seconds": seconds}
        if distribute.is_chief(strategy):
            files.make_directory(step.directory)
            files.write_json(os.path.join(step.directory, STEP_FILE), found)
        return found

    write()
    try:
        state, results = pipeline.run_job(job_lib.prepare(fitted(step.config, strategy), strategy))
    except (loop.Interrupted, errors.UserError):
        write()
        raise
    parameters = sum(int(np.prod(v.shape)) for v in state.named.values())
    evaluation = evaluation if step.config.evaluates else None
    done = write(finished=True, parameters=parameters, results=results, evaluation=evaluation)
    del state
    keras.backend.clear_session()  # the next step begins with the memory that this one began with
    gc.collect()
    return done


def fitted(config, strategy: tf.distribute.Strategy):
    """Returns the configuration with a batch that few labels can fill."""
    if not (config.few_labels and config.train_mode in ("finetune", "supervised")):
        return config
    source = datasets.build_source(dataclasses.replace(config, model_dir=None))
    replicas = strategy.num_replicas_in_sync
    most = source.num_examples(config.train_split) // replicas * replicas
    if not 0 < most < config.train_batch_size:
        return config
    say(strategy, f"The batch is all {most} labeled images, fewer than {config.train_batch_size}.")
    return dataclasses.replace(config, train_batch_size=most)


def retire(step: Step, known: Mapping, strategy: tf.distribute.Strategy) -> None:
    """Moves a step aside that was made by other settings, and says which."""
    changed = {
        name: (known["settings"].get(name), value)
        for name, value in step.settings.items()
        if known["settings"].get(name) != value
    }
    why = [f"{name} was {old}, now {new}" for name, (old, new) in changed.items()]
    for earlier in step.after:
        if known["after"].get(earlier.name) != earlier.identity:
            why.append(f"{earlier.name} was done again")
    number = 1
    while tf.io.gfile.exists(f"{step.directory}.{number}"):
        number += 1
    kept = f"{step.directory}.{number}"
    if distribute.is_chief(strategy):
        tf.io.gfile.rename(step.directory, kept)
    say(strategy, f"Done again, since {'; '.join(why)}. What was there is kept in {kept}.")


def row(step: Step, done: Mapping) -> dict:
    """Returns a step's line of the results table."""
    results, config = done.get("results") or {}, step.config
    labels = "none" if config.train_mode == "pretrain" else "all"
    if config.labels_per_class:
        labels = f"{config.labels_per_class} per class"
    elif config.label_fraction:
        labels = f"{100 * config.label_fraction:g} %"
    return {
        "method": TITLES[step.name],
        "labels": labels,
        "top_1": None if step.name == "pretrain" else results.get("eval/label_top_1_accuracy"),
        "knn": results.get("eval/knn_accuracy"),
        "parameters": done["parameters"],
        "seconds": done["seconds"],
    }


def say(strategy: tf.distribute.Strategy, text: str) -> None:
    """Prints a line for the user, once however many workers there are."""
    if distribute.is_chief(strategy):
        print(text, flush=True)
