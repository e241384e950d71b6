"""Checkpoints of a run: saved completely or not at all, restored completely or not at all.

A checkpoint holds {our name: variable}, never a model object: the names do not depend on the Keras
version or on how the classes are built. The files are TensorFlow's (`ckpt-<step>.index`,
`.data-...`, and `checkpoint`, which names the latest). `load_weights` loads weights from them into
another network.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging

from tf2 import errors, files, run_directory, schemas, variables
from tf2 import model as model_lib
from tf2.checkpoints import checkpoint_reader, load_report, model_json

BEST = "best"
# Variables that earlier versions did not save, section -> names: they keep their initial values.
_ADDED = {"memory": ("ids",)}

read_weights = checkpoint_reader.read_weights


class Saver:
    """Writes a run's checkpoints and restores them.

    With several workers, each of them makes the same calls, because reading a variable that is
    distributed over workers needs all of them; only one worker writes files.
    """

    def __init__(
        self,
        model_dir: str,
        contents: Mapping[str, Any],
        keep_max: int = 5,
        write: bool = True,
    ):
        """Writes nothing yet.

        Args:
            model_dir: directory of the checkpoints.
            contents: what is in a checkpoint: 'model' and, for training, 'optimizer', each
                {name: variable}, and 'global_step', an int64 variable.
            keep_max: how many of the latest checkpoints to keep; 0 keeps all.
            write: whether this process writes files.
        """
        self._directory = os.fspath(model_dir)
        self._contents = dict(contents)
        self._keep_max = keep_max
        self._write = write
        self._checkpoint = tf.train.Checkpoint(**self._contents)
        # Training resumes from the latest: the best one needs only the weights.
        kept = {k: v for k, v in self._contents.items() if k not in ("optimizer", "memory")}
        self._weights = tf.train.Checkpoint(**kept)
        # In memory, because all workers must decide alike, whenever they see the file.
        best = os.path.join(self._directory, BEST)
        self._best = checkpoint_reader.read_best(best) or {}
        if write:
            files.remove_leftovers(self._directory)
            files.remove_leftovers(best)

    @property
    def latest(self) -> str | None:
        """The prefix of the latest checkpoint in model_dir; None if there is none."""
        return checkpoint_reader.latest_checkpoint(self._directory)

    def save(self, step: int) -> str:
        """Writes `ckpt-<step>`, makes it the latest, and removes the oldest over `keep_max`.

        A crash or a full disk at any point leaves earlier checkpoints unchanged.

        Raises:
            errors.UserError: the disk is full, or model_dir is not writable.
        """
        prefix = self._write_whole(self._directory, step, self._checkpoint)
        if self._write:
            earlier = [p for p in checkpoint_reader.all_checkpoints(self._directory) if p != prefix]
            latest = [*earlier, prefix]
            latest = latest[-self._keep_max :] if self._keep_max > 0 else latest
            _write_state(self._directory, latest)
            for old in earlier:
                if old not in latest:
                    _remove_checkpoint(old)
        return prefix

    def save_best(self, step: int, value: float, measure: str = "") -> bool:
        """Saves the current weights under best/ if they are better than the ones there.

        Args:
            step: of the current state.
            value: of the measure; higher is better.
            measure: what the value measures, for best.json. A value of another measure is replaced.

        Returns:
            Whether it is the best so far.

        Raises:
            errors.UserError: as `save`.
        """
        improved = self._best.get("measure") != measure or value > self._best["value"]
        if not improved or math.isnan(value):
            return False
        directory = os.path.join(self._directory, BEST)
        prefix = self._write_whole(directory, step, self._weights)
        if self._write:
            metadata = files.read_json(os.path.join(self._directory, model_json.FILE_NAME))
            if metadata is not None:
                model_json.write_model_json(directory, {**metadata, "global_step": int(step)})
            # This file alone decides which checkpoint is the best: renaming it changes everything.
            entry = {"global_step": int(step), "value": float(value), "measure": measure}
            entry = {"format": schemas.FORMAT, **entry}
            files.write_json(os.path.join(directory, checkpoint_reader.BEST_FILE), entry)
            _write_state(directory, [prefix])
            for old in checkpoint_reader.all_checkpoints(directory):
                if old != prefix:
                    _remove_checkpoint(old)
        self._best = {"measure": measure, "value": float(value)}
        return True

    def restore_latest(self) -> int | None:
        """Restores the latest readable checkpoint; returns its step, or None if there is none.

        If the latest is damaged (after a power failure), restores the one before, with a warning.

        Raises:
            errors.UserError: the checkpoint is of another network, or all are damaged.
        """
        latest = self.latest
        if latest is None:
            return None
        earlier = [
            p
            for p in checkpoint_reader.all_checkpoints(self._directory)
            if checkpoint_reader.step_of(p) < checkpoint_reader.step_of(latest)
        ]
        damage: checkpoint_reader.DamagedCheckpoint | None = None
        for prefix in [latest, *reversed(earlier)]:
            try:
                step = self.restore(prefix)
            except checkpoint_reader.DamagedCheckpoint as error:
                damage = damage or error
                continue
            if damage is not None:
                logging.warning("%s The run resumes from %s.", damage, prefix)
            return step
        assert damage is not None
        raise damage

    def restore(self, prefix: str) -> int:
        """Restores every variable of one checkpoint; returns its step.

        Raises:
            checkpoint_reader.MissingCheckpoint: it does not exist (any more).
            checkpoint_reader.DamagedCheckpoint: it is not readable.
            errors.UserError: it holds other variables or other shapes.
        """
        reader = checkpoint_reader.CheckpointReader(prefix)
        contents = dict(self._contents)
        for section, wanted in self._contents.items():
            if section != "global_step":
                stored = reader.shapes(section)
                missing = [name for name in _ADDED.get(section, ()) if name not in stored]
                contents[section] = {n: v for n, v in wanted.items() if n not in missing}
                _check_complete(section, stored, contents[section], prefix)
        with checkpoint_reader.reading(prefix):
            status = tf.train.Checkpoint(**contents).read(prefix)
        # Without an optimizer, in evaluation, TensorFlow would report each slot as unused at exit.
        status.assert_existing_objects_matched().expect_partial()
        return int(self._contents["global_step"].numpy())

    def _write_whole(self, directory: str, step: int, contents: tf.train.Checkpoint) -> str:
        """Writes a checkpoint to a temporary directory and moves it into place, its index last."""
        final = os.path.join(directory, f"ckpt-{int(step)}")
        if not self._write:
            with tempfile.TemporaryDirectory() as aside:
                contents.write(os.path.join(aside, "ckpt"))
            return final
        aside = files.temporary(os.path.join(directory, "ckpt"))
        with files.writing(directory, f"the checkpoint of step {step}"):
            try:
                files.remove(aside)
                tf.io.gfile.makedirs(aside)
                contents.write(os.path.join(aside, "ckpt"))
                # A checkpoint exists when its index does, so readers see all of it or nothing.
                parts = tf.io.gfile.glob(os.path.join(aside, "ckpt.*"))
                for part in sorted(parts, key=lambda name: name.endswith(".index")):
                    suffix = os.path.basename(part).removeprefix("ckpt")
                    files.move(part, final + suffix)
            finally:
                files.remove(aside)
        return final


def prune(directory: str) -> None:
    """Removes all checkpoints of a directory but the latest; best/ stays."""
    latest = checkpoint_reader.latest_checkpoint(directory)
    if latest is None:
        return
    _write_state(directory, [latest])
    for prefix in checkpoint_reader.all_checkpoints(directory):
        if prefix != latest:
            _remove_checkpoint(prefix)


def _write_state(directory: str, prefixes: Sequence[str]) -> None:
    """Writes `checkpoint`, TensorFlow's text protocol buffer that names the latest."""
    names = [os.path.basename(prefix) for prefix in prefixes]
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    files.write_text(os.path.join(directory, "checkpoint"), "\n".join(lines) + "\n")


