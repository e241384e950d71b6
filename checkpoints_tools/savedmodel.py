"""SavedModels: ours, and those released for TF2. Only variables are read; no graph is run."""

from __future__ import annotations

import os
from collections.abc import Mapping

from checkpoints_tools import atomic, formats, name_map, tensorflow_formats, tensors
from tf2 import model, variables
from tf2.apply import export
from tf2.checkpoints import checkpoint_reader, model_json, reference_checkpoints


def read(path: str) -> tensors.Checkpoint:
    """Reads a SavedModel's variables under our names.

    The reference's are found by the variables' own names. Other variables keep their keys, so that
    the converter reports them.

    Raises:
        errors.UserError: it is not readable, or holds no known network.
    """
    path = os.fspath(path)
    prefix = checkpoint_reader.find_checkpoint(path)
    reader = checkpoint_reader.CheckpointReader(prefix)
    metadata = model_json.read_model_json(path)
    keys = reader.keys("named_variables")
    if not any(name.startswith("backbone/") for name in keys):
        architecture, keys = checkpoint_reader.reference_keys(reader, path)
        origin = checkpoint_reader.origin_of(reader, path, prefix)
        architecture = reference_checkpoints.with_selector(architecture, origin)
        metadata = metadata or reference_checkpoints.describe(architecture, None, origin)
    rest = set(reader.tensors()) - set(keys.values())
    keys = {**keys, **{key: key for key in sorted(rest)}}
    entries = tensorflow_formats.entries(reader, keys)
    step = (metadata or {}).get("global_step")
    return tensors.Checkpoint("savedmodel", path, entries, metadata, step)


def write(path: str, values: tensors.Tensors, metadata: Mapping) -> None:
    """Writes a SavedModel with the reference's endpoints and `serving_default`.

    Raises:
        errors.UserError: the destination is not writable.
    """
    network = model.SimCLR(**metadata["architecture"])
    for name, variable in variables.named_variables(network).items():
        variable.assign(values[name])
    with atomic.writing(path) as aside:
        export.export_saved_model(
            network,
            aside,
            preprocessing=metadata["preprocessing"],
            class_names=metadata.get("class_names"),
            model_json=metadata,
        )


def _recognise(path: str) -> bool:
    return tensorflow_formats.kind(path) == "savedmodel"


formats.register(
    formats.Format(
        name="savedmodel",
        recognise=_recognise,
        read=read,
        names=name_map.identity,
        ignorable=reference_checkpoints.is_no_weight,
        write=write,
    )
)
