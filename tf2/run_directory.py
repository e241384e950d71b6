"""What a directory says about the run in it, read before TensorFlow is imported.

A run has checkpoints and a flags.json; a run of all stages has a directory for each stage, and the
flags.json of the whole run beside them. Until its first checkpoint there is nothing to resume:
another run may start in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from tf2 import config as config_lib
from tf2 import errors, modes, schemas
from tf2.flags import evaluation

# Whose network a mode takes from a run of all stages, the first that is there. Features of the
# images are the pretrained network's; the last network trained has the best classifier.
_FEATURES = ("pretrain", "finetune", "distill", "student", "supervised")
_CLASSIFIERS = ("student", "distill", "finetune", "supervised", "pretrain")
MODES = {
    "predict": _CLASSIFIERS,
    "export": _CLASSIFIERS,
    "embed": _FEATURES,
    "probe": _FEATURES,
    "audit": _FEATURES,
    "select": _FEATURES,
}


def has_checkpoint(directory: str) -> bool:
    """Whether a directory has a complete checkpoint of this program."""
    return bool(_indexes(directory))


def _indexes(directory: str) -> list[str]:
    """Returns the names of the files that complete a checkpoint."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return [name for name in names if re.fullmatch(r"ckpt-\d+\.index", name)]


def is_of_reference(directory: str) -> bool:
    """Whether a directory holds a training run of the reference's TF2 program."""
    names = _indexes(directory)
    if not names or os.path.exists(os.path.join(directory, "model.json")):
        return False
    with open(os.path.join(directory, names[0]), "rb") as file:
        return b"resnet_model/" in file.read()  # in a key, which TensorFlow does not compress


def stages(model_dir: str) -> list[str]:
    """Returns the stages below a directory that have a checkpoint, in their order."""
    return [s for s in config_lib.STAGES if has_checkpoint(os.path.join(model_dir, s))]


def read_flags(model_dir: str) -> dict[str, Any] | None:
    """Returns the flags.json of a run; None if there is none or it is damaged."""
    try:
        with open(os.path.join(model_dir, "flags.json"), "rb") as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def own_flags(model_dir: str) -> dict[str, Any]:
    """Returns the flags to resume a run with, name or stage.name -> value; empty without a run.

    Raises:
        errors.UserError: the stages of an earlier version's run are there, but not its flags.
    """
    stored = read_flags(model_dir)
    if stored is None:
        if present := stages(model_dir):
            raise errors.UserError(
                "A run of all stages is resumed with the flags in its flags.json. Received: "
                f"model_dir={model_dir} with the stages {', '.join(present)}, without that file. "
                "Repeat the command that started the run, with its --recipe or --dataset."
            )
        return {}
    schemas.flags().check(stored, os.path.join(model_dir, "flags.json"))
    names = {field.name for field in config_lib.flag_fields()} - {"mode", "model_dir"}
    return {n: v for n, v in stored.items() if n.rpartition(".")[2] in names}


def check_same_kind(config: config_lib.Config) -> None:
    """Raises errors.UserError where all stages would be trained inside a single run, or vice versa.

    Nor is a run of the reference's TF2 program resumed where it is. `identity.check_same_run`
    compares the other flags.
    """
    model_dir = config.model_dir or ""
    if config.trains and is_of_reference(model_dir):
        raise errors.UserError(
            "A run of the reference is resumed in a copy, with its flags. Received: "
            f"model_dir={model_dir}. Run `python -m checkpoints_tools.convert {model_dir} COPY "
            f"--to=ours` and give --model_dir=COPY, or start from its weights with "
            f"--checkpoint={model_dir}."
        )
    single, present = has_checkpoint(model_dir), stages(model_dir)
    if not config.trains or not (single if config.all_stages else present and not single):
        return
    stored = (read_flags(model_dir) or {}).get("train_mode")
    kind = stored if single else modes.SIMCLRV2
    raise errors.UserError(
        f"A model_dir holds one run. Received: {model_dir} was started with train_mode={kind}, "
        f"this command has train_mode={config.train_mode}. Choose another --model_dir."
    )


def network(path: str, mode: str, select_method: str = "") -> str:
    """Returns the directory of the network that a mode uses: the path, or one of its stages.

    Args:
        path: of a network, or of a run of all stages.
        mode: predict, export, embed, probe, select or audit.
        select_method: of mode=select; some need a classifier.
    """
    present = [] if has_checkpoint(path) else stages(path)
    needs_classifier = select_method in evaluation.CLASSIFIER_METHODS and mode == "select"
    order = _CLASSIFIERS if needs_classifier else MODES[mode]
    chosen = next((stage for stage in order if stage in present), None)
    return os.path.join(path, chosen) if chosen else path


@contextlib.contextmanager
def removed_if_left_empty(model_dir: str) -> Iterator[None]:
    """Removes what a failing block created of a directory and its parents, where nothing is in it.

    Args:
        model_dir: it may be there already; then nothing is removed.
    """
    created, path = [], os.path.abspath(model_dir)
    while not os.path.lexists(path):
        created.append(path)
        path = os.path.dirname(path)
    try:
        yield
    except BaseException:
        inside = [directory for directory, _, _ in os.walk(created[0])] if created else []
        for directory in (*reversed(inside), *created[1:]):
            with contextlib.suppress(OSError):  # it was not created, or something is in it
                os.rmdir(directory)
        raise
