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
import tensorflow as tf

from tf2 import config as config_lib
from tf2 import (
    distribute,
    errors,
    files,
    guide,
    identity,
    loop,
    metrics,
    modes,
    pipeline,
    progress,
    resolve,
    run_data,
    run_lock,
    schemas,
    stage_results,
    variables,
)
from tf2 import job as job_lib
from tf2.apply import images_to_label
from tf2.auto import choices as choices_lib
from tf2.checkpoints import checkpoint, checkpoint_reader, download, model_json
from tf2.flags import checks, fields
from tf2.sources import labeled_subset, loaders

STAGE_FILE = "stage.json"
FORMER_STAGE_FILE = "step.json"  # its name before; still read


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
        return self.config.model_dir or ""

    @property
    def settings(self) -> dict[str, Any]:
        """What makes it this stage; see `identity.stage_settings`."""
        directories = {files.canonical_path(stage.directory): stage.name for stage in self.after}
        return identity.stage_settings(self.config, directories)


def run_all_stages(config: config_lib.Config) -> list[dict]:
    """Runs all stages, each from its newest checkpoint, and prints the results.

    Without labels the pretraining is the only stage, if there is one.

    Args:
        config: the settings, as `configure` returns them, with train_mode="simclrv2".

    Returns:
        The rows of the results table, one per stage: method, labels (in words), top_1 and knn
        (fractions, or None), parameters, seconds and others.

    Raises:
        errors.UserError: the configuration, data, checkpoint or machine is unsuitable.
        loop.Interrupted: a signal ended a stage; the same call resumes it.
    """
    config.validate()
    model_dir = os.path.expanduser(config.model_dir or config.default_model_dir())
    with run_lock.hold(model_dir, needed=config.locks_model_dir):
        return _run_planned(config, model_dir)


def _run_planned(config: config_lib.Config, model_dir: str) -> list[dict]:
    """Runs all stages in a directory that is locked; see `run_all_stages`."""
    planned = plan(config, model_dir)
    strategy = distribute.build_strategy(config)
    source = open_source(planned, model_dir)
    if not source.num_classes and planned[0].name == "pretrain":
        print_on_chief(strategy, "No image has a label: pretraining is the only stage.")
        planned = planned[:1]
    config = choose_settings(config, planned, source, strategy, model_dir)
    planned = plan(config, model_dir)[: len(planned)]
    check_data(planned, strategy, source)
    if distribute.is_chief(strategy):
        metrics.Writer(model_dir).write_flags(config.as_flags())
    finished = []
    for number, stage in enumerate(planned, 1):
        print_on_chief(
            strategy, f"\n== {stage.name}, stage {number} of {len(planned)}: {stage.directory}"
        )
        finished.append(run_stage(stage, strategy, source))
    done = [
        stage_results.Finished(stage.name, stage.config, content)
        for stage, content in zip(planned, finished, strict=True)
    ]
    if distribute.is_chief(strategy):
        title = f"SimCLRv2 on {config.dataset_name}/{config.eval_split}"
        several = distribute.is_multi_worker(strategy)
        steps = next_steps(config, done, source, several) if config.dataset == "folder" else ""
        # Computing with a network would need all workers.
        images = None if several else source
        choices = config.other_flags.get(choices_lib.KEY, ())
        decided = [(str(name), str(value), str(why)) for name, value, why in choices]
        text = stage_results.finish(
            title, model_dir, done, images, decided=decided, next_steps=steps
        )
        print(f"\n{text}\n\n{steps}".rstrip(), flush=True)
    return stage_results.rows(done)


run_all_steps = run_all_stages  # its name before


def next_steps(
    config: config_lib.Config,
    done: Sequence[stage_results.Finished],
    source: loaders.Source,
    several_workers: bool = False,
) -> str:
    """Returns what to do after these stages; without labels, it writes what to label images with.

    Args:
        config: of all stages, as the user gave it.
        done: the stages.
        source: their images.
        several_workers: whether there are any; a network would need all of them.
    """
    flags = config.as_flags()
    given = {name: flags[name] for name in sorted(config.explicit) if name in flags}
    directories = {stage.name: stage.directory for stage in done}
    result = stage_results.result_of(stage_results.rows(done))
    if result is not None:
        return guide.after_all_stages(given, directories[result])
    pretrain = done[0]
    return images_to_label.write_for_run(
        pretrain.directory, source, pretrain.config.train_split, given, at_random=several_workers
    )


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
        config = resolve.with_architecture_of_checkpoint(config)  # one network in all stages

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
                paths = (place(value, "teacher") or "" for value in chosen.teachers)
                settings = dataclasses.replace(settings, teacher=",".join(paths))
            starts = (settings.checkpoint, *settings.teachers)
            used = {files.canonical_path(path) for path in starts if path}
            after = tuple(s for s in stages.values() if files.canonical_path(s.directory) in used)
            settings.validate()
            if settings.checkpoint and after:  # a network that doesn't exist yet
                checks.check_ft_proj_selector(settings)
            stages[name] = Stage(name, settings, after)

    if config.checkpoint is None:
        add("pretrain")
        if pretrained:
            moved = dataclasses.replace(stages["pretrain"].config, model_dir=pretrained)
            stages["pretrain"] = dataclasses.replace(stages["pretrain"], config=moved)
    add("finetune", start=config.checkpoint or "pretrain")
    add("distill", teacher="finetune")
    if set(config.stages.get("student", {})) & set(config_lib.names(scope=fields.NETWORK)):
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
    if value is None:
        return None
    if value in stages:
        return stages[value].directory
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


