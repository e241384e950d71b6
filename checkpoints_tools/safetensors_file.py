"""safetensors: a JSON header with offsets, then the tensors, read and written one at a time.

The header's `__metadata__` holds model.json and a checksum of every tensor, because the format
itself has none, and a changed byte would change the network.
"""

from __future__ import annotations

import functools
import json
import os
import zlib
from collections.abc import Mapping

import numpy as np

from checkpoints_tools import atomic, formats, name_map, tensors
from tf2.checkpoints import safetensors_reader


def read(path: str) -> tensors.Checkpoint:
    """Reads a safetensors file.

    Raises:
        errors.UserError: it is damaged.
    """
    path = os.fspath(path)
    header, header_metadata, start = safetensors_reader.read_header(path)
    metadata, checksums = (
        safetensors_reader.metadata_json(path, header_metadata, n) for n in ("model.json", "crc32")
    )

    def reader(name: str, entry: Mapping) -> tensors.Entry:
        # A tensor that is missing in the checksums was added.
        checksum = checksums.get(name, "") if checksums else None
        load = functools.partial(safetensors_reader.read_tensor, path, start, name, entry, checksum)
        dtype = np.dtype(safetensors_reader.TYPES[entry["dtype"]])
        return tensors.Entry(tuple(entry["shape"]), dtype, load)

    values = tensors.Tensors({name: reader(name, entry) for name, entry in header.items()})
    step = (metadata or {}).get("global_step")
    return tensors.Checkpoint("safetensors", path, values, metadata, step)


def write(path: str, values: tensors.Tensors, metadata: Mapping) -> None:
    """Writes a safetensors file, holding one tensor at a time.

    Raises:
        errors.UserError: the destination is not writable.
    """
    kinds = {np.dtype(code): name for name, code in safetensors_reader.TYPES.items()}
    header: dict[str, dict] = {}
    end = 0
    for name, entry in values.entries.items():
        offsets = [end, end + entry.nbytes]
        header[name] = {"dtype": kinds[entry.dtype], "shape": entry.shape, "data_offsets": offsets}
        end += entry.nbytes
    checksums = dict.fromkeys(values, "0" * 8)  # placeholders of the right length

    def head() -> bytes:
        header_metadata = {
            "format": "tf",
            "model.json": json.dumps(metadata),
            "crc32": json.dumps(checksums),
        }
        text = json.dumps({"__metadata__": header_metadata, **header}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    with atomic.writing(path) as aside, open(aside, "wb") as f:
        f.write(head())
        for name in values:
            data = np.ascontiguousarray(values[name]).view(np.uint8).reshape(-1).data
            checksums[name] = f"{zlib.crc32(data):08x}"
            f.write(data)
        f.seek(0)
        f.write(head())


def _recognise(path: str) -> bool:
    return os.path.isfile(path) and os.fspath(path).endswith(".safetensors")


formats.register(
    formats.Format(
        name="safetensors",
        recognise=_recognise,
        read=read,
        names=name_map.identity,
        ignorable=lambda name: False,
        write=write,
    )
)
