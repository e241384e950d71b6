"""Finds checkpoints and exports on disk, and reads variables from them by our names.

A TensorFlow checkpoint contains the graph of objects it was saved from. We walk that graph to a
dictionary of variables, whose keys are our names. So one reader serves checkpoints (dictionary
`model`) and exported SavedModels (`named_variables`), and never runs the graph of an export.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf import message
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tf2 import errors, files, run_directory, schemas
from tf2.checkpoints import model_json, reference_checkpoints, reference_tf2

BEST_FILE = "best.json"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Raised by TensorFlow's reader for damaged files, besides its own errors: one kind per status.
_READ_ERRORS = (IndexError, RuntimeError, ValueError, message.DecodeError)


class MissingCheckpoint(errors.UserError):
    """There is no checkpoint at that path (any more)."""


class DamagedCheckpoint(errors.UserError):
    """The files of a checkpoint are not readable to their end."""


def step_of(prefix: str) -> int:
    """Returns the step in the name of a checkpoint, `.../ckpt-<step>`."""
    return int(prefix.rsplit("-", 1)[1])


def _step_of_weights(prefix: str, metadata: Mapping[str, Any]) -> int:
    """Returns the step of the weights in a checkpoint, or in an export beside its model.json."""
    named = re.fullmatch(r"ckpt-(\d+)", os.path.basename(prefix))
    return int(named[1]) if named else metadata["global_step"]


def all_checkpoints(directory: str) -> list[str]:
    """Returns the prefixes of a directory's complete checkpoints, by step."""
    directory = os.fspath(directory)
    if not tf.io.gfile.isdir(directory):
        return []
    matches = [re.fullmatch(r"(ckpt-\d+)\.index", name) for name in tf.io.gfile.listdir(directory)]
    return sorted((os.path.join(directory, m[1]) for m in matches if m), key=step_of)


def latest_checkpoint(directory: str) -> str | None:
    """Returns the prefix of a directory's latest checkpoint, or, in best/, of the best one.

    The file `checkpoint` (in best/ `best.json`) names it. If that file is lost, damaged or names a
    missing checkpoint, the one of the highest step is returned.
    """
    directory = os.fspath(directory)
    best = read_best(directory)
    latest = f"ckpt-{best['global_step']}" if best else _named_latest(directory)
    complete = {os.path.basename(prefix): prefix for prefix in all_checkpoints(directory)}
    highest = next(reversed(complete.values()), None)
    return complete.get(os.path.basename(latest or ""), highest)


def read_best(directory: str) -> dict | None:
    """Returns the best.json of a directory; None without one, or, with a warning, a damaged one."""
    return files.read_json(os.path.join(directory, BEST_FILE), schemas.BEST.check, optional=True)


def _named_latest(directory: str) -> str | None:
    """Returns what the file `checkpoint` names; None if it is lost or damaged."""
    try:
        return tf.train.latest_checkpoint(directory)
    except (ValueError, tf.errors.OpError):  # not text, or empty
        return None


def find_checkpoint(path: str) -> str:
    """Returns the checkpoint that a user means by a path.

    Args:
        path: a model_dir (its latest checkpoint), its best/, the prefix of a checkpoint or
            one of its files, or the directory of a SavedModel.

    Returns:
        The prefix of TensorFlow checkpoint files.

    Raises:
        MissingCheckpoint: there is none.
    """
    path = os.fspath(path)
    if tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
        return os.path.join(path, "variables", "variables")
    if tf.io.gfile.isdir(path):
        latest = latest_checkpoint(path) or _foreign_checkpoint(path)
        if latest is None:
            raise MissingCheckpoint(
                f"A directory must hold a checkpoint or a SavedModel. Received: {path}, which has "
                "neither. Give a run's model_dir, a checkpoint prefix, or the directory with "
                "saved_model.pb."
            )
        return latest
    prefix = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path)
    if tf.io.gfile.exists(prefix + ".index"):
        return prefix
    if tf.io.gfile.exists(path):
        raise MissingCheckpoint(
            "A checkpoint must be TensorFlow's .index and .data files or a SavedModel. Received: "
            f"{path}, a file of another kind. Give a model_dir, a checkpoint prefix or an export."
        )
    raise MissingCheckpoint(
        f"A checkpoint must exist. Received: {path}, where there is nothing. Give a "
        "model_dir, a checkpoint prefix (such as DIR/ckpt-100) or an exported SavedModel."
    )


def _foreign_checkpoint(directory: str) -> str | None:
    """Returns another program's checkpoint in a directory: the latest, or the only one."""
    prefixes = sorted(
        os.path.join(directory, name.removesuffix(".index"))
        for name in tf.io.gfile.listdir(directory)
        if name.endswith(".index")
    )
    latest = os.path.basename(_named_latest(directory) or "")
    by_name = {os.path.basename(prefix): prefix for prefix in prefixes}
    return by_name.get(latest) or (prefixes[0] if len(prefixes) == 1 else None)