def open_source(planned: Sequence[Stage], model_dir: str) -> loaders.Source:
    """Opens the images of all stages, with all labels.

    Raises:
        errors.UserError: they cannot be read.
    """
    # In the directory of all stages, where each of them finds the list of unreadable images.
    everything = dataclasses.replace(
        planned[0].config, model_dir=model_dir, label_fraction=0.0, labels_per_class=0
    )
    return loaders.build_source(everything)


def choose_settings(
    config: config_lib.Config,
    planned: Sequence[Stage],
    source: loaders.Source,
    strategy: tf.distribute.Strategy,
    model_dir: str,
) -> config_lib.Config:
    """Returns the configuration of all stages without "auto", and prints what was chosen.

    Raises:
        errors.UserError: see `choices_lib.resolve`.
    """
    if not config.autos:
        return choices_lib.with_earlier_choices(config, model_dir)
    if config.checkpoint:  # whose network all stages have
        config = dataclasses.replace(config, checkpoint=download.local_path(config.checkpoint))
        config = resolve.with_architecture_of_checkpoint(config)
    names = [stage.name for stage in planned]
    config, choices = choices_lib.resolve(config, source, model_dir, strategy, names)
    print_on_chief(strategy, f"\nSettings that are auto:\n\n{choices_lib.describe(choices)}")
    return config


def check_data(
    planned: Sequence[Stage], strategy: tf.distribute.Strategy, source: loaders.Source
) -> None:
    """Checks data and devices for all stages before the first one runs.

    Raises:
        errors.UserError: a stage's splits, labels or batch don't fit; it names the stage.
    """
    for stage in planned:
        config = stage.config
        with _stage_in_errors(stage.name):
            distribute.check_batch(
                "train_batch_size",
                config.train_batch_size,
                strategy.num_replicas_in_sync,
                config.micro_batches,
            )
            resolve.check_labels(config, source)
            if config.evaluates:
                source.num_examples(config.eval_split)
            # Every fraction fits; and without random access it takes long to read the labels.
            if config.few_labels and config.labels_per_class and source.random_access:
                labeled_subset.select_labels(
                    source.labels(config.train_split),
                    per_class=config.labels_per_class,
                    class_names=source.class_names,
                )
            if not config.trains_on_labels:  # where it is fitted
                job_lib.check_batch_fits(config, source)
            run_exists = checkpoint_reader.latest_checkpoint(stage.directory) is not None
            if run_exists and not config.allow_changed_data:
                run_data.check(stage.directory, source, labels=False)  # `_changes` compares labels
            config = resolve.fit_batch(config, source, strategy.num_replicas_in_sync)
            teachers = [earlier.config for earlier in stage.after] if config.teacher else []
            job_lib.check_memory(config, source, strategy, teachers[-1] if teachers else None)


def read_stage(directory: str) -> dict:
    """Returns the stage.json of a directory; empty where no stage has run there."""
    for name in (STAGE_FILE, FORMER_STAGE_FILE):
        path = os.path.join(directory, name)
        # Without it the stage resumes from its checkpoint, and is recorded again.
        if stored := files.read_json(path, schemas.STAGE.check, optional=True):
            return stored
    return {}


