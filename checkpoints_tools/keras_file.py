"""Keras files: `.weights.h5`, for `SimCLR.load_weights`, and `.keras`, which holds the model too.

Keras 2.15 and Keras 3 use different paths in the file. We write both (as hard links, which take no
space).
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import h5py
import keras
import numpy as np

from checkpoints_tools import atomic, formats, name_map, tensors
from tf2 import errors
from tf2.checkpoints import archive as archive_lib

_WEIGHTS = "model.weights.h5"
# The paths of Keras 3 and Keras 2.15 -> the attribute of the model.
_ALIASES = {
    "layers/res_net": "backbone",
    "layers/projection_layer": "projection_head/projection_layer",
    "layers/supervised_head": "supervised_head",
}
_CHECKSUM = "crc32"
_METADATA_KEY = "model.json"


_LONGEST = 200  # characters of a group's path, which may also refer to itself


def _damaged(path: str, what: str = "which is cut short or damaged") -> errors.UserError:
    return errors.UserError(
        f"A Keras file must be whole and hold a SimCLR's weights. Received: {path}, {what}. Copy "
        "it again, or save it anew."
    )


@contextlib.contextmanager
def _weights_file(path: str) -> Iterator[str]:
    """Yields a path to the HDF5 file, which is a member of a `.keras` archive."""
    if not path.endswith(".keras"):
        yield path
        return
    with tempfile.TemporaryDirectory() as aside:
        try:
            with zipfile.ZipFile(path) as archive:
                archive_lib.check_sizes([archive.getinfo(_WEIGHTS).file_size], path)
                # Unlike extract(), open() cannot be led to another path by a member's name.
                target = os.path.join(aside, _WEIGHTS)
                with archive.open(_WEIGHTS) as member, open(target, "wb") as f:
                    while block := member.read(2**24):
                        f.write(block)
        except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, zlib.error) as error:
            raise _damaged(path) from error
        except errors.UserError:
            raise
        except (RuntimeError, ValueError) as error:  # encrypted, or wrong offsets
            raise _damaged(path) from error
        yield target


def _canonical(path: str) -> str:
    for theirs, ours in _ALIASES.items():
        if path.startswith(theirs):
            return ours + path.removeprefix(theirs)
    return path


def read(path: str) -> tensors.Checkpoint:
    """Reads a Keras file; its arrays are in memory afterwards.

    Raises:
        errors.UserError: it is damaged, or not a Keras file.
    """
    path = os.fspath(path)
    arrays: dict[str, np.ndarray] = {}
    with _weights_file(path) as file:
        try:
            with h5py.File(file, "r") as f:
                archive_lib.check_sizes(_sizes(f), file)
                metadata = json.loads(f.attrs[_METADATA_KEY]) if _METADATA_KEY in f.attrs else None
                _collect(f, "", arrays, path)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
            if isinstance(error, errors.UserError):
                raise
            raise _damaged(path) from error
    if metadata is not None and not isinstance(metadata, dict):
        raise _damaged(path)
    step = (metadata or {}).get("global_step")
    return tensors.Checkpoint("keras", path, tensors.Tensors.of_arrays(arrays), metadata, step)


def _sizes(group: h5py.Group) -> Iterator[int]:
    """Yields the size of each array in bytes, which a compressed or empty one has in memory only.

    Groups that are reached by a link are left to `_collect`.
    """
    for name in group:
        if group.get(name, getlink=True).__class__ is h5py.HardLink:
            item = group[name]
            if isinstance(item, h5py.Dataset):
                yield item.nbytes
            elif len(item.name) <= _LONGEST:
                yield from _sizes(item)


def _collect(group: h5py.Group, parent: str, arrays: dict[str, np.ndarray], path: str) -> None:
    for name in group:
        if group.get(name, getlink=True).__class__ is not h5py.HardLink:
            raise _damaged(path, "which refers to other files")
        item, where = group[name], f"{parent}/{name}".lstrip("/")
        if isinstance(item, h5py.Group):
            if len(where) > _LONGEST:
                raise _damaged(path)
            _collect(item, where, arrays, path)
        elif _canonical(where) not in arrays:
            if item.dtype.kind not in "fiu" or item.id.get_create_plist().get_external_count():
                raise _damaged(path, f"in which {where} isn't a tensor")
            value = np.asarray(item)
            checksum = item.attrs.get(_CHECKSUM)
            if checksum is not None and checksum != f"{zlib.crc32(value.tobytes()):08x}":
                raise _damaged(path, f"in which {where} was changed")
            arrays[_canonical(where)] = value


def write(path: str, values: tensors.Tensors, metadata: Mapping) -> None:
    """Writes `.weights.h5` or `.keras`, by the end of the path.

    Raises:
        errors.UserError: the destination is not writable, or its name ends otherwise.
    """
    if path.endswith(".weights.h5"):
        with atomic.writing(path) as aside:
            _write_h5(aside, values, metadata)
        return
    if not path.endswith(".keras"):
        raise errors.UserError(
            "A Keras file's name must end in .keras or .weights.h5. Received: "
            f"{path}. Give such a destination."
        )
    with atomic.writing(path) as aside:
        weights = aside + ".h5"
        try:
            _write_h5(weights, values, metadata)
            with zipfile.ZipFile(aside, "w") as archive:
                archive.writestr("metadata.json", json.dumps({"keras_version": keras.__version__}))
                archive.writestr("config.json", json.dumps(_config(metadata)))
                archive.write(weights, _WEIGHTS)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(weights)


def _config(metadata: Mapping) -> dict:
    return {
        "module": "tf2.model",
        "class_name": "SimCLR",
        "config": dict(metadata["architecture"]),
        "registered_name": "SimCLR",
    }


def _write_h5(path: str, values: tensors.Tensors, metadata: Mapping) -> None:
    with h5py.File(path, "w") as f:
        f.attrs[_METADATA_KEY] = json.dumps(metadata)
        for name in values:
            value = np.ascontiguousarray(values[name])
            f[name] = value
            f[name].attrs[_CHECKSUM] = f"{zlib.crc32(value.tobytes()):08x}"
        _add_empty_vars(f)
        f.require_group("layers")
        f["layers/res_net"] = f["backbone"]
        for name in f.get("projection_head", ()):
            f[f"layers/{name}"] = f[f"projection_head/{name}"]
        if "supervised_head" in f:
            f["layers/supervised_head"] = f["supervised_head"]


def _add_empty_vars(group: h5py.Group) -> None:
    """Adds the empty `vars` groups that Keras 2.15 expects in layers without weights."""
    for name in list(group):
        if name != "vars":
            _add_empty_vars(group[name])
    group.require_group("vars")


def _recognise(path: str) -> bool:
    return os.path.isfile(path) and os.fspath(path).endswith((".keras", ".h5"))


formats.register(
    formats.Format(
        name="keras",
        recognise=_recognise,
        read=read,
        names=name_map.keras_file,
        ignorable=lambda name: name.startswith(("optimizer/", "_layer_checkpoint_dependencies")),
        write=write,
    )
)