@contextlib.contextmanager
def reading(prefix: str) -> Iterator[None]:
    """Turns TensorFlow's errors on reading a checkpoint into one sentence.

    Raises:
        MissingCheckpoint: its files do not exist.
        DamagedCheckpoint: they are not readable.
    """
    try:
        yield
    except (tf.errors.OpError, *_READ_ERRORS) as error:
        if not tf.io.gfile.exists(prefix + ".index"):
            raise MissingCheckpoint(
                f"A checkpoint must exist. Received: {prefix}, which doesn't exist (any "
                "more). Give another checkpoint."
            ) from error
        raise DamagedCheckpoint(
            f"A checkpoint must be whole. Received: {prefix}, of which a file is missing, cut "
            "short, damaged or not readable. Copy it again, or give an earlier checkpoint."
        ) from error


class CheckpointReader:
    """Reads variables of a checkpoint from named dictionaries of its object graph."""

    def __init__(self, prefix: str):
        """Opens the files.

        Raises:
            MissingCheckpoint: they do not exist.
            DamagedCheckpoint: they are not readable.
        """
        self._prefix = prefix
        with reading(prefix):
            self._reader = tf.train.load_checkpoint(prefix)
            self._shapes = self._reader.get_variable_to_shape_map()
            self._dtypes = self._reader.get_variable_to_dtype_map()
            graph = trackable_object_graph_pb2.TrackableObjectGraph()
            if _OBJECT_GRAPH in self._shapes:
                graph.ParseFromString(self._reader.get_tensor(_OBJECT_GRAPH))
        self._nodes = graph.nodes

    def keys(self, section: str) -> dict[str, str]:
        """Returns name -> key in the checkpoint for a dictionary of variables, empty if missing."""
        child = self._children(0).get(section) if self._nodes else None
        nodes = {} if child is None else self._children(child)
        keys = {
            name: attribute.checkpoint_key
            for name, node in nodes.items()
            for attribute in self._nodes[node].attributes
            if attribute.name == "VARIABLE_VALUE"
        }
        return {name: key for name, key in keys.items() if key in self._shapes}

    def shapes(self, section: str) -> dict[str, tuple[int, ...]]:
        """Returns name -> shape of the variables of a dictionary."""
        return {name: tuple(self._shapes[key]) for name, key in self.keys(section).items()}

    def arrays(self, section: str) -> dict[str, np.ndarray]:
        """Returns name -> value of the variables of a dictionary.

        Raises:
            DamagedCheckpoint: a value is not readable, or its checksum is wrong.
        """
        with reading(self._prefix):
            return {name: self._reader.get_tensor(key) for name, key in self.keys(section).items()}

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Returns key -> shape of everything in the checkpoint but its object graph."""
        return {key: tuple(s) for key, s in self._shapes.items() if key != _OBJECT_GRAPH}

    def dtype(self, key: str) -> tf.DType:
        """Returns the type of a tensor."""
        return self._dtypes[key]

    def array(self, key: str) -> np.ndarray:
        """Reads one tensor by its key.

        Raises:
            DamagedCheckpoint: it is not readable, or its checksum is wrong.
        """
        with reading(self._prefix):
            return self._reader.get_tensor(key)

    def global_step(self) -> int | None:
        """Returns the number of training steps; None if it is not in the checkpoint."""
        for key in ("global_step", f"global_step{reference_tf2.VALUE}"):
            if self._shapes.get(key) == []:
                return int(self.array(key))
        return None

    @property
    def has_objects(self) -> bool:
        """Whether the checkpoint has an object graph; TF1's have none."""
        return bool(self._nodes)

    def by_variable_name(self) -> dict[str, str]:
        """Returns variable name -> key, for the variables whose objects have a name."""
        keys: dict[str, str] = {}
        for node in self._nodes:
            for attribute in node.attributes:
                key, name = attribute.checkpoint_key, attribute.full_name
                if attribute.name == "VARIABLE_VALUE" and name and key in self._shapes:
                    # Of two variables with one name, the second one is listed with its key.
                    keys[name if keys.get(name, key) == key else f"{name} at {key}"] = key
        return keys

    def _children(self, node: int) -> Mapping[str, int]:
        return {child.local_name: child.node_id for child in self._nodes[node].children}


def reference_keys(
    reader: CheckpointReader, path: str, weights: str = "online"
) -> tuple[dict, dict[str, str]]:
    """Finds a network of the reference: of its TF1 or TF2 program, or a SavedModel for TF2.

    Returns:
        `model.SimCLR.hyperparameters`, and our name -> key in the checkpoint.

    Raises:
        errors.UserError: it holds no such network, or other weights besides.
    """
    if not reader.has_objects:
        return reference_checkpoints.locate(reader.tensors(), path, weights)
    if weights == "online" and reference_tf2.recognise(reader.tensors()):
        return reference_tf2.locate(reader.tensors(), path)
    keys = reader.by_variable_name()
    names = reference_checkpoints.canonical_variables(list(keys), path)
    shapes = reader.tensors()
    by_canonical = {canonical: name for name, canonical in names.items()}
    architecture, located = reference_checkpoints.locate(
        {canonical: shapes[keys[name]] for canonical, name in by_canonical.items()}, path, weights
    )
    variable_names = {ours: by_canonical[canonical] for ours, canonical in located.items()}
    reference_checkpoints.check_groups(variable_names, path)
    return architecture, {ours: keys[name] for ours, name in variable_names.items()}


