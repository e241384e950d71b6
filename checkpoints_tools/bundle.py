"""Writes TensorFlow's checkpoint files piece by piece, with or without an object graph.

TensorFlow's own saving needs all tensors in memory at once. Here a few tensors at a time become a
shard, and the shards are merged into one checkpoint, as in TensorFlow's distributed saving.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from checkpoints_tools import tensors as tensors_lib
from tf2 import files

_SHARD_BYTES = 128 * 2**20
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def write(
    directory: str,
    name: str,
    values: tensors_lib.Tensors,
    small: Mapping[str, object] | None = None,
) -> None:
    """Writes a checkpoint and the file `checkpoint` that names it.

    Args:
        directory: exists.
        name: of the checkpoint, `ckpt-100`.
        values: key -> array.
        small: key -> tensor or number, written too.
    """
    prefix = os.path.join(directory, name)
    parts: list[str] = []
    for keys in _shards(values):
        part = os.path.join(directory, f".part-{len(parts)}")
        _save(part, {key: tf.constant(values[key]) for key in keys})
        parts.append(part)
    if small:
        part = os.path.join(directory, f".part-{len(parts)}")
        _save(part, {key: tf.convert_to_tensor(value) for key, value in small.items()})
        parts.append(part)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=prefix, delete_old_dirs=False
    )
    lines = [f'model_checkpoint_path: "{name}"', f'all_model_checkpoint_paths: "{name}"']
    files.write_text(os.path.join(directory, "checkpoint"), "\n".join(lines) + "\n")


def _save(prefix: str, values: Mapping) -> None:
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )


def _shards(values: tensors_lib.Tensors) -> Iterator[list[str]]:
    keys: list[str] = []
    size = 0
    for key, entry in values.entries.items():
        if keys and size + entry.nbytes > _SHARD_BYTES:
            yield keys
            keys, size = [], 0
        keys.append(key)
        size += entry.nbytes
    if keys:
        yield keys


def key_of(path: tuple[str, ...]) -> str:
    """Returns the key under which TensorFlow saves the variable at a path of attributes."""
    return "/".join(part.replace(".", "..").replace("/", ".S") for part in path) + SUFFIX


class ObjectGraph:
    """The graph of objects in which TensorFlow looks up the variables of a checkpoint."""

    def __init__(self) -> None:
        """Starts with a root that has no children."""
        self._graph = trackable_object_graph_pb2.TrackableObjectGraph()
        self._nodes: dict[tuple[str, ...], int] = {(): 0}
        self._graph.nodes.add()

    def node(self, path: tuple[str, ...]) -> int:
        """Returns the number of the object at a path; creates it if necessary."""
        if path not in self._nodes:
            parent = self._graph.nodes[self.node(path[:-1])]
            self._nodes[path] = len(self._graph.nodes)
            self._graph.nodes.add()
            parent.children.add(node_id=self._nodes[path], local_name=path[-1])
        return self._nodes[path]

    def variable(self, path: tuple[str, ...], key: str | None = None) -> int:
        """Adds a variable at a path; returns its number."""
        number = self.node(path)
        self._graph.nodes[number].attributes.add(
            name="VARIABLE_VALUE", full_name="/".join(path), checkpoint_key=key or key_of(path)
        )
        return number

    def alias(self, path: tuple[str, ...], number: int) -> None:
        """Adds another path to an object."""
        parent = self._graph.nodes[self.node(path[:-1])]
        parent.children.add(node_id=number, local_name=path[-1])

    def slot(self, optimizer: tuple[str, ...], variable: int, slot: str, key: str) -> None:
        """Adds an optimizer's slot of a variable."""
        number = len(self._graph.nodes)
        self._graph.nodes.add().attributes.add(
            name="VARIABLE_VALUE", full_name=slot, checkpoint_key=key
        )
        self._graph.nodes[self.node(optimizer)].slot_variables.add(
            original_variable_node_id=variable, slot_name=slot, slot_variable_node_id=number
        )

    def serialized(self) -> bytes:
        """Returns the content of the checkpoint's tensor `OBJECT_GRAPH`."""
        for node in self._graph.nodes:
            node.has_checkpoint_values.value = True
        return self._graph.SerializeToString()
