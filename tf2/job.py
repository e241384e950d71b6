"""What a run works with: its checked configuration, data, devices and directory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib

import keras
import tensorflow as tf
from absl import logging

from tf2 import (
    backbones,
    data,
    distribute,
    errors,
    evaluation,
    files,
    metrics,
    modes,
    objective,
)
from tf2 import config as config_lib
from tf2 import model as model_lib
from tf2 import teacher as teacher_lib
from tf2.checkpoints import checkpoint_reader, download, model_json
from tf2.sources import loaders


@dataclasses.dataclass
class Job:
    """What all parts of a run share.

    Attributes:
        config: with the architecture of its checkpoint taken in.
        source: the data; of the labeled images only, where few labels are asked for.
        strategy: the devices.
        model_dir: everything is written below it.
        writer: TensorBoard and result files; None on workers that write nothing.
        untrained_knn: accuracy of the network untrained, once it was measured.
        teacher: of a distillation, once it was loaded.
    """

    config: config_lib.Config
    source: loaders.Source
    strategy: tf.distribute.Strategy
    model_dir: pathlib.Path
    writer: metrics.Writer | None
    untrained_knn: float | None = None
    teacher: teacher_lib.Teacher | None = None
    _evaluator: evaluation.Evaluator | None = None

    @property
    def evaluator(self) -> evaluation.Evaluator:
        """What evaluates networks on this run's data."""
        if self._evaluator is None:
            self._evaluator = evaluation.Evaluator(self.config, self.source, self.strategy)
        return self._evaluator

    def follow_run(self) -> None:
        """Takes in the flags of the run in model_dir, which may have appeared just now."""
        config = take_flags(self.config, self.model_dir)
        if config.changed_fields(self.config):
            self.config = config
            self.source = open_source(config, self.model_dir)

    def say(self, text: str) -> None:
        """Prints a line for the user, once however many workers there are."""
        if self.writer is not None:
            print(text, flush=True)

    @property
    def num_classes(self) -> int:
        """Of the data, or, where it has no labels, of the teacher; 0 without either."""
        return self.source.num_classes or (self.teacher.num_classes if self.teacher else 0)

    @property
    def class_names(self):
        """Of the data, or, where it has none, of the teacher; None without either."""
        return self.source.class_names or (self.teacher.class_names if self.teacher else None)

    @property
    def preprocessing(self) -> dict:
        """What an image goes through before the network."""
        return data.preprocessing_contract(self.config, self.source)

    def describe(self, model: model_lib.SimCLR, step: int, train_steps: int) -> dict:
        """Returns the model.json that is written beside each checkpoint and export."""
        described = model_json.describe(
            model,
            config=self.config,
            preprocessing=self.preprocessing,
            class_names=self.class_names,
            global_step=step,
        )
        return {**described, "train_steps": train_steps}


def prepare(config, strategy: tf.distribute.Strategy | None = None) -> Job:
    """Checks the configuration against devices, files and data, before anything is built.

    Args:
        config: the `config.Config`.
        strategy: the devices, where they are there already; None takes the configuration's.
    """
    config.validate()
    config = take_downloads(config)
    strategy = strategy or distribute.build_strategy(config)
    chief = distribute.is_chief(strategy)
    model_dir = pathlib.Path(config.model_dir or config.default_model_dir())
    config = take_architecture(config, model_dir)
    for warning in config.warnings() + backbone_warnings(config):
        logging.warning("%s", warning)
    make_writable(model_dir)
    source = open_source(config, model_dir)
    if config.trains:
        check_splits(config, source)
        distribute.check_batch(
            "train_batch_size", config.train_batch_size, strategy.num_replicas_in_sync
        )
        write_labeled_ids(config, source, model_dir)
    config = without_labels(config, source)
    check_contrastive_loss(config, source)
    logging.info(
        "TensorFlow %s, Keras %s, %d replica(s); %s: %s",
        tf.__version__,
        keras.__version__,
        strategy.num_replicas_in_sync,
        source.name,
        ", ".join(f"{name} {count:,}" for name, count in source.splits.items()),
    )
    writer = metrics.Writer(str(model_dir)) if chief else None
    return Job(config, source, strategy, model_dir, writer)


