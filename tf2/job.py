"""What a run works with: its resolved configuration, data, devices and directory.

`resolve` decides the configuration; `prepare` checks it against devices, files and data, once; the
rest of the run only reads it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

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
    resolve,
    run_data,
)
from tf2 import config as config_lib
from tf2 import model as model_lib
from tf2 import teacher as teacher_lib
from tf2.auto import choices as choices_lib
from tf2.auto import memory_estimate
from tf2.checkpoints import checkpoint_reader, model_json
from tf2.sources import loaders


@dataclasses.dataclass
class Job:
    """What a run works with.

    Attributes:
        config: resolved; see `resolve`.
        source: the data; the labeled subset alone, where only that is trained on.
        strategy: the devices.
        model_dir: the directory of everything that the run writes.
        writer: TensorBoard and result files; None on workers that write nothing.
        eval_writer: of the TensorBoard run of --eval_name, below model_dir.
        untrained_knn: accuracy of the untrained network, once measured.
        teacher: of a distillation, once loaded.
    """

    config: config_lib.Config
    source: loaders.Source
    strategy: tf.distribute.Strategy
    model_dir: pathlib.Path
    writer: metrics.Writer | None
    eval_writer: metrics.Writer | None = None
    untrained_knn: float | None = None
    teacher: teacher_lib.Teacher | None = None
    _evaluator: evaluation.Evaluator | None = None

    @property
    def evaluator(self) -> evaluation.Evaluator:
        """The evaluator on this run's data; it keeps its graphs."""
        if self._evaluator is None:
            self._evaluator = evaluation.Evaluator(self.config, self.source, self.strategy)
        return self._evaluator

    def adopt_run_flags(self) -> None:
        """Adopts the flags of the run in model_dir, which may have started only now."""
        config = resolve.with_run_flags(self.config, self.model_dir)
        if config.changed_fields(self.config):
            self.config = config
            self.source = open_source(config, self.model_dir)

    def print(self, text: str) -> None:
        """Prints a line, on the chief worker only."""
        if self.writer is not None:
            print(text, flush=True)

    @property
    def num_classes(self) -> int:
        """Those of the data, or of the teacher if the data have no labels; 0 without either."""
        return self.source.num_classes or (self.teacher.num_classes if self.teacher else 0)

    @property
    def class_names(self) -> Sequence[str] | None:
        """Those of the data, or of the teacher if the data have none; None without either."""
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
        recorded = {"data": self.data_hashes} if self.data_hashes else {}
        return {**described, "train_steps": train_steps, **recorded}

    @functools.cached_property
    def data_hashes(self) -> dict[str, str] | None:
        """Hashes of a folder's files and labels; None for other images."""
        return run_data.hashes(self.source)


def prepare(
    config: config_lib.Config,
    strategy: tf.distribute.Strategy | None = None,
) -> Job:
    """Resolves a configuration and checks it against devices, files and data.

    Args:
        config: as the user gave it.
        strategy: the devices; None builds those of the configuration.

    Raises:
        errors.UserError: it is not possible as configured.
    """
    config = resolve.resolve(config)
    strategy = strategy or distribute.build_strategy(config)
    chief = distribute.is_chief(strategy)
    model_dir = make_writable(pathlib.Path(config.model_dir or ""))
    config = choose_settings(config, strategy, model_dir)
    for warning in config.warnings() + check_backbone(config):
        logging.warning("%s", warning)
    source = open_source(config, model_dir)
    if config.trains:
        check_splits(config, source)
        config = _with_fitting_batch(config, source, strategy)
        distribute.check_batch(
            "train_batch_size",
            config.train_batch_size,
            strategy.num_replicas_in_sync,
            config.micro_batches,
        )
        if config.jit_compile:
            distribute.check_xla(strategy)
        check_batch_fits(config, source)
        check_memory(config, source, strategy)
        write_labeled_ids(config, source, model_dir)
    config = resolve.fit_to_data(config, source)
    check_contrastive_loss(config, source)
    logging.info(
        "TensorFlow %s, Keras %s, %d replica(s); %s: %s",
        tf.__version__,
        keras.__version__,
        strategy.num_replicas_in_sync,
        source.name,
        ", ".join(f"{name} {count:,}" for name, count in source.splits.items()),
    )
    job = Job(
        config, source, strategy, model_dir, metrics.Writer(str(model_dir)) if chief else None
    )
    if chief and config.eval_name:
        job.eval_writer = metrics.Writer(str(model_dir / config.eval_name))
    return job


def choose_settings(
    config: config_lib.Config, strategy: tf.distribute.Strategy, model_dir: pathlib.Path
) -> config_lib.Config:
    """Returns the configuration without "auto", and prints what was chosen.

    Raises:
        errors.UserError: see `choices_lib.resolve`.
    """
    if not config.trains:  # what its run was started with is known by now
        return config.without_autos()
    if not config.autos:
        return choices_lib.with_earlier_choices(config, str(model_dir))
    everything = dataclasses.replace(
        config, train_mode="pretrain", label_fraction=0.0, labels_per_class=0
    )
    source = open_source(everything, model_dir)
    config, choices = choices_lib.resolve(config, source, str(model_dir), strategy)
    if distribute.is_chief(strategy):
        print(f"Settings that are auto:\n\n{choices_lib.describe(choices)}\n", flush=True)
    return config


