"""model.json: what a network is, beside its weights.

{"format": 1,
 "architecture": {...},      arguments of model.SimCLR
 "preprocessing": {...},     image_size, range, center_crop, resize, channels
 "class_names": [...],       or null
 "dataset": ..., "train_mode": ..., "seed": ..., "global_step": ...,
 "versions": {...},
 "calibration": {...}}       see `calibration.Calibration`; null or missing if not measured
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf2 import architecture, errors, files, schemas
from tf2 import config as config_lib

FORMAT = schemas.FORMAT
FILE_NAME = "model.json"


def describe(
    model: Any,
    *,
    config: config_lib.Config,
    preprocessing: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    global_step: int,
) -> dict[str, Any]:
    """Returns the content of model.json.

    Args:
        model: the `model.SimCLR`.
        config: the `config.Config` of the run.
        preprocessing: see `architecture.preprocessing`.
        class_names: names by class; None if unknown.
        global_step: training steps.
    """
    return {
        "format": FORMAT,
        "architecture": model.hyperparameters,
        "preprocessing": dict(preprocessing),
        "class_names": list(class_names) if class_names else None,
        "dataset": config.dataset_name,
        "train_mode": config.train_mode,
        "seed": config.seed,
        "global_step": int(global_step),
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }


def write_model_json(directory: str, value: Mapping) -> None:
    """Writes model.json into a directory, completely or not at all."""
    files.write_json(os.path.join(directory, FILE_NAME), value)


def read_model_json(path: str) -> dict | None:
    """Reads the model.json that belongs to a checkpoint or export.

    Args:
        path: a model_dir, a checkpoint prefix or an exported SavedModel.

    Returns:
        Its content; None if there is none.

    Raises:
        errors.UserError: it is not readable, or a newer version of this program wrote it.
    """
    path = os.fspath(path)
    directory = path if tf.io.gfile.isdir(path) else os.path.dirname(path)
    file = os.path.join(directory, FILE_NAME)
    return files.read_json(file, schemas.model().check)


def read_checked_flags(directory: str | os.PathLike) -> dict[str, Any]:
    """Returns the flags.json of a run; empty if there is none.

    Raises:
        errors.DamagedFile: a flag has a value that it cannot have.
    """
    path = os.path.join(directory, "flags.json")
    return files.read_json(path, schemas.flags().check) or {}


def read_results(directory: str | os.PathLike, step: int | None) -> dict[str, Any] | None:
    """Returns the result.json of a run; None if it is not of the weights of this step."""
    path = os.path.join(directory, "result.json")
    results = files.read_json(path, schemas.RESULT.check, optional=True)
    return results if results and results.get("global_step") == step else None


def check_architecture(stored: Mapping | None, wanted: Mapping, path: str) -> None:
    """Raises an error for weights of another architecture.

    Args:
        stored: a model.json; None passes, because nothing is known.
        wanted: the `hyperparameters` of the network that the weights are for.
        path: of the weights, for the message.

    Raises:
        errors.UserError: names each argument that differs, with both values.
    """
    if not stored or not stored.get("architecture"):
        return
    known = architecture.with_backbone(stored["architecture"])
    wanted = architecture.with_backbone(wanted)
    _refuse_differences(
        {
            name: (known[name], wanted[name])
            for name in architecture.WEIGHT_ARGUMENTS
            if name in known and name in wanted and known[name] != wanted[name]
        },
        f"The network must have the architecture of its checkpoint. Received: {path} has",
        "you asked for",
        "Leave these settings to the checkpoint, or choose another one.",
    )


def _refuse_differences(differences: Mapping, begin: str, versus: str, remedy: str) -> None:
    if differences:
        left = ", ".join(f"{name}={old}" for name, (old, _) in differences.items())
        right = ", ".join(f"{name}={new}" for name, (_, new) in differences.items())
        raise errors.UserError(f"{begin} {left}, {versus} {right}. {remedy}")
