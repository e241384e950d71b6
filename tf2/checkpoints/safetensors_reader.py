"""Reads safetensors files: a JSON header with offsets, then the tensors. No code is in such a file.

The header's `__metadata__` of our files holds model.json and a checksum of every tensor, because
the format itself has none, and a changed byte would change the network.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping

import numpy as np

from tf2 import errors

TYPES = {
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
    if count * np.dtype(TYPES[entry["dtype"]]).itemsize != end - begin:
        raise ValueError(entry)
    return begin, end


def read_tensor(
    path: str, start: int, name: str, entry: Mapping, checksum: str | None
) -> np.ndarray:
    """Reads one tensor.

    Args:
        path: of the file.
        start: offset of the first tensor.
        name: of the tensor, for messages.
        entry: of the header.
        checksum: CRC-32 of its bytes in hexadecimal; None if unknown.

    Raises:
        errors.UserError: it is damaged.
    """
    begin, end = entry["data_offsets"]
    with open(path, "rb") as f:
        f.seek(start + begin)
        data = f.read(end - begin)
    if len(data) != end - begin:
        raise _damaged(path, f"in which {name} is cut short")
    if checksum not in (None, f"{zlib.crc32(data):08x}"):
        raise _damaged(path, f"in which {name} was changed")
    return np.frombuffer(data, TYPES[entry["dtype"]]).reshape(entry["shape"])


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """Returns name -> array of a whole file.

    Raises:
        errors.UserError: it is damaged.
    """
    header, header_metadata, start = read_header(path)
    checksums = metadata_json(path, header_metadata, "crc32")
    return {  # a tensor that is missing in the checksums was added
        name: read_tensor(path, start, name, entry, checksums.get(name, "") if checksums else None)
        for name, entry in header.items()
    }


def metadata_json(path: str, header_metadata: Mapping, name: str) -> dict | None:
    """Returns a JSON object of the header's metadata; None if there is none."""
    if name not in header_metadata:
        return None
    try:
        value = json.loads(header_metadata[name])
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, f"whose {name} can't be understood") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"whose {name} can't be understood")
    return value