def _with_fitting_batch(
    config: config_lib.Config, source: loaders.Source, strategy: tf.distribute.Strategy
) -> config_lib.Config:
    fitted = resolve.fit_batch(config, source, strategy.num_replicas_in_sync)
    if fitted.train_batch_size != config.train_batch_size and distribute.is_chief(strategy):
        print(
            f"The batch is all {fitted.train_batch_size} labeled images, fewer than "
            f"{config.train_batch_size}.",
            flush=True,
        )
    return fitted


def check_backbone(config: config_lib.Config) -> list[str]:
    """Checks that the backbone exists; returns a sentence for each flag that it does not use.

    Raises:
        errors.UserError: the backbone is unknown, or the images are too small for it.
    """
    backbones.check_image_size(config.backbone, config.image_size)
    flags = map(config_lib.flag_of, backbones.unused_arguments(config.backbone))
    return [
        f"{flag}={getattr(config, flag)} has no effect with backbone={config.backbone}."
        for flag in flags
        if flag in config.explicit
    ]


def check_contrastive_loss(config: config_lib.Config, source: loaders.Source) -> None:
    """Checks that the contrastive loss exists and that the run has what it needs.

    Raises:
        errors.UserError: it is unknown, or lacks labels.
    """
    objective.find_contrastive_loss(config.contrastive_loss)
    if config.trains and modes.get(config.train_mode).pretrains:
        objective.check_inputs(
            config.contrastive_loss,
            has_labels=bool(source.num_labeled(config.train_split)),
        )


def depends_on_labels(config: config_lib.Config) -> bool:
    """Whether other labels would train another network."""
    if not modes.get(config.train_mode).pretrains:
        return config.uses_labels
    return objective.find_contrastive_loss(config.contrastive_loss).needs_labels


def open_source(config: config_lib.Config, model_dir: pathlib.Path) -> loaders.Source:
    """Opens the images of a run; for an evaluation with the channels of its network."""
    evaluates = config.mode == "eval"
    stored = checkpoint_reader.run_metadata(str(model_dir)) if evaluates else None
    channels = (stored or {}).get("preprocessing", {}).get("channels")
    return loaders.build_source(config.replace(model_dir=str(model_dir)), channels)


def make_writable(model_dir: pathlib.Path) -> pathlib.Path:
    """Creates a directory, checks that files can be written to it, and returns it.

    Raises:
        errors.UserError: they cannot be written.
    """
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        probe = model_dir / f".writable-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise errors.UserError(
            f"--model_dir must be a writable directory ({error.strerror}). Received: "
            f"model_dir={model_dir}. Choose another --model_dir."
        ) from error
    return model_dir


def check_splits(config: config_lib.Config, source: loaders.Source) -> None:
    """Checks before a training that the split for its evaluation exists.

    Raises:
        errors.UserError: there is no split of that name.
    """
    pretrains = modes.get(config.train_mode).pretrains
    source.num_examples(config.train_split)
    if config.eval_split and (config.evaluates or (pretrains and config.knn_every_epochs)):
        source.num_examples(config.eval_split)


def check_batch_fits(config: config_lib.Config, source: loaders.Source) -> None:
    """Checks before a training that its split has as many images as a batch.

    Raises:
        errors.UserError: it has fewer.
    """
    size = source.num_examples(config.train_split)
    if size < config.train_batch_size:
        raise errors.UserError(
            f"A batch must not be larger than the split {config.train_split}, {size} images. "
            f"Received: train_batch_size={config.train_batch_size}. Set it to at most {size}."
        )


def check_memory(
    config: config_lib.Config,
    source: loaders.Source,
    strategy: tf.distribute.Strategy,
    teacher: config_lib.Config | None = None,
) -> None:
    """Checks before a training that it fits into memory; see `memory_estimate.check`.

    Raises:
        errors.UserError: it does not.
    """
    memory_estimate.check(
        config,
        distribute.machine_facts(strategy),
        source.num_classes,
        data.model_channels(config, source),
        teacher,
    )


def check_images(job: Job, stored: dict) -> None:
    """Checks that the images fit the network to evaluate.

    Args:
        job: the evaluation.
        stored: the model.json of the network.

    Raises:
        errors.UserError: they have other channels or classes than the network was trained for.
    """
    architecture, source = stored["architecture"], job.source
    of_images = {"channel(s)": data.model_channels(job.config, source)}
    of_images["classes"] = source.num_classes
    wanted = {"channel(s)": architecture["channels"], "classes": architecture["num_classes"]}
    for name, remedy in (
        ("channel(s)", "Give other images, or another network."),
        ("classes", "Give other images, or use the features with --mode=probe or --mode=embed."),
    ):
        # 0: no classifier, or no labels.
        if wanted[name] and of_images[name] and wanted[name] != of_images[name]:
            raise errors.UserError(
                "An evaluation needs images of the kind that the network was trained on. Received: "
                f"model_dir={job.model_dir} for {wanted[name]} {name}, dataset={source.name} with "
                f"{of_images[name]}. {remedy}"
            )


def write_labeled_ids(
    config: config_lib.Config, source: loaders.Source, model_dir: pathlib.Path
) -> None:
    """Writes the ids of the labeled images, where a run doesn't use the labels of all."""
    split = config.train_split
    if not config.uses_labels or not source.num_classes:
        return
    if config.few_labels or source.num_labeled(split) < source.num_stored(split):
        ids = source.labeled_ids(split)
        path = model_dir / "labeled_ids.txt"
        files.write_text(str(path), "".join(f"{i}\n" for i in ids))
        logging.info(
            "%s labeled of %s images; their ids are in %s.",
            *(f"{len(ids):,}", f"{source.num_stored(split):,}", path),
        )
