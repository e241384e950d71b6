"""PyTorch's .pth files: tensors by name, read and written one at a time.

A .pth is a zip of one pickle and one record per tensor. Our unpickler knows tensors, numbers,
strings and dictionaries only, so no code in the pickle can run, and reading does not need PyTorch.
The checksum of a record is checked when it is read. Files of PyTorch before 1.6 have another
layout: PyTorch itself reads them, weights only, into memory.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from checkpoints_tools import tensors
from tf2 import errors, files

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MOST_PICKLE_BYTES = 2**28
_ALIGNMENT = 64  # bytes, as in PyTorch's own files, so that records can be mapped into memory


class _CarriesCode(errors.UserError):
    """The pickle calls something that does not make a tensor."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    dtype: np.dtype
    key: str
    count: int


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file: a part of a record, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_pth(path: str) -> bool:
    """Whether a file looks like one written by `torch.save`; reads little."""
    try:
        with open(path, "rb") as f:
            if f.read(len(_LEGACY_MAGIC)) == _LEGACY_MAGIC:
                return True
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def read(path: str) -> tuple[tensors.Tensors, dict]:
    """Opens a file.

    Returns:
        Its tensors, and everything else in it; both are named by their keys, joined with dots.

    Raises:
        errors.UserError: it is damaged or contains code.
    """
    with _reading(path):
        with open(path, "rb") as f:
            legacy = f.read(len(_LEGACY_MAGIC)) == _LEGACY_MAGIC
        if legacy:
            return _split(_load_legacy(path), lambda value: value)
        archive = zipfile.ZipFile(path)
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("no pickle")
        home = pickles[0][: -len("data.pkl")]
        if (
            f"{home}byteorder" in archive.NameToInfo
            and archive.read(f"{home}byteorder") != b"little"
        ):
            raise ValueError("big-endian")
        if archive.getinfo(pickles[0]).file_size > _MOST_PICKLE_BYTES:
            raise ValueError("an oversized pickle")
        content = _Unpickler(archive.read(pickles[0]), path).load()
        return _split(content, lambda stored: _entry(archive, home, stored, path))


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turns all errors of a damaged file into one sentence."""
    try:
        yield
    except errors.UserError:
        raise
    except FileNotFoundError as error:
        raise errors.UserError(
            f"A checkpoint must exist. Received: {path}, where there is nothing. Give "
            "the path of a .pth file."
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise errors.UserError(
            f"A PyTorch file must be whole. Received: {path}, which is cut short, damaged or of "
            "another kind. Copy it again."
        ) from error


class _Unpickler(pickle.Unpickler):
    """Reads dictionaries of tensors, and raises an error for anything else."""

    def __init__(self, data: bytes, path: str):
        super().__init__(io.BytesIO(data))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Returns our substitute for a known name; imports nothing."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise _CarriesCode(
            "A PyTorch file must hold tensors of usual types, by name, and no code. "
            f"Received: {self._path}, which asks for {module}.{name}. Save its state_dict() alone "
            "(float32), and only if you trust its origin."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the description of a record."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ValueError("an unknown record")
        return _Storage(dtype, str(key), int(count))


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Stored:
    stored = Stored(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    if len(stored.shape) != len(stored.strides) or min((0, offset, *stored.shape, *stored.strides)):
        raise ValueError("an impossible tensor")
    last = offset + sum((n - 1) * s for n, s in zip(stored.shape, stored.strides, strict=True))
    if all(stored.shape) and last >= storage.count:
        raise ValueError("a tensor outside of its record")
    return stored


def _rebuild_parameter(data: Stored, *_: Any) -> Stored:
    return data


def _entry(archive: zipfile.ZipFile, home: str, stored: Stored, path: str) -> tensors.Entry:
    """Returns the entry of a tensor, after checking the size of its record."""
    storage = stored.storage
    record = archive.getinfo(f"{home}data/{storage.key}")
    if record.file_size != storage.count * storage.dtype.itemsize:
        raise ValueError("a record of another size")
    if record.compress_type != zipfile.ZIP_STORED:
        raise ValueError("a compressed record")

    def read_one() -> np.ndarray:
        with _reading(path):
            values = np.frombuffer(archive.read(record), storage.dtype)
            steps = tuple(s * storage.dtype.itemsize for s in stored.strides)
            view = np.lib.stride_tricks.as_strided(
                values[stored.offset :], stored.shape, steps, writeable=False
            )
            return np.ascontiguousarray(view).reshape(stored.shape)

    return tensors.Entry(stored.shape, storage.dtype, read_one)


def _split(
    content: Any, entry: Callable[[Any], tensors.Entry]
) -> tuple[tensors.Tensors, dict[str, Any]]:
    """Flattens nested dictionaries; separates tensors from the rest."""
    entries: dict[str, tensors.Entry] = {}
    others: dict[str, Any] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, Mapping):
            for key, child in value.items():
                walk(child, (*path, str(key)))
        elif isinstance(value, Stored):
            entries[".".join(path)] = entry(value)
        elif isinstance(value, tensors.Entry):
            entries[".".join(path)] = value
        else:
            others[".".join(path)] = value

    if not isinstance(content, Mapping):
        raise ValueError("no dictionary")
    walk(content, ())
    return tensors.Tensors(entries), others


def _load_legacy(path: str) -> Any:
    """Reads a file of PyTorch before 1.6, as dictionaries of `tensors.Entry`."""
    torch = import_torch("Reading files of PyTorch before 1.6")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error) and "weights_only" not in str(error).lower():
            raise
        raise _CarriesCode(
            "A PyTorch file must hold tensors, by name, and no code. Received: "
            f"{path}, whose pickle does more. Save its state_dict() alone, and only if you "
            "trust its origin."
        ) from error

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: convert(child) for key, child in value.items()}
        if isinstance(value, torch.Tensor):
            return tensors.Entry.of(value.detach().numpy())
        return value

    return convert(content)


def import_torch(what: str) -> Any:
    """Imports PyTorch.

    Raises:
        errors.UserError: it is not installed; names `what` needs it.
    """
    try:
        import torch
    except ImportError as error:
        raise errors.UserError(
            f"{what} needs PyTorch. Received: a Python without it. Run pip install torch."
        ) from error
    return torch


def write(path: str, content: Mapping) -> None:
    """Writes dictionaries of `tensors.Entry`, strings and numbers, completely or not at all.

    Raises:
        errors.UserError: PyTorch is missing, the disk is full, or the path is not writable.
    """
    torch = import_torch("Writing PyTorch files")
    temporary = files.temporary(path)
    with files.writing(path, os.path.basename(path)):
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                pickler = _Pickler(torch)
                _write_record(archive, "data.pkl", pickler.pickle(content))
                _write_record(archive, "byteorder", b"little")
                for key, entry in enumerate(pickler.entries):
                    value = np.asarray(entry.read(), order="C")
                    if value.shape != tuple(entry.shape) or value.dtype != entry.dtype:
                        raise AssertionError("a tensor isn't what its entry says")
                    _write_record(archive, f"data/{key}", value.reshape(-1).view(np.uint8).data)
                _write_record(archive, "version", b"3\n")
            files.move(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            raise


def _write_record(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    assert archive.fp is not None
    info = zipfile.ZipInfo(f"archive/{name}")
    begin = archive.fp.tell() + 30 + len(info.filename) + 4
    padding = -begin % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    archive.writestr(info, data)


@dataclasses.dataclass(frozen=True)
class _Record:
    storage_class: type
    key: int
    count: int


class _Pickler:
    """Pickles entries as tensors, without reading them."""

    def __init__(self, torch: Any):
        self._torch = torch
        self._classes = {np.dtype(dtype): getattr(torch, name) for name, dtype in _DTYPES.items()}
        self.entries: list[tensors.Entry] = []

    def pickle(self, content: Mapping) -> bytes:
        """Returns the pickle; afterwards `entries` are the records, in order."""
        outer, buffer = self, io.BytesIO()

        class Pickler(pickle.Pickler):
            def persistent_id(self, value: Any) -> Any:
                if isinstance(value, _Record):
                    return "storage", value.storage_class, str(value.key), "cpu", value.count
                return None

            def reducer_override(self, value: Any) -> Any:
                return outer._reduce(value) if isinstance(value, tensors.Entry) else NotImplemented

        Pickler(buffer, protocol=2).dump(content)
        return buffer.getvalue()

    def _reduce(self, entry: tensors.Entry) -> tuple[Any, tuple]:
        shape = tuple(map(int, entry.shape))
        strides = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
        count = int(np.prod(shape, dtype=np.int64))
        record = _Record(self._classes[np.dtype(entry.dtype)], len(self.entries), count)
        self.entries.append(entry)
        hooks: collections.OrderedDict = collections.OrderedDict()
        arguments = (record, 0, shape, strides, False, hooks)
        return self._torch._utils._rebuild_tensor_v2, arguments
