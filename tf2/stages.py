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

import contextlib
import dataclasses
import gc
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import config_checks, distribute, errors, files, loop, pipeline, progress
from tf2 import job as job_lib
from tf2.checkpoints import download
from tf2.sources import loaders
from tf2.visuals import tables

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
    *("cache_dataset", "max_bad_fraction", "probes", "endpoint", "output"),
}
_DEFAULTS = {field.name: field.default for field in config_lib.flag_fields()} | {"teacher": []}
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
        values = {name: getattr(self.config, name) for name in sorted(ours)}
        # Defaults are left out, so that a flag of a later version changes no step of an earlier.
        kept = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
        # By name or by the one spelling of their paths, however model_dir is spelled this time.
        names = {files.place(step.directory): step.name for step in self.after}

        def named(path: str) -> str:
            place = files.place(path)
            return names.get(place, place)

        kept["checkpoint"] = self.config.checkpoint and named(self.config.checkpoint)
        kept["teacher"] = [named(teacher) for teacher in self.config.teachers]
        return kept

    @property
    def identity(self) -> str:
        """A hash of the settings and of the steps before."""
        made_of = [self.settings, [step.identity for step in self.after]]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def run_all_steps(config) -> list[dict]:
    """Runs all steps, each from wherever it stands, and tells what came out.

    Returns:
        The rows of the results table; see `tables.write_results`.

    Raises:
        errors.UserError: see `pipeline.run`.
        loop.Interrupted: a signal ended a step; the same call goes on there.
    """
    config.validate()
    model_dir = config.model_dir or config.default_model_dir()
    planned = plan(config, model_dir)
    strategy = distribute.build_strategy(config)
    check_data(planned, strategy, model_dir)
    rows = []
    for number, step in enumerate(planned, 1):
        say(strategy, f"\n== {step.name}, step {number} of {len(planned)}: {step.directory}")
        done = run_step(step, strategy)
        rows.append(row(step, done))
    if distribute.is_chief(strategy):
        title = f"SimCLRv2 on {config.dataset_name}/{config.eval_split}"
        print("\n" + tables.write_results(rows, model_dir, title=title), flush=True)
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

    def place(value: str | None, flag: str) -> str | None:
        if value == "pretrain" and config.checkpoint:  # which stands in for it
            return config.checkpoint
        return _place(value, flag, steps)

    if config.checkpoint:
        config = dataclasses.replace(config, checkpoint=download.local_path(config.checkpoint))
        config = job_lib.take_architecture_of_checkpoint(config)  # one network in all parts

    def add(name: str, *, start: str | None = None, teacher: str = "") -> None:
        own, section = config.sections.get(name, {}), config.section(name)
        with _named(name):
            section = dataclasses.replace(
                section,
                model_dir=os.path.join(model_dir, name),
                checkpoint=place(own.get("checkpoint") or start, "checkpoint"),
            )
            if section.train_mode == "distill":
                teachers = dataclasses.replace(section, teacher=own.get("teacher") or teacher)
                found = (place(value, "teacher") for value in teachers.teachers)
                section = dataclasses.replace(section, teacher=",".join(found))
            named = {files.place(path) for path in (section.checkpoint, *section.teachers) if path}
            after = tuple(step for step in steps.values() if files.place(step.directory) in named)
            section.validate()
            if section.train_mode == "finetune" and after:  # whose network isn't there to be asked
                config_checks.check_ft_proj_selector(section)
            steps[name] = Step(name, section, after)

    if config.checkpoint is None:
        add("pretrain")
        if pretrained:
            moved = dataclasses.replace(steps["pretrain"].config, model_dir=pretrained)
            steps["pretrain"] = dataclasses.replace(steps["pretrain"], config=moved)
    add("finetune", start=config.checkpoint or "pretrain")
    add("distill", teacher="finetune")
    if set(config.sections.get("student", {})) & set(config_lib.ARCHITECTURE_FLAGS):
        add("student", teacher="distill")
    add("supervised")
    return list(steps.values())


