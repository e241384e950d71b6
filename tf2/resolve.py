"""From the settings that a user gave to those that a run works with, once per run.

`resolve` needs no data: released networks become paths, and the architecture comes from the
checkpoint or the run in model_dir. `fit_to_data` then adapts the result to the data. The border to
its neighbours: `job` holds a resolved configuration with its data and devices and changes neither,
and `pipeline` only reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf2 import architecture, errors, modes
from tf2 import config as config_lib
from tf2.checkpoints import checkpoint_reader, download, model_json
from tf2.flags import checks, fields
from tf2.sources import source as source_lib


def resolve(config: config_lib.Config) -> config_lib.Config:
    """Returns the configuration of a run, before its data are read.

    Raises:
        errors.UserError: a rule is broken, a flag contradicts the stored architecture, or there is
            nothing to evaluate.
    """
    config.validate()
    config = with_downloads(config)
    model_dir = os.path.expanduser(config.model_dir or config.default_model_dir())
    config = dataclasses.replace(config, model_dir=model_dir)
    stored = checkpoint_reader.run_metadata(model_dir)
    if config.mode == "eval":
        _check_single_run(pathlib.Path(model_dir))
        if stored is None and not config.eval_timeout:
            raise errors.UserError(
                "--mode=eval needs a directory with a run's checkpoints. Received: "
                f"model_dir={model_dir}, without a model.json. Give the --model_dir of a run, or "
                "--eval_timeout=SECONDS to wait for one that hasn't started."
            )
        config = with_run_flags(config, model_dir)
        checks.check_data_dir(config)
        return config
    # A run that was stopped before its first checkpoint decides nothing.
    if stored is not None and checkpoint_reader.latest_checkpoint(model_dir):
        return with_architecture(config, stored, model_dir)
    return with_architecture_of_checkpoint(config)


def with_downloads(config: config_lib.Config) -> config_lib.Config:
    """Returns the configuration with paths instead of the names of released networks.

    Raises:
        errors.UserError: see `download.local_path`.
    """
    changes: dict[str, Any] = {}
    if config.checkpoint:
        changes["checkpoint"] = download.local_path(os.path.expanduser(config.checkpoint))
    if config.teacher:
        paths = (download.local_path(os.path.expanduser(path)) for path in config.teachers)
        changes["teacher"] = ",".join(paths)
    return dataclasses.replace(config, **changes)


def with_architecture(
    config: config_lib.Config, metadata: Mapping[str, Any], path: str
) -> config_lib.Config:
    """Returns the configuration with the architecture of a checkpoint.

    Args:
        config: its image size changes too, where the user gave none.
        metadata: the content of model.json.
        path: where it was read, for messages.

    Raises:
        errors.UserError: an explicit flag contradicts the checkpoint.
    """
    arguments = metadata.get("architecture", {})
    arguments = architecture.with_backbone(arguments) if arguments else {}
    stored = {config_lib.flag_of(name): value for name, value in arguments.items()}
    changes = {n: stored[n] for n in config_lib.names(scope=fields.NETWORK) if n in stored}
    for name, (ours, theirs) in config.changed_fields(changes).items():
        if name in config.explicit and ours != fields.AUTO:
            raise errors.UserError(
                f"The flag contradicts the checkpoint {path}, which has {name}={theirs}. Received: "
                f"{name}={ours}. Remove --{name}, or give a checkpoint that has it."
            )
    image_size = metadata.get("preprocessing", {}).get("image_size")
    if image_size and not _is_given(config, "image_size"):
        changes["image_size"] = image_size
    resolved = dataclasses.replace(config, **changes)
    checks.check_ft_proj_selector(resolved)
    return resolved


def with_architecture_of_checkpoint(config: config_lib.Config) -> config_lib.Config:
    """Returns the configuration with the architecture of --checkpoint, where it is recorded.

    Raises:
        errors.UserError: a flag contradicts it.
    """
    if not config.checkpoint:
        return config
    metadata = None
    with contextlib.suppress(checkpoint_reader.MissingCheckpoint):  # loading it raises the error
        metadata = checkpoint_reader.read_metadata(config.checkpoint)
    return with_architecture(config, metadata, config.checkpoint) if metadata else config


def with_run_flags(config: config_lib.Config, model_dir: str | os.PathLike) -> config_lib.Config:
    """Returns the configuration with the flags of a run, where the user gave none.

    These are the flags that decided its training, and those of its data.
    """
    stored = model_json.read_checked_flags(model_dir)
    names = {*config_lib.names(identity=fields.TRAINS), *config_lib.names(group="data")}
    taken = {n: stored[n] for n in names if n in stored and not _is_given(config, n)}
    config = dataclasses.replace(config, **taken)
    metadata = checkpoint_reader.run_metadata(str(model_dir))
    return with_architecture(config, metadata, str(model_dir)) if metadata else config


def _is_given(config: config_lib.Config, name: str) -> bool:
    """Whether the user chose the value of a flag."""
    return name in config.explicit and getattr(config, name) != fields.AUTO


def _check_single_run(model_dir: pathlib.Path) -> None:
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


def check_labels(config: config_lib.Config, source: source_lib.Source) -> None:
    """Raises errors.UserError if the training needs labels and the data has none."""
    if not config.uses_labels:
        return
    labeled = source.num_labeled(config.train_split)
    if source.num_classes == 1 and labeled:
        raise errors.UserError(
            "Training on labels needs at least two classes. Received: "
            f"dataset={source.name}, whose {labeled:,} labeled images are all of one class. Label "
            "images of another class."
        )
    if labeled and config.evaluates and not source.num_labeled(config.eval_split):
        raise errors.UserError(
            "The evaluation split must have labels. Received: "
            f"eval_split={config.eval_split} of dataset={source.name}, which has none. Choose "
            "another --eval_split, or --eval_split='' to evaluate nothing."
        )
    if labeled:
        return
    which = "which has no classes"
    if source.num_classes:
        which = f"whose split {config.train_split} has no labels"
    raise checks.missing_labels(config, source.name, which)


def fit_to_data(config: config_lib.Config, source: source_lib.Source) -> config_lib.Config:
    """Returns the configuration as the data allow it: no linear classifier without labels.

    Raises:
        errors.UserError: the training needs labels and there are none.
    """
    check_labels(config, source)
    if not (modes.get(config.train_mode).pretrains and config.lineareval_while_pretraining):
        return config
    if not source.num_labeled(config.train_split):
        print("The images have no labels: pretraining runs without the online linear classifier.")
    elif not _was_without_classifier(config.model_dir or ""):
        return config
    return config.replace(lineareval_while_pretraining=False)


def _was_without_classifier(model_dir: str) -> bool:
    """Whether a directory holds a pretraining from before its images had labels."""
    stored = model_json.read_model_json(model_dir)
    if stored is None or checkpoint_reader.latest_checkpoint(model_dir) is None:
        return False
    return not stored["architecture"]["num_classes"]


def fit_batch(
    config: config_lib.Config, source: source_lib.Source, num_replicas: int
) -> config_lib.Config:
    """Returns the configuration with a batch that the labeled images can fill."""
    if not config.trains_on_labels:
        return config
    unit = num_replicas * config.micro_batches
    largest = source.num_labeled(config.train_split) // unit * unit
    if not 0 < largest < config.train_batch_size:
        return config
    return dataclasses.replace(config, train_batch_size=largest)