def backbone_warnings(config: config_lib.Config) -> list[str]:
    """Returns a sentence for each flag that has no effect with the backbone.

    Raises:
        errors.UserError: the backbone is unknown.
    """
    flags = map(config_lib.flag_of, backbones.unused_arguments(config.backbone))
    return [
        f"{flag}={getattr(config, flag)} has no effect with backbone={config.backbone}."
        for flag in flags
        if flag in config.explicit
    ]


def check_contrastive_loss(config: config_lib.Config, source: loaders.Source) -> None:
    """Checks that the contrastive loss exists and that the run has what it needs.

    Raises:
        errors.UserError: it is unknown, lacks labels, or cannot use the memory.
    """
    objective.find_contrastive_loss(config.contrastive_loss)
    if config.trains and modes.get(config.train_mode).pretrains:
        objective.check_inputs(
            config.contrastive_loss,
            has_labels=bool(source.num_classes),
            has_memory=config.use_memory,
        )


def open_source(config, model_dir: pathlib.Path) -> loaders.Source:
    """Opens the images of a run; a folder's as the network to be evaluated wants them."""
    stored = model_json.read_model_json(str(model_dir)) if config.mode == "eval" else None
    channels = (stored or {}).get("preprocessing", {}).get("channels")
    return loaders.build_source(config.replace(model_dir=str(model_dir)), channels)


def take_downloads(config):
    """Returns the configuration with paths in the place of names of the catalog.

    Raises:
        errors.UserError: see `download.local_path`.
    """
    changes = {}
    if config.checkpoint:
        changes["checkpoint"] = download.local_path(config.checkpoint)
    if config.teacher:
        paths = (download.local_path(os.path.expanduser(path)) for path in config.teachers)
        changes["teacher"] = ",".join(paths)
    return dataclasses.replace(config, **changes)


def take_architecture(config, model_dir: pathlib.Path):
    """Returns the configuration with the architecture of what it starts from or continues.

    An evaluation takes over the flags of the run that it evaluates, too.

    Raises:
        errors.UserError: a flag contradicts the stored architecture, or there is nothing to
            evaluate.
    """
    stored = model_json.read_model_json(str(model_dir))
    if config.mode == "eval":
        check_single_run(model_dir)
        if stored is None and not config.eval_timeout:
            raise errors.UserError(
                "--mode=eval needs a directory with a run's checkpoints. Received: "
                f"model_dir={model_dir}, without a model.json. Give the --model_dir of a run, or "
                "--eval_timeout=SECONDS to wait for one that hasn't started."
            )
        return take_flags(config, model_dir)
    if stored is not None:
        return config.with_model_json(stored, str(model_dir))
    return take_architecture_of_checkpoint(config) if config.checkpoint else config


def take_architecture_of_checkpoint(config):
    """Returns the configuration with the architecture of its checkpoint, where that is told.

    Raises:
        errors.UserError: a flag contradicts it.
    """
    stored = None
    with contextlib.suppress(checkpoint_reader.MissingCheckpoint):  # loading it will say so
        stored = checkpoint_reader.read_metadata(config.checkpoint)
    return config if stored is None else config.with_model_json(stored, config.checkpoint)


def check_single_run(model_dir: pathlib.Path) -> None:
    """Raises errors.UserError where model_dir holds several stages and one is to be evaluated."""
    present = [
        name
        for name in config_lib.STAGES
        if tf.io.gfile.exists(str(model_dir / name / "model.json"))
    ]
    if present and not tf.io.gfile.exists(str(model_dir / "model.json")):
        raise errors.UserError(
            "--mode=eval needs a directory with one stage's checkpoints. Received: "
            f"model_dir={model_dir}, with the stages {', '.join(present)}. Give one of them, such "
            f"as --model_dir={model_dir / present[-1]}; results.md holds the results of all."
        )


