"""safetensors: a JSON header with offsets, then the tensors, read and written one at a time.

The header's `__metadata__` holds model.json and a checksum of every tensor, because the format
itself has none, and a changed byte would change the network.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping

import numpy as np

from checkpoints_tools import atomic, formats, name_map, tensors
from tf2 import errors

_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_MOST_HEADER = 100 * 2**20  # as the format's own library


def _damaged(path: str, what: str) -> errors.UserError:
    return errors.UserError(
        f"A safetensors file must be whole, with a true header. Received: {path}, {what}. Copy it "
        "again, or convert it anew."
    )


def read_header(path: str) -> tuple[dict, dict, int]:
    """Reads and checks the header.

    Returns:
        Name -> {dtype, shape, data_offsets}; its metadata; the offset of the first tensor.

    Raises:
        errors.UserError: it is damaged, or does not describe the file.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise _damaged(path, "whose header is longer than the file")
        text = f.read(length)
    try:
        header = json.loads(text)
        header_metadata = header.pop("__metadata__", {})
        offsets = sorted(_offsets(entry) for entry in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, "whose header can't be understood") from error
    if not isinstance(header_metadata, dict):
        raise _damaged(path, "whose header can't be understood")
    end = 0
    for begin, stop in offsets:
        if begin != end:
            raise _damaged(path, "whose tensors overlap or leave holes")
        end = stop
    if end != size - 8 - length:
        raise _damaged(path, f"whose header speaks of {end} bytes where {size - 8 - length} are")
    return header, header_metadata, 8 + length


def _offsets(entry: Mapping) -> tuple[int, int]:
    """Returns (begin, end) of a tensor, after checking that its shape fits."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise ValueError(entry)
    count = 1
    for number in shape:
        count *= number
    if count * np.dtype(_TYPES[entry["dtype"]]).itemsize != end - begin:
        raise ValueError(entry)
    return begin, end


def read(path: str) -> tensors.Checkpoint:
    """Reads a safetensors file.

    Raises:
        errors.UserError: it is damaged.
    """
    path = os.fspath(path)
    header, header_metadata, start = read_header(path)
    metadata, checksums = (
        _metadata_json(path, header_metadata, n) for n in ("model.json", "crc32")
    )

    def reader(name: str, entry: Mapping) -> tensors.Entry:
        begin, end = entry["data_offsets"]

        def load() -> np.ndarray:
            with open(path, "rb") as f:
                f.seek(start + begin)
                data = f.read(end - begin)
            if len(data) != end - begin:
                raise _damaged(path, f"in which {name} is cut short")
            if checksums and checksums.get(name) != f"{zlib.crc32(data):08x}":
                raise _damaged(path, f"in which {name} was changed")
            return np.frombuffer(data, _TYPES[entry["dtype"]]).reshape(entry["shape"])

        return tensors.Entry(tuple(entry["shape"]), np.dtype(_TYPES[entry["dtype"]]), load)

    values = tensors.Tensors({name: reader(name, entry) for name, entry in header.items()})
    step = (metadata or {}).get("global_step")
    return tensors.Checkpoint("safetensors", path, values, metadata, step)


def _metadata_json(path: str, header_metadata: Mapping, name: str) -> dict | None:
    if name not in header_metadata:
        return None
    try:
        value = json.loads(header_metadata[name])
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, f"whose {name} can't be understood") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"whose {name} can't be understood")
    return value


def write(path: str, values: tensors.Tensors, metadata: Mapping) -> None:
    """Writes a safetensors file, holding one tensor at a time.

    Raises:
        errors.UserError: the destination is not writable.
    """
    kinds = {np.dtype(code): name for name, code in _TYPES.items()}
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