def read_weights(path: str, weights: str = "online") -> tuple[dict[str, np.ndarray], dict | None]:
    """Reads the weights of a network, whichever program wrote them.

    Args:
        path: see `find_checkpoint`. Checkpoints and exports of this program, the checkpoints of
            the reference's TF1 and TF2 programs, and the SavedModels it exports for TF2.
        weights: 'online', the trained weights, or 'ema', the moving average that pretraining with
            a memory computes.

    Returns:
        Our name -> array; its model.json, or None. For a checkpoint of the reference without one,
        the metadata that its names and shapes imply.

    Raises:
        MissingCheckpoint: there is no checkpoint.
        DamagedCheckpoint: it is not readable.
        errors.UserError: it holds no known network.
    """
    prefix = find_checkpoint(path)
    reader = CheckpointReader(prefix)
    metadata = model_json.read_model_json(_home(path, prefix))
    if metadata and (measured := metadata.get("calibration")):
        if measured["global_step"] != _step_of_weights(prefix, metadata):
            metadata = {**metadata, "calibration": None}  # it is of other weights
    for section in ("ema",) if weights == "ema" else ("model", "named_variables"):
        arrays = reader.arrays(section)
        if any(name.startswith("backbone/") for name in arrays):
            return arrays, metadata
    if weights == "ema" and (_is_ours(reader, "model") or _is_ours(reader, "named_variables")):
        raise errors.UserError(
            "A moving average of the weights is in checkpoints of pretraining with a memory. "
            f"Received: weights=ema for {path}, which has none. Use --weights=online."
        )
    architecture, keys = reference_keys(reader, path, weights)
    arrays = {ours: reader.array(key) for ours, key in keys.items()}
    return arrays, metadata or _implied(reader, architecture, path, prefix)


def read_metadata(path: str) -> dict | None:
    """Returns the model.json of a checkpoint; without one, what names and shapes imply.

    Raises:
        errors.UserError: as `read_weights`.
    """
    metadata = model_json.read_model_json(path)
    if metadata is not None:
        return metadata
    prefix = find_checkpoint(path)
    reader = CheckpointReader(prefix)
    if _is_ours(reader, "model") or _is_ours(reader, "named_variables"):
        return model_json.read_model_json(_home(path, prefix))
    return _implied(reader, reference_keys(reader, path)[0], path, prefix)


def run_metadata(model_dir: str) -> dict | None:
    """Returns the model.json of a run, or what a run of the reference's TF2 program implies.

    Raises:
        errors.UserError: as `read_weights`.
    """
    if run_directory.is_of_reference(model_dir):
        return read_metadata(model_dir)
    return model_json.read_model_json(model_dir)


def origin_of(reader: CheckpointReader, path: str, prefix: str) -> reference_checkpoints.Origin:
    """Returns where a checkpoint of the reference comes from.

    Its programs write flags.json into a model_dir, and exports below that into
    saved_model/<step>/ or hub/<step>/. An export without flags.json is taken for a released one,
    which was converted from TF1.
    """
    home = _home(path, prefix)
    above = os.path.dirname(os.path.normpath(home))
    if os.path.basename(above) in ("saved_model", "hub"):
        home = os.path.dirname(above)
    flags = files.read_json(os.path.join(home, "flags.json")) or {}
    trained = reference_tf2.recognise(reader.tensors())
    if trained and "image_size" not in flags:
        logging.warning(
            "%s has no flags.json with its image size: 224 is assumed, 32 for a cifar stem.", path
        )
    half_pixel = trained or (reader.has_objects and flags)
    return reference_checkpoints.Origin("half_pixel" if half_pixel else "legacy", flags)


def _implied(reader: CheckpointReader, architecture: dict, path: str, prefix: str) -> dict:
    """Returns the metadata that a checkpoint of the reference implies."""
    origin = origin_of(reader, path, prefix)
    architecture = reference_checkpoints.with_selector(architecture, origin)
    return reference_checkpoints.describe(architecture, reader.global_step(), origin)


def _is_ours(reader: CheckpointReader, section: str) -> bool:
    return any(name.startswith("backbone/") for name in reader.keys(section))


def _home(path: str, prefix: str) -> str:
    """Returns the directory whose model.json belongs to a checkpoint."""
    path = os.fspath(path)
    return path if tf.io.gfile.isdir(path) else os.path.dirname(prefix)
