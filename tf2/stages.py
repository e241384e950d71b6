"""All stages of SimCLRv2, pretraining, fine-tuning and distillation, as one resumable run.

Each stage has its own directory below model_dir. Its stage.json records its settings and the
stages that it started from. A stage is run again where these have changed; its earlier directory
is kept, under a number.

    pretrain      all images, no labels
    finetune      pretrain's network on the labeled subset
    distill       finetune teaches a network of the same size on all images (self-distillation)
    student       distill teaches a smaller network, where the settings describe one
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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import config_checks, distribute, errors, files, loop, modes, pipeline, progress
from tf2 import job as job_lib
from tf2.checkpoints import download
from tf2.sources import loaders
from tf2.visuals import tables

STAGE_FILE = "stage.json"
FORMER_STAGE_FILE = "step.json"  # its name before; still read
TITLES = {
    "pretrain": "pretrained",
    "finetune": "fine-tuned",
    "distill": "self-distilled",
    "student": "distilled student",
    "supervised": "supervised baseline",
}
# What may change without making a stage another one: places, devices, reports, evaluation.
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
class Stage:
    """One stage of a run, ready to run.

    Attributes:
        name: of `config.STAGES`.
        config: its own; checkpoint and teacher are paths.
        after: the stages that it starts from.
    """

    name: str
    config: config_lib.Config
    after: tuple[Stage, ...] = ()

    @property
    def directory(self) -> str:
        """Its model_dir."""
        return self.config.model_dir

    @property
    def settings(self) -> dict:
        """What makes it this stage: its flags, and the weights that it starts from."""
        ours = {field.name for field in config_lib.flag_fields()} - _FREE
        values = {name: getattr(self.config, name) for name in sorted(ours)}
        # Defaults are left out, so that a flag of a later version changes no earlier stage.
        kept = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
        # By name or by the one spelling of their paths, however model_dir is spelled this time.
        names = {files.canonical_path(stage.directory): stage.name for stage in self.after}

        def named(path: str) -> str:
            place = files.canonical_path(path)
            return names.get(place, place)

        kept["checkpoint"] = self.config.checkpoint and named(self.config.checkpoint)
        kept["teacher"] = [named(teacher) for teacher in self.config.teachers]
        return kept

    @property
    def identity(self) -> str:
        """A hash of the settings and of the stages before."""
        made_of = [self.settings, [stage.identity for stage in self.after]]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def run_all_stages(config: config_lib.Config) -> list[dict]:
    """Runs all stages, each from its newest checkpoint, and prints the results.

    Returns:
        The rows of the results table; see `tables.write_results`.

    Raises:
        errors.UserError: see `pipeline.run`.
        loop.Interrupted: a signal ended a stage; the same call resumes it.
    """
    config.validate()
    model_dir = config.model_dir or config.default_model_dir()
    planned = plan(config, model_dir)
    strategy = distribute.build_strategy(config)
    check_data(planned, strategy, model_dir)
    rows = []
    for number, stage in enumerate(planned, 1):
        say(strategy, f"\n== {stage.name}, stage {number} of {len(planned)}: {stage.directory}")
        done = run_stage(stage, strategy)
        rows.append(row(stage, done))
    if distribute.is_chief(strategy):
        title = f"SimCLRv2 on {config.dataset_name}/{config.eval_split}"
        print("\n" + tables.write_results(rows, model_dir, title=title), flush=True)
    return rows


run_all_steps = run_all_stages  # its name before


def plan(config: config_lib.Config, model_dir: str, pretrained: str | None = None) -> list[Stage]:
    """Returns the stages of a configuration, in order.

    Args:
        config: of train_mode simclrv2.
        model_dir: the directory of the stages' directories.
        pretrained: directory of the pretraining, where it isn't model_dir/pretrain.

    Raises:
        errors.UserError: the settings of a stage contradict each other.
    """
    stages: dict[str, Stage] = {}

    def place(value: str | None, flag: str) -> str | None:
        if value == "pretrain" and config.checkpoint:  # which replaces it
            return config.checkpoint
        return _path(value, flag, stages)

    if config.checkpoint:
        config = dataclasses.replace(config, checkpoint=download.local_path(config.checkpoint))
        config = job_lib.take_architecture_of_checkpoint(config)  # one network in all stages

    def add(name: str, *, start: str | None = None, teacher: str = "") -> None:
        own, settings = config.stages.get(name, {}), config.for_stage(name)
        with _stage_in_errors(name):
            settings = dataclasses.replace(
                settings,
                model_dir=os.path.join(model_dir, name),
                checkpoint=place(own.get("checkpoint") or start, "checkpoint"),
            )
            if modes.get(settings.train_mode).distills:
                chosen = dataclasses.replace(settings, teacher=own.get("teacher") or teacher)
                paths = (place(value, "teacher") for value in chosen.teachers)
                settings = dataclasses.replace(settings, teacher=",".join(paths))
            starts = (settings.checkpoint, *settings.teachers)
            used = {files.canonical_path(path) for path in starts if path}
            after = tuple(s for s in stages.values() if files.canonical_path(s.directory) in used)
            settings.validate()
            if settings.checkpoint and after:  # a network that doesn't exist yet
                config_checks.check_ft_proj_selector(settings)
            stages[name] = Stage(name, settings, after)

    if config.checkpoint is None:
        add("pretrain")
        if pretrained:
            moved = dataclasses.replace(stages["pretrain"].config, model_dir=pretrained)
            stages["pretrain"] = dataclasses.replace(stages["pretrain"], config=moved)
    add("finetune", start=config.checkpoint or "pretrain")
    add("distill", teacher="finetune")
    if set(config.stages.get("student", {})) & set(config_lib.ARCHITECTURE_FLAGS):
        add("student", teacher="distill")
    add("supervised")
    return list(stages.values())


@contextlib.contextmanager
def _stage_in_errors(name: str) -> Iterator[None]:
    """Puts the name of a stage before the message of an error in its settings."""
    try:
        yield
    except errors.UserError as error:
        raise errors.UserError(f"Stage {name}: {error}") from error


def _path(value: str | None, flag: str, stages: Mapping[str, Stage]) -> str | None:
    """Returns the path of the weights that a stage starts from or of its teacher.

    That is an earlier stage, by its name, a path, or a released network, which is downloaded.
    """
    if value in stages:
        return stages[value].directory
    if value is None:
        return None
    path = download.local_path(os.path.expanduser(value))
    if tf.io.gfile.exists(path) or tf.io.gfile.glob(f"{path}*"):
        return path
    either = "a path or a released network"
    if stages:
        earlier = ", ".join(stages)
        either = f"a path, a released network, or an earlier stage ({earlier})"
    raise errors.UserError(
        f"--{flag} must be {either}. Received: {flag}={value}, which does not exist. Correct "
        f"--{flag}."
    )


def check_data(planned: Sequence[Stage], strategy: tf.distribute.Strategy, model_dir: str) -> None:
    """Checks data and devices for all stages before the first one runs.

    Raises:
        errors.UserError: a stage's splits or batch don't fit; it names the stage.
    """
    first = planned[0].config
    # In the directory of all stages, where each of them finds the list of unreadable images.
    everything = dataclasses.replace(
        first, model_dir=model_dir, label_fraction=0.0, labels_per_class=0
    )
    source = loaders.build_source(everything)
    for stage in planned:
        config = stage.config
        with _stage_in_errors(stage.name):
            distribute.check_batch(
                "train_batch_size", config.train_batch_size, strategy.num_replicas_in_sync
            )
            size = source.num_examples(config.train_split)
            if config.evaluates:
                source.num_examples(config.eval_split)
            if size < config.train_batch_size and not config.few_labels:
                raise errors.UserError(
                    f"A batch must not be larger than the split {config.train_split}, {size} "
                    f"images. Received: train_batch_size={config.train_batch_size}. Set it to at "
                    f"most {size}."
                )


def read_stage(directory: str) -> dict:
    """Returns the stage.json of a directory; empty where no stage has run there."""
    for name in (STAGE_FILE, FORMER_STAGE_FILE):
        if stored := files.read_json(os.path.join(directory, name)):
            return stored
    return {}


def run_stage(stage: Stage, strategy: tf.distribute.Strategy) -> dict:
    """Runs a stage to its end, unless it has finished; returns its stage.json.

    Raises:
        errors.UserError, loop.Interrupted: see `pipeline.run`.
    """
    known = read_stage(stage.directory)
    if known and known["identity"] != stage.identity:
        retire(stage, known, strategy)
        known = {}
    evaluation = None
    if stage.config.evaluates:
        evaluation = {name: getattr(stage.config, name) for name in _EVALUATION}
    if known.get("finished") and evaluation in (None, known.get("evaluation")):
        took = progress.format_seconds(known["seconds"])
        say(strategy, f"Finished before ({took}): nothing to do.")
        return known
    if known.get("finished"):
        say(strategy, "Trained before; evaluating it with the new settings.")
    record = {
        "identity": stage.identity,
        "settings": stage.settings,
        "after": {earlier.name: earlier.identity for earlier in stage.after},
        "finished": False,
        "seconds": known.get("seconds", 0.0),
    }
    begin = time.monotonic()

    def write(**more: Any) -> dict:
        seconds = record["seconds"] + time.monotonic() - begin
        content = {**record, **more, "seconds": seconds}
        if distribute.is_chief(strategy):
            files.make_directory(stage.directory)
            files.write_json(os.path.join(stage.directory, STAGE_FILE), content)
        return content

    write()
    try:
        state, results = pipeline.run_job(job_lib.prepare(fitted(stage.config, strategy), strategy))
    except (loop.Interrupted, errors.UserError):
        write()
        raise
    parameters = sum(int(np.prod(v.shape)) for v in state.named.values())
    done = write(finished=True, parameters=parameters, results=results, evaluation=evaluation)
    del state
    keras.backend.clear_session()  # frees this stage's memory for the next one
    gc.collect()
    return done


def fitted(config: config_lib.Config, strategy: tf.distribute.Strategy) -> config_lib.Config:
    """Returns the configuration with a batch that a small labeled subset can fill."""
    if not config.few_labels or modes.get(config.train_mode).hides_labels:
        return config
    source = loaders.build_source(config)
    replicas = strategy.num_replicas_in_sync
    most = source.num_examples(config.train_split) // replicas * replicas
    if not 0 < most < config.train_batch_size:
        return config
    say(strategy, f"The batch is all {most} labeled images, fewer than {config.train_batch_size}.")
    return dataclasses.replace(config, train_batch_size=most)


def retire(stage: Stage, known: Mapping, strategy: tf.distribute.Strategy) -> None:
    """Moves the directory of a stage that had other settings, and prints which."""
    was, now = ({**_DEFAULTS, **settings} for settings in (known["settings"], stage.settings))
    changed = {name: (was.get(name), now[name]) for name in now if was.get(name) != now[name]}
    why = [f"{name} was {old}, now {new}" for name, (old, new) in changed.items()]
    for earlier in stage.after:
        if known["after"].get(earlier.name) != earlier.identity:
            why.append(f"{earlier.name} was run again")
    number = 1
    while tf.io.gfile.exists(f"{stage.directory}.{number}"):
        number += 1
    moved = f"{stage.directory}.{number}"
    if distribute.is_chief(strategy):
        tf.io.gfile.rename(stage.directory, moved)
    say(strategy, f"Running it again: {'; '.join(why)}. The earlier directory is now {moved}.")


def row(stage: Stage, done: Mapping) -> dict:
    """Returns a stage's row of the results table."""
    results, config = done.get("results") or {}, stage.config
    mode = modes.get(config.train_mode)
    labels = "none" if mode.pretrains else "all"
    if config.labels_per_class:
        labels = f"{config.labels_per_class} per class"
    elif config.label_fraction:
        labels = f"{100 * config.label_fraction:g} %"
    return {
        "method": TITLES[stage.name],
        "labels": labels,
        "top_1": None if mode.pretrains else results.get("eval/label_top_1_accuracy"),
        "knn": results.get("eval/knn_accuracy"),
        "parameters": done["parameters"],
        "seconds": done["seconds"],
    }


def say(strategy: tf.distribute.Strategy, text: str) -> None:
    """Prints a line, on one worker only."""
    if distribute.is_chief(strategy):
        print(text, flush=True)
