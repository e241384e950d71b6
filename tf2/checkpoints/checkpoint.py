"""Checkpoints of a run: saved whole or not at all, restored completely or not at all.

A checkpoint holds {our name: variable}, never a model object: the names outlive the Keras version
and the layout of the classes. The files are TensorFlow's (`ckpt-<step>.index`, `.data-...`, and
`checkpoint`, which names the latest). `load_weights` takes weights out of them for another network.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence

import tensorflow as tf
from absl import logging

from tf2 import errors, files, variables
from tf2 import model as model_lib
from tf2.checkpoints import checkpoint_reader, load_report, model_json

BEST = "best"

read_weights = checkpoint_reader.read_weights


class Saver:
    """Writes a run's checkpoints and restores them.

    Under several workers every one makes the same calls, since reading a variable that is spread
    over workers takes all of them; only the one that writes leaves files.
    """

    def __init__(
        self,
        model_dir: str,
        contents: Mapping[str, Mapping[str, tf.Variable] | tf.Variable],
        keep_max: int = 5,
        write: bool = True,
    ):
        """Writes nothing yet.

        Args:
            model_dir: where the checkpoints are.
            contents: what is in a checkpoint: 'model' and, for training, 'optimizer', each
                {name: variable}, and 'global_step', an int64 variable.
            keep_max: checkpoints to keep, the latest ones; 0 keeps all.
            write: whether this process is the one that leaves files.
        """
        self._directory = os.fspath(model_dir)
        self._contents = dict(contents)
        self._keep_max = keep_max
        self._write = write
        self._checkpoint = tf.train.Checkpoint(**self._contents)
        # Kept in memory: all workers must come to the same decision, whenever the file appears.
        best = os.path.join(self._directory, BEST, checkpoint_reader.BEST_FILE)
        self._best = files.read_json(best) or {}

    @property
    def latest(self) -> str | None:
        """The prefix of the latest checkpoint in model_dir; None where there is none."""
        return checkpoint_reader.latest_checkpoint(self._directory)

    def save(self, step: int) -> str:
        """Writes `ckpt-<step>`, makes it the latest, and removes those over `keep_max`.

        A crash or a full disk at any point leaves the earlier checkpoints as they were.

        Raises:
            errors.UserError: there is no space left, or model_dir can't be written to.
        """
        prefix = self._write_whole(self._directory, step)
        if self._write:
            earlier = [p for p in checkpoint_reader.all_checkpoints(self._directory) if p != prefix]
            kept = [*earlier, prefix]
            kept = kept[-self._keep_max :] if self._keep_max > 0 else kept
            self._write_state(self._directory, kept)
            for old in earlier:
                if old not in kept:
                    _remove_checkpoint(old)
        return prefix

    def save_best(self, step: int, value: float, measure: str = "") -> bool:
        """Keeps the present state under best/ if it is better than the one there.

        Args:
            step: of the present state.
            value: how good it is; higher is better.
            measure: what the value is, for best.json. A value of another measure is replaced.

        Returns:
            Whether it is the best so far.

        Raises:
            errors.UserError: as `save`.
        """
        beaten = self._best.get("measure") != measure or value > self._best["value"]
        if not beaten or math.isnan(value):
            return False
        directory = os.path.join(self._directory, BEST)
        prefix = self._write_whole(directory, step)
        if self._write:
            metadata = files.read_json(os.path.join(self._directory, model_json.FILE_NAME))
            if metadata is not None:
                model_json.write_model_json(directory, {**metadata, "global_step": int(step)})
            # This one file says which checkpoint is the best: all changes with its renaming.
            entry = {"global_step": int(step), "value": float(value), "measure": measure}
            files.write_json(os.path.join(directory, checkpoint_reader.BEST_FILE), entry)
            self._write_state(directory, [prefix])
            for old in checkpoint_reader.all_checkpoints(directory):
                if old != prefix:
                    _remove_checkpoint(old)
        self._best = {"measure": measure, "value": float(value)}
        return True

    def restore_latest(self) -> int | None:
        """Restores the latest checkpoint that can be read; returns its step, or None without any.

        Where the latest is damaged (a machine that lost power), the one before serves, and the log
        says so.

        Raises:
            errors.UserError: the checkpoint isn't of this network, or all are damaged.
        """
        latest = self.latest
        if latest is None:
            return None
        earlier = [
            p
            for p in checkpoint_reader.all_checkpoints(self._directory)
            if checkpoint_reader.step_of(p) < checkpoint_reader.step_of(latest)
        ]
        damage = None
        for prefix in [latest, *reversed(earlier)]:
            try:
                step = self.restore(prefix)
            except checkpoint_reader.DamagedCheckpoint as error:
                damage = damage or error
                continue
            if damage is not None:
                logging.warning("%s The run goes on from %s.", damage, prefix)
            return step
        raise damage

    def restore(self, prefix: str) -> int:
        """Restores one checkpoint, every variable of it; returns its step.

        Raises:
            checkpoint_reader.MissingCheckpoint: it isn't there (any more).
            checkpoint_reader.DamagedCheckpoint: it can't be read.
            errors.UserError: it holds other variables, or of other shapes.
        """
        reader = checkpoint_reader.CheckpointReader(prefix)
        for section, wanted in self._contents.items():
            if section != "global_step":
                _check_complete(section, reader.shapes(section), wanted, prefix)
        with checkpoint_reader.reading(prefix):
            status = self._checkpoint.read(prefix)
        # An evaluation has no optimizer: TensorFlow would list each slot as unused at exit.
        status.assert_existing_objects_matched().expect_partial()
        return int(self._contents["global_step"].numpy())

    def _write_whole(self, directory: str, step: int) -> str:
        """Writes a checkpoint aside and moves it into place, its index last."""
        final = os.path.join(directory, f"ckpt-{int(step)}")
        if not self._write:
            with tempfile.TemporaryDirectory() as aside:
                self._checkpoint.write(os.path.join(aside, "ckpt"))
            return final
        aside = os.path.join(directory, ".writing")
        with files.writing(directory, f"the checkpoint of step {step}"):
            try:
                files.remove(aside)  # of a process that was killed
                tf.io.gfile.makedirs(aside)
                self._checkpoint.write(os.path.join(aside, "ckpt"))
                # No index, no checkpoint: with it renamed last, a reader sees all or nothing.
                parts = tf.io.gfile.glob(os.path.join(aside, "ckpt.*"))
                for part in sorted(parts, key=lambda name: name.endswith(".index")):
                    suffix = os.path.basename(part).removeprefix("ckpt")
                    tf.io.gfile.rename(part, final + suffix, overwrite=True)
            finally:
                files.remove(aside)
        return final

    def _write_state(self, directory: str, prefixes: Sequence[str]) -> None:
        """Writes `checkpoint`, the text protocol buffer that names the latest, as TensorFlow's."""
        names = [os.path.basename(prefix) for prefix in prefixes]
        lines = [f'model_checkpoint_path: "{names[-1]}"']
        lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
        files.write_text(os.path.join(directory, "checkpoint"), "\n".join(lines) + "\n")


