"""A user's mistakes in files, found in the second before TensorFlow is imported.

What needs TensorFlow is checked later, in `job.prepare` and `stages.check_data`.
"""

from __future__ import annotations

import importlib.util
import os

from tf2 import config as config_lib
from tf2 import errors, precedence, run_directory
from tf2.checkpoints import catalog
from tf2.flags import checks, evaluation, fields
from tf2.sources import listing


def check(config: config_lib.Config) -> None:
    """Checks the files and packages that a configuration needs, as far as TensorFlow isn't needed.

    Raises:
        errors.UserError: model_dir holds another run, there are no weights to start from, the
            folder or labels file to train on cannot be used, or a format cannot be written.
    """
    if config.mode == "export":
        _check_formats(config)
    run_directory.check_same_kind(config)
    _check_all_weights(config)
    if config.trains and config.dataset == "folder":
        _check_folder(config)


def _check_formats(config: config_lib.Config) -> None:
    for name in config.other_formats:
        packages, extra = errors.choose("formats", name, evaluation.FORMATS)
        missing = [package for package in packages if not importlib.util.find_spec(package)]
        if missing:
            raise errors.UserError(
                f"The format {name} is written and run by {' and '.join(packages)}. Received: "
                f"formats={config.formats}, without {missing[0]}. Run "
                f"`pip install 'simclr-tf2[{extra}]'`, or leave the format out."
            )


def _check_folder(config: config_lib.Config) -> None:
    """Checks a folder to train on, and prints what is found in it.

    Raises:
        errors.UserError: it or a split cannot be used.
    """
    found = listing.list_images(
        config.data_dir,
        labels=config.labels,
        holdout=config.holdout,
        val_fraction=config.val_fraction,
        label_seed=config.label_seed,
        follow_links=config.follow_links,
    )
    _check_place(config)
    found.class_names  # noqa: B018  # raises for a class without training images
    flags = ("train_split", *(["eval_split"] if config.evaluates else []))
    own = {stage: settings for stage, settings in config.stages.items() if config.all_stages}
    for stage, settings in {"": config.as_flags(), **own}.items():
        for split in (settings[flag] for flag in flags if flag in settings):
            if split not in ("", fields.AUTO):
                try:
                    found.find_split(split)
                except errors.UserError as error:
                    where = f"Stage {stage}: " if stage else ""
                    raise errors.UserError(f"{where}{error}") from None
    if config.uses_labels and not config.all_stages and not found.num_labeled:
        raise checks.missing_labels(config, config.dataset, "which has no classes")
    for line in found.describe():
        print(line, flush=True)


def _check_place(config: config_lib.Config) -> None:
    """Raises errors.UserError where a run's figures would be taken for images."""
    data_dir, model_dir = os.path.expanduser(config.data_dir or ""), config.model_dir or ""
    if config.recipe != precedence.IMAGES or not os.path.isdir(data_dir) or "://" in model_dir:
        return
    folder = os.path.realpath(data_dir)
    if os.path.commonpath([folder, os.path.realpath(model_dir)]) == folder:
        raise errors.UserError(
            "The figures of a run must not lie among its images. Received: "
            f"model_dir={config.model_dir}, inside data_dir={config.data_dir}. Set --model_dir to "
            "a directory elsewhere."
        )


def _check_all_weights(config: config_lib.Config) -> None:
    values = {"checkpoint": config.checkpoint, "teacher": config.teacher}
    if config.applies and not config.checkpoint:
        values["model_dir"] = config.model_dir
    for stage, settings in config.stages.items():
        values |= {f"{stage}.{n}": settings.get(n) for n in ("checkpoint", "teacher")}
    for flag, paths in values.items():
        several = (paths or "").split(",") if flag.endswith("teacher") else [paths or ""]
        for path in map(str.strip, several):
            if path and not ("." in flag and path in config_lib.STAGES):
                check_weights(flag, os.path.expanduser(path))


def check_weights(flag: str, path: str) -> None:
    """Raises errors.UserError where there are no weights under a path or name.

    Args:
        flag: that the path is a value of, for messages.
        path: a directory, a prefix of files or the name of a released network. One in a bucket is
            not checked.
    """
    if "://" in path or os.path.exists(f"{path}.index") or path in catalog.RELEASES:
        return
    if not os.path.exists(path):
        raise catalog.unknown(path, flag)
    if not os.path.isdir(path):
        return
    if not any(name.endswith((".index", "saved_model.pb")) for name in os.listdir(path)):
        present = run_directory.stages(path)
        remedy = "Give a run's model_dir, a checkpoint prefix, or the directory with saved_model.pb"
        if present:
            remedy = f"Give one of its stages, such as {os.path.join(path, present[0])}"
        raise errors.UserError(
            f"A directory must hold a checkpoint or a SavedModel. Received: {flag}={path}, which "
            f"has neither. {remedy}."
        )
