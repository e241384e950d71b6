"""The formats that are TensorFlow checkpoint files: TF1's, TF-Hub's, ours, the reference's TF2."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from checkpoints_tools import atomic, bundle, formats, name_map, tensors
from tf2 import errors as errors_lib
from tf2.checkpoints import (
    checkpoint_reader,
    model_json,
    reference_checkpoints,
    reference_tf2,
)

_SECTIONS = ("model", "ema", "optimizer", "memory", "named_variables")


def kind(path: str) -> str | None:
    """Returns the format of a path, by its keys; None if it is none of these or is damaged."""
    try:
        prefix = checkpoint_reader.find_checkpoint(path)
        reader = checkpoint_reader.CheckpointReader(prefix)
    except errors_lib.UserError:
        return None
    exported = os.path.exists(os.path.join(path, "saved_model.pb"))
    names = reader.tensors()
    if not reader.has_objects:
        has_weights = any("base_model/" in name for name in names)
        return ("hub" if exported else "tf1") if has_weights else None
    if exported:
        return "savedmodel"
    if any(name.startswith("backbone/") for name in reader.keys("model")):
        return "ours"
    return "reference_tf2" if reference_tf2.recognise(names) else None


def entries(reader: checkpoint_reader.CheckpointReader, keys: Mapping[str, str]) -> tensors.Tensors:
    """Returns tensors of a checkpoint under other names, each read when it is used."""
    shapes = reader.tensors()
    named = {}
    for name, key in keys.items():
        dtype = np.dtype(reader.dtype(key).as_numpy_dtype)
        named[name] = tensors.Entry(shapes[key], dtype, functools.partial(reader.array, key))
    return tensors.Tensors(named)


def read(path: str) -> tensors.Checkpoint:
    """Reads any of these formats except SavedModels, under its own names.

    Raises:
        errors.UserError: it is not readable.
    """
    path = os.fspath(path)
    prefix = checkpoint_reader.find_checkpoint(path)
    reader = checkpoint_reader.CheckpointReader(prefix)
    name = kind(path) or ""
    keys = {key: key for key in reader.tensors()}
    if name == "ours":
        sections = {s: reader.keys(s) for s in _SECTIONS}
        keys = {f"{s}/{n}": key for s, names in sections.items() for n, key in names.items()}
    if name == "reference_tf2":
        keys = {renamed: key for key, renamed in _slots_by_weight(reader).items()}
    home = path if os.path.isdir(path) else os.path.dirname(prefix)
    metadata = model_json.read_model_json(home)
    origin = checkpoint_reader.origin_of(reader, path, prefix)
    return tensors.Checkpoint(
        name, path, entries(reader, keys), metadata, reader.global_step(), origin
    )


# The names in Keras 2.11 to 2.15 of slots that its optimizers keep in one list.
_LISTED = ("momentum", "m", "v")
_LISTED_SLOT = re.compile(r"(SGD|Adam)/(m|v)/(.+)")


def _slots_by_weight(reader: checkpoint_reader.CheckpointReader) -> dict[str, str]:
    """Returns key -> key, where slots that are kept in a list have the key of their weight.

    Their names identify the weight; their positions in the list do not.
    """
    names = reader.by_variable_name()
    renamed = {key: key for key in reader.tensors()}
    for name, key in names.items():
        match = _LISTED_SLOT.fullmatch(name)
        weight = names.get(match[3]) if match else None
        if match and weight and re.fullmatch(r"optimizer/_variables/\d+/.*", key):
            slot = "momentum" if match[1] == "SGD" else match[2]
            renamed[key] = name_map.slot_key(weight.removesuffix(bundle.SUFFIX), slot)
    return renamed


def _writer(
    small: Callable[[tensors.Tensors, int], tuple[tensors.Tensors, dict]], name: str
) -> Callable[[str, tensors.Tensors, Mapping], None]:
    """Returns a function that writes a directory with a checkpoint and model.json.

    Args:
        small: (tensors, step) -> (tensors under their keys, small tensors besides).
        name: of the checkpoint, before its step.
    """

    def write(path: str, values: tensors.Tensors, metadata: Mapping) -> None:
        step = int(metadata.get("global_step") or 0)
        with atomic.writing(path) as aside:
            os.makedirs(aside)
            bundle.write(aside, f"{name}-{step}", *small(values, step))
            model_json.write_model_json(aside, metadata)

    return write


def _tf1(values: tensors.Tensors, step: int) -> tuple[tensors.Tensors, dict]:
    return values, {"global_step": tf.constant(step, tf.int64)}


def _ours(values: tensors.Tensors, step: int) -> tuple[tensors.Tensors, dict]:
    graph, keyed = bundle.ObjectGraph(), {}
    for name in values:
        path = tuple(name.split("/", 1))
        graph.variable(path)
        keyed[bundle.key_of(path)] = (name, None)
    graph.variable(("global_step",))
    small = {
        bundle.key_of(("global_step",)): tf.constant(step, tf.int64),
        bundle.OBJECT_GRAPH: tf.constant(graph.serialized()),
    }
    return values.renamed(keyed), small


def _reference_tf2(
    values: tensors.Tensors, step: int, listed: bool = False
) -> tuple[tensors.Tensors, dict]:
    """Returns what to write; `listed` puts the slots of Keras's own optimizers into one list.

    From Keras 2.11 on, its SGD and Adam look for their slots there, and fail if they are where
    they were before. The list begins with the counter.
    """
    graph, variables, slots = bundle.ObjectGraph(), {}, []
    for key in values:
        path, _, slot = key.removesuffix(bundle.SUFFIX).partition("/.OPTIMIZER_SLOT/")
        if slot:
            slots.append((path, slot.rsplit("/", 1)[1], key))
        else:
            variables[path] = graph.variable(tuple(path.split("/")), key)
    counter = graph.variable(("global_step",))
    graph.alias(("optimizer", "iter"), counter)
    graph.variable(("save_counter",))
    if listed:
        graph.alias(("optimizer", "_variables", "0"), counter)
        order = {path: i for i, path in enumerate(name_map.reference_order(variables))}
        slots.sort(key=lambda slot: (order[slot[0]], slot[1]))  # of a weight, m before v
        for number, (_, _, key) in enumerate([s for s in slots if s[1] in _LISTED], 1):
            graph.variable(("optimizer", "_variables", str(number)), key)
        slots = [slot for slot in slots if slot[1] not in _LISTED]
    for path, slot, key in slots:
        graph.slot(("optimizer",), variables[path], slot, key)
    small = {
        bundle.key_of(("global_step",)): tf.constant(step, tf.int64),
        bundle.key_of(("save_counter",)): tf.constant(1, tf.int64),
        bundle.OBJECT_GRAPH: tf.constant(graph.serialized()),
    }
    return values, small


def _no_weight_of_ours(name: str) -> bool:
    return name.startswith(("optimizer/", "memory/"))


formats.register(
    formats.Format(
        name="ours",
        recognise=lambda path: kind(path) == "ours",
        read=read,
        names=name_map.ours,
        ignorable=_no_weight_of_ours,
        write=_writer(_ours, "ckpt"),
        slots=name_map.ours_slots,
    )
)
formats.register(
    formats.Format(
        name="tf1",
        recognise=lambda path: kind(path) == "tf1",
        read=read,
        names=name_map.tf1,
        ignorable=reference_checkpoints.is_no_weight,
        write=_writer(_tf1, "model.ckpt"),
        slots=name_map.tf1_slots,
    )
)
formats.register(
    formats.Format(
        name="hub",
        recognise=lambda path: kind(path) == "hub",
        read=read,
        names=name_map.tf1,
        ignorable=reference_checkpoints.is_no_weight,
    )
)
formats.register(
    formats.Format(
        name="reference_tf2",
        recognise=lambda path: kind(path) == "reference_tf2",
        read=read,
        names=name_map.reference_tf2,
        ignorable=reference_tf2.is_no_weight,
        write=_writer(_reference_tf2, "ckpt"),
        slots=name_map.reference_slots,
    )
)
formats.register(
    formats.Format(
        name="reference_tf2_keras211",
        recognise=lambda path: False,  # read as reference_tf2
        read=read,
        names=name_map.reference_tf2,
        ignorable=reference_tf2.is_no_weight,
        write=_writer(functools.partial(_reference_tf2, listed=True), "ckpt"),
        slots=name_map.reference_slots,
    )
)
