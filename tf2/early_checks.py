"""A user's mistakes in files, found in the second before TensorFlow is imported.

What needs TensorFlow is checked later, in `job.prepare` and `stages.check_data`.
"""

from __future__ import annotations

import os

from tf2 import config as config_lib
from tf2 import errors, run_directory
from tf2.checkpoints import catalog


def check(config: config_lib.Config) -> None:
    """Checks the files that a configuration names, as far as that takes no TensorFlow.

    Raises:
        errors.UserError: model_dir holds another run, or there are no weights to start from.
    """
    run_directory.check_same_kind(config)
    values = {"checkpoint": config.checkpoint, "teacher": config.teacher}
    if config.applies and not config.checkpoint:
        values["model_dir"] = config.model_dir
    for stage, settings in config.stages.items():
        values |= {f"{stage}.{n}": settings.get(n) for n in ("checkpoint", "teacher")}
    for flag, paths in values.items():
        for path in (part.strip() for part in (paths or "").split(",")):
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