def _check_complete(
    section: str, stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str
) -> None:
    """Raises an error unless a section holds exactly the wanted variables."""
    wanted = {name: tuple(variable.shape) for name, variable in wanted.items()}
    wrong = [f"{name} is missing" for name in wanted if name not in stored]
    wrong += [f"{name} is unexpected" for name in stored if name not in wanted]
    wrong += [
        f"{name} has shape {stored[name]}, not {shape}"
        for name, shape in wanted.items()
        if name in stored and stored[name] != shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise errors.UserError(
            f"A run continues only with its own network and optimizer. Received: {prefix}, whose "
            f"{section} variables differ: {'; '.join(wrong[:3])}{more}. Choose another "
            "--model_dir, or start from these weights with --checkpoint."
        )


class LoadedModel(NamedTuple):
    """A network with its weights, and what is known of it: `model, metadata = load_model(path)`.

    Attributes:
        model: model(images, training=False) returns its endpoints by name, such as final_avg_pool
            (n, d) and, of a classifier, logits_sup (n, k); images are float32 (n, h, w, c) in
            [0, 1].
        metadata: the content of model.json: architecture, preprocessing (image_size, range,
            center_crop, resize, channels), class_names or None, dataset, train_mode, global_step.
    """

    model: model_lib.SimCLR
    metadata: dict[str, Any]

    def __repr__(self) -> str:
        step, classes = self.metadata.get("global_step"), self.metadata.get("class_names") or ()
        settings = self.model.hyperparameters
        return (
            f"LoadedModel(depth={settings['depth']}, "
            f"width_multiplier={settings['width_multiplier']}, "
            f"num_classes={settings['num_classes'] or len(classes)}, global_step={step})"
        )


def load_model(path: str | os.PathLike, *, weights: str = "online") -> LoadedModel:
    """Builds the network that a path's model.json describes, and loads all of its weights.

    Args:
        path: a model_dir (its latest checkpoint), its best/, that of a run of all stages (its
            student, else the network trained last), the prefix of a checkpoint, or the directory of
            an exported SavedModel (its variables are read, its graph is not run).
        weights: 'online', the trained weights, or 'ema', their moving average, which pretraining
            with a memory computes; it has no supervised head.

    Returns:
        (model, metadata): the network, and the content of its model.json.

    Raises:
        errors.UserError: there is no network, or its architecture is unknown.
    """
    path = run_directory.network(os.path.expanduser(os.fspath(path)), "predict")
    metadata = checkpoint_reader.read_weights(path, weights)[1]
    if metadata is None:
        raise errors.UserError(
            "The network's architecture is read from the model.json beside it. Received: "
            f"{path}, without one. Give a model_dir or an export of this program."
        )
    averaged = {"num_classes": 0} if weights == "ema" else {}
    model = model_lib.SimCLR(
        **{**metadata["architecture"], "fine_tune_after_block": -1, **averaged}
    )
    load_weights(model, path, restore_head=not averaged, weights=weights)
    return LoadedModel(model, metadata)


def load_weights(
    model: model_lib.SimCLR,
    path: str | os.PathLike,
    *,
    restore_head: bool = False,
    allow_partial: bool = False,
    weights: str = "online",
) -> load_report.LoadReport:
    """Loads a network's weights from a checkpoint or export: all of them or none.

    Args:
        model: a `SimCLR` network, for pretraining or for fine-tuning.
        path: a model_dir (its latest checkpoint), its best/, the prefix of a checkpoint, or the
            directory of an exported SavedModel (its variables are read, its graph is not run).
        restore_head: load the supervised head too, if the number of classes is the same.
        allow_partial: load the weights that match, even if others do not.
        weights: 'online', the trained weights, or 'ema', their moving average.

    Returns:
        A report of what was loaded and what was left out; printable.

    Raises:
        errors.UserError: there is no readable checkpoint, it has another architecture, or
            (without `allow_partial`) weights are missing, unexpected or of other shapes.
    """
    path = os.path.expanduser(os.fspath(path))
    stored, metadata = checkpoint_reader.read_weights(path, weights)
    network = variables.named_variables(model)
    if not allow_partial:
        model_json.check_architecture(metadata, model.hyperparameters, os.fspath(path))
    if restore_head:
        _check_head_layer(metadata, model.hyperparameters, path)
    report = load_report.compare(
        {name: value.shape for name, value in stored.items()},
        {name: tuple(variable.shape) for name, variable in network.items()},
        restore_head=restore_head,
    )
    if not report.matched or not (report.complete or allow_partial):
        raise errors.UserError(
            "A checkpoint must hold all of the network's weights. Received: "
            f"{path}: {report.summary()}. Give the flags it was trained with, another checkpoint, "
            "or --allow_partial to load what matches."
        )
    for name in report.matched:
        network[name].assign(stored[name])
    return report


def _check_head_layer(
    metadata: Mapping[str, Any] | None, wanted: Mapping[str, Any], path: str
) -> None:
    """Raises an error for a head of another layer: its shape may fit although it is wrong."""
    architecture = (metadata or {}).get("architecture", wanted)
    stored, own = architecture["ft_proj_selector"] or 0, wanted["ft_proj_selector"] or 0
    if stored != own:
        raise errors.UserError(
            "--restore_head needs a supervised head on the layer it was trained on. Received: "
            f"{path} has it on projection layer {stored}, the network on {own} (0 is the "
            f"backbone's output). Use --ft_proj_selector={stored}, or remove --restore_head."
        )


def _remove_checkpoint(prefix: str) -> None:
    for file in sorted(tf.io.gfile.glob(prefix + ".*"), key=lambda f: not f.endswith(".index")):
        files.remove(file)