@contextlib.contextmanager
def _named(part: str):
    """Names the part of the run in a sentence about its settings."""
    try:
        yield
    except errors.UserError as error:
        raise errors.UserError(f"Part {part}: {error}") from error


def _place(value: str | None, flag: str, steps: Mapping[str, Step]) -> str | None:
    """Returns where a part finds what it starts from.

    That is an earlier step, by its name, a path, or a released network, which is downloaded.
    """
    if value in steps:
        return steps[value].directory
    if value is None:
        return None
    path = download.local_path(os.path.expanduser(value))
    if tf.io.gfile.exists(path) or tf.io.gfile.glob(f"{path}*"):
        return path
    either = "a path or a released network"
    if steps:
        parts = ", ".join(steps)
        either = f"a path, a released network, or one of the parts before this one ({parts})"
    raise errors.UserError(
        f"--{flag} is {either}. Received: {flag}={value}, which isn't there. Correct the path, or "
        "name one that is."
    )


def check_data(planned: Sequence[Step], strategy: tf.distribute.Strategy, model_dir: str) -> None:
    """Finds out before the first step whether data and devices fit the last one, too.

    Raises:
        errors.UserError: names the part whose splits or batch don't.
    """
    first = planned[0].config
    # In the directory of all stages, where each of them finds the list of unreadable images.
    everything = dataclasses.replace(
        first, model_dir=model_dir, label_fraction=0.0, labels_per_class=0
    )
    source = loaders.build_source(everything)
    for step in planned:
        config = step.config
        with _named(step.name):
            distribute.check_batch(
                "train_batch_size", config.train_batch_size, strategy.num_replicas_in_sync
            )
            size = source.num_examples(config.train_split)
            if config.evaluates:
                source.num_examples(config.eval_split)
            if size < config.train_batch_size and not config.few_labels:
                raise errors.UserError(
                    f"A batch can't have more images than the split {config.train_split}, {size}. "
                    f"Received: train_batch_size={config.train_batch_size}. Set it to at most "
                    f"{size}."
                )


def run_step(step: Step, strategy: tf.distribute.Strategy) -> dict:
    """Runs a step to its end, unless it has been; returns its step.json.

    Raises:
        errors.UserError, loop.Interrupted: see `run`.
    """
    known = files.read_json(os.path.join(step.directory, STEP_FILE)) or {}
    if known and known["identity"] != step.identity:
        retire(step, known, strategy)
        known = {}
    evaluation = None
    if step.config.evaluates:
        evaluation = {name: getattr(step.config, name) for name in _EVALUATION}
    if known.get("finished") and evaluation in (None, known.get("evaluation")):
        took = progress.format_seconds(known["seconds"])
        say(strategy, f"Finished before ({took}): nothing to do.")
        return known
    if known.get("finished"):
        say(strategy, "Trained before; it is evaluated as it wasn't yet.")
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
    done = write(finished=True, parameters=parameters, results=results, evaluation=evaluation)
    del state
    keras.backend.clear_session()  # the next step begins with the memory that this one began with
    gc.collect()
    return done


def fitted(config, strategy: tf.distribute.Strategy):
    """Returns the configuration with a batch that few labels can fill."""
    if not (config.few_labels and config.train_mode in ("finetune", "supervised")):
        return config
    source = loaders.build_source(config)
    replicas = strategy.num_replicas_in_sync
    most = source.num_examples(config.train_split) // replicas * replicas
    if not 0 < most < config.train_batch_size:
        return config
    say(strategy, f"The batch is all {most} labeled images, fewer than {config.train_batch_size}.")
    return dataclasses.replace(config, train_batch_size=most)


def retire(step: Step, known: Mapping, strategy: tf.distribute.Strategy) -> None:
    """Moves a step aside that was made by other settings, and says which."""
    was, now = ({**_DEFAULTS, **settings} for settings in (known["settings"], step.settings))
    changed = {name: (was.get(name), now[name]) for name in now if was.get(name) != now[name]}
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