def run_stage(
    stage: Stage, strategy: tf.distribute.Strategy, source: loaders.Source | None = None
) -> dict:
    """Runs a stage to its end, unless it has finished; returns its stage.json.

    Args:
        stage: the stage.
        strategy: the devices.
        source: the images of all stages, to notice other labels; see `open_source`.

    Raises:
        errors.UserError, loop.Interrupted: see `pipeline.run`.
    """
    known = read_stage(stage.directory)
    after = {
        earlier.name: read_stage(earlier.directory).get("identity", "") for earlier in stage.after
    }
    if known and (changes := _changes(stage, known, after) + _label_changes(stage, source)):
        # A stage that was stopped before its first checkpoint is nothing to keep.
        if known["finished"] or checkpoint_reader.latest_checkpoint(stage.directory):
            retire(stage, changes, strategy)
        known = {}
    if known.get("finished") and source is not None and stage.config.allow_changed_data:
        if distribute.is_chief(strategy):
            run_data.write(stage.directory, source)  # allowed once, they need no flag again
    evaluation = _evaluation(stage, source) if stage.config.evaluates else None
    if known.get("finished") and _is_same_evaluation(known.get("evaluation"), evaluation):
        took = progress.format_seconds(known["seconds"])
        print_on_chief(strategy, f"Finished before ({took}): nothing to do.")
        return known
    if known.get("finished"):
        print_on_chief(strategy, "Trained before; evaluating it with the new settings.")
    record = {
        "format": schemas.FORMAT,
        "identity": known.get("identity") or _hash(stage.settings, after),
        "settings": stage.settings,
        "after": after,
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

    with run_lock.hold(stage.directory, needed=distribute.is_chief(strategy)):
        write()
        try:
            job = job_lib.prepare(stage.config, strategy)
            if source is not None and not stage.config.allow_changed_data:
                run_data.check_same(source, job.source, stage.directory)
            of_teacher = (read_stage(earlier.directory).get("labels") for earlier in stage.after)
            labels = stage_results.labels_used(job) or next(filter(None, of_teacher), None)
            state, results = pipeline.run_job(job)
        except (loop.Interrupted, errors.UserError):
            if tf.io.gfile.exists(stage.directory):
                write()
            raise
        done = write(
            finished=True,
            parameters=variables.count_parameters(state.named),
            images=job.source.num_examples(job.config.train_split),
            labels=labels,
            results=results,
            evaluation=evaluation,
        )
        if distribute.is_chief(strategy):
            checkpoint.prune(stage.directory)
    del state
    keras.backend.clear_session()  # frees this stage's memory for the next one
    gc.collect()
    return done


def _hash(settings: Mapping[str, Any], after: Mapping[str, str]) -> str:
    """Returns the identity that stages which start from this one record."""
    content = json.dumps([settings, after], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _changes(stage: Stage, known: Mapping, after: Mapping[str, str]) -> list[str]:
    """Returns why a stage must be run again, in words; empty where it is the same stage.

    Args:
        stage: as it is planned.
        known: its stage.json.
        after: an earlier stage that it starts from -> the identity of what is there now.
    """
    train_mode = stage.config.train_mode
    settings = identity.changed_settings(known["settings"], stage.settings, train_mode)
    changes = [f"{name} was {old}, now {new}" for name, (old, new) in settings.items()]
    return changes + [
        f"{name} was run again" for name, now in after.items() if known["after"].get(name) != now
    ]


def _label_changes(stage: Stage, source: loaders.Source | None) -> list[str]:
    """Returns how the labels have changed that a stage was trained on, in words."""
    if source is None or not job_lib.depends_on_labels(stage.config):
        return []
    found = run_data.changes(stage.directory, source)
    return [found.labels_in_words] if found and found.labels else []


def _evaluation(stage: Stage, source: loaders.Source | None) -> dict[str, Any]:
    """Returns what the results of a stage depend on, beside its network."""
    settings = identity.evaluation_settings(stage.config)
    hashes = run_data.hashes(source) if source is not None else None
    if source is None or hashes is None:
        return settings
    stored = model_json.read_model_json(stage.directory) or {"architecture": {}}
    # An online classifier of other classes has nothing to say of these labels.
    if stored["architecture"].get("num_classes", 0) not in (0, source.num_classes):
        return settings
    return {**settings, "labels": hashes["labels"]}


def _is_same_evaluation(before: Mapping | None, now: Mapping | None) -> bool:
    """Whether results are still valid; what an earlier version didn't record is the same."""
    if now is None or before is None:
        return now is None
    return all(before.get(name, value) == value for name, value in now.items())


def retire(stage: Stage, changes: Sequence[str], strategy: tf.distribute.Strategy) -> None:
    """Moves the directory of a stage that has to be run again, and prints why."""
    number = 1
    while tf.io.gfile.exists(f"{stage.directory}.{number}"):
        number += 1
    moved = f"{stage.directory}.{number}"
    if distribute.is_chief(strategy):
        with run_lock.hold(stage.directory):
            tf.io.gfile.rename(stage.directory, moved)
            files.remove(os.path.join(moved, run_lock.FILE_NAME))
    print_on_chief(
        strategy, f"Running it again: {'; '.join(changes)}. The earlier directory is now {moved}."
    )


def print_on_chief(strategy: tf.distribute.Strategy, text: str) -> None:
    """Prints a line, on the chief worker only."""
    if distribute.is_chief(strategy):
        print(text, flush=True)