def _check_complete(section: str, found: Mapping, wanted: Mapping, prefix: str) -> None:
    """Refuses a checkpoint that doesn't hold exactly the variables of a section."""
    wanted = {name: tuple(variable.shape) for name, variable in wanted.items()}
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is unexpected" for name in found if name not in wanted]
    wrong += [
        f"{name} has shape {found[name]}, not {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise errors.UserError(
            f"A run continues only with its own network and optimizer. Received: {prefix}, whose "
            f"{section} variables differ: {'; '.join(wrong[:3])}{more}. Choose another "
            "--model_dir, or start from these weights with --checkpoint."
        )


def load_model(path: str, *, weights: str = "online") -> tuple[model_lib.SimCLR, dict]:
    """Builds the network that a path's model.json describes, with its weights; all of them fit.

    Args:
        path: see `load_weights`.
        weights: see `load_weights`; 'ema' has no supervised head.

    Returns:
        The network, and its model.json.

    Raises:
        errors.UserError: there is no network, or nothing says of what architecture it is.
    """
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
    return model, metadata


def load_weights(
    model,
    path: str,
    *,
    restore_head: bool = False,
    allow_partial: bool = False,
    weights: str = "online",
) -> load_report.LoadReport:
    """Loads a network's weights from a checkpoint or export; none of them unless all fit.

    Args:
        model: a `model.SimCLR`, in either form.
        path: a model_dir (its latest checkpoint), its best/, the prefix of a checkpoint, or the
            directory of an exported SavedModel, whose variables are read and whose graph isn't run.
        restore_head: load the supervised head too, where the number of classes is the same.
        allow_partial: load what matches, whatever doesn't.
        weights: 'online', those that were trained, or 'ema', their moving average.

    Returns:
        What was loaded and what was left out; printable.

    Raises:
        errors.UserError: there is nothing that can be read, it has another architecture, or
            (without `allow_partial`) weights are missing, unexpected or of other shapes.
    """
    found, metadata = checkpoint_reader.read_weights(path, weights)
    named = variables.named_variables(model)
    if not allow_partial:
        model_json.check_architecture(metadata, model.hyperparameters, os.fspath(path))
    if restore_head:
        _check_head_place(metadata, model.hyperparameters, path)
    report = load_report.compare(
        {name: value.shape for name, value in found.items()},
        {name: tuple(variable.shape) for name, variable in named.items()},
        restore_head=restore_head,
    )
    if not report.matched or not (report.complete or allow_partial):
        raise errors.UserError(
            "A checkpoint must hold the network's weights, all of them. Received: "
            f"{path}: {report.summary()}. Give the flags it was trained with, another checkpoint, "
            "or --allow_partial to load what matches."
        )
    for name in report.matched:
        named[name].assign(found[name])
    return report


def _check_head_place(metadata: Mapping | None, wanted: Mapping, path: str) -> None:
    """Refuses a supervised head that sat on another layer: it may fit and still be wrong."""
    architecture = (metadata or {}).get("architecture", wanted)
    there, here = architecture["ft_proj_selector"] or 0, wanted["ft_proj_selector"] or 0
    if there != here:
        raise errors.UserError(
            "--restore_head needs a supervised head on the layer that it was trained on. Received: "
            f"{path} has it on projection layer {there}, the network on {here} (0 is the "
            f"backbone's output). Use --ft_proj_selector={there}, or leave --restore_head out."
        )


def _remove_checkpoint(prefix: str) -> None:
    for file in sorted(tf.io.gfile.glob(prefix + ".*"), key=lambda f: not f.endswith(".index")):
        files.remove(file)