def take_flags(config, model_dir: pathlib.Path):
    """Returns the configuration with a run's own flags wherever the user gave none."""
    flags = files.read_json(str(model_dir / "flags.json")) or {}
    names = (*config_lib.RUN_FLAGS, *_DATA_FLAGS)
    taken = {n: flags[n] for n in names if n in flags and n not in config.explicit}
    config = dataclasses.replace(config, **taken)
    stored = model_json.read_model_json(str(model_dir))
    return config if stored is None else config.with_model_json(stored, str(model_dir))


# What an evaluation needs to find the images that the run was trained for.
_DATA_FLAGS = ("data_dir", "eval_split", "resize", "sobel", "temperature", "weight_decay")


def make_writable(model_dir: pathlib.Path) -> pathlib.Path:
    """Creates a directory, proves that files can be written there, and returns it.

    Raises:
        errors.UserError: they can't.
    """
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        probe = model_dir / f".writable-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise errors.UserError(
            f"--model_dir must be a directory that can be written to ({error.strerror}). Received: "
            f"model_dir={model_dir}. Choose another --model_dir."
        ) from error
    return model_dir


def check_splits(config, source: loaders.Source) -> None:
    """Finds out before a training whether there is a split for the evaluation in or after it.

    Raises:
        errors.UserError: there is no split of that name.
    """
    pretrains = modes.get(config.train_mode).pretrains
    looks = config.evaluates or (pretrains and config.knn_every_epochs)
    for split in (config.train_split, config.eval_split) if looks else ():
        source.num_examples(split)


def check_images(job: Job, stored: dict) -> None:
    """Refuses to evaluate a network on images that it can't be asked about.

    Raises:
        errors.UserError: they have other channels, or other classes, than it was trained for.
    """
    about, source = stored["architecture"], job.source
    of_images = {"channel(s)": data.model_channels(job.config, source)}
    of_images["classes"] = source.num_classes
    wanted = {"channel(s)": about["channels"], "classes": about["num_classes"]}
    for name, remedy in (
        ("channel(s)", "Give other images, or another network."),
        ("classes", "Give other images, or use the features with --mode=probe or --mode=embed."),
    ):
        # 0: no classifier, or no labels to compare its answers with.
        if wanted[name] and of_images[name] and wanted[name] != of_images[name]:
            raise errors.UserError(
                "An evaluation needs images of the kind that the network was trained on. Received: "
                f"model_dir={job.model_dir} for {wanted[name]} {name}, dataset={source.name} with "
                f"{of_images[name]}. {remedy}"
            )


def write_labeled_ids(config, source: loaders.Source, model_dir: pathlib.Path) -> None:
    """Writes which images a run with few labels learns from, one id a line."""
    if config.few_labels:
        ids = source.labeled_ids(config.train_split)
        path = model_dir / "labeled_ids.txt"
        files.write_text(str(path), "".join(f"{i}\n" for i in ids))
        logging.info("%d labeled images; their ids are in %s.", len(ids), path)


def without_labels(config, source: loaders.Source):
    """Returns the configuration as the data allow it: no online head without labels.

    Raises:
        errors.UserError: supervised training was asked for.
    """
    if source.num_classes:
        return config
    if config.uses_labels:
        what, remedy = f"--train_mode={config.train_mode}", "--train_mode=pretrain"
        if modes.get(config.train_mode).distills:
            what, remedy = f"--distill_alpha={config.distill_alpha}", "--distill_alpha=1"
        raise errors.UserError(
            f"{what} needs labels. Received: dataset={source.name}, which has no classes. Sort the "
            f"pictures into one folder per class, or use {remedy}."
        )
    if modes.get(config.train_mode).pretrains and config.lineareval_while_pretraining:
        print("The images have no classes: pretraining runs without the online linear head.")
        config = config.replace(lineareval_while_pretraining=False)
    return config
