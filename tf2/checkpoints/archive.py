"""Unpacks archives that others made: completely or not at all, and into one directory only."""

from __future__ import annotations

import errno
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable

from tf2 import errors, files

# Weights hardly compress: zip saves about a tenth. Small archives may hold anything.
MAX_RATIO = 100
SMALL_BYTES = 16 * 2**20
MAX_BYTES = 64 * 2**30  # the largest released network has 3.2 GB


def extract(path: str, directory: str) -> None:
    """Unpacks a .zip or .tar, completely or not at all; writes nothing outside of `directory`.

    Raises:
        errors.UserError: it is damaged, far larger than its file, or contains links or names that
            lead outside.
    """
    aside = f"{directory}.extracting"
    files.remove(aside)
    try:
        if path.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                check_names(archive.namelist(), path)
                check_sizes((info.file_size for info in archive.infolist()), path)
                archive.extractall(aside)  # writes as many bytes as the directory says, or raises
        else:
            with tarfile.open(path) as archive:
                check_sizes((member.size for member in archive), path)  # before it is read on
                members = archive.getmembers()
                check_names((m.name for m in members), path)
                special = next((m.name for m in members if not (m.isfile() or m.isdir())), None)
                if special is not None:
                    raise _unsafe(special, path)
                archive.extractall(aside, filter="data")
                # tarfile stops at the last member; gzip's checksum comes after it.
                while archive.fileobj.read(1 << 20):
                    pass
        files.replace_directory(aside, directory)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        ValueError,
        RuntimeError,  # an encrypted .zip; an unknown method (NotImplementedError) is one too
        OSError,
    ) as error:
        files.remove(aside)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(error, (errors.UserError, PermissionError, FileNotFoundError)):
            raise
        raise errors.UserError(
            f"An archive must be whole. Received: {path}, which is cut short or damaged. Download "
            "it again."
        ) from error
    except BaseException:
        files.remove(aside)
        raise


def check_names(names: Iterable[str], where: str) -> None:
    """Checks that no name leads out of the directory it is unpacked into.

    Raises:
        errors.UserError: names the first name that does.
    """
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
            raise _unsafe(name, where)


def check_sizes(sizes: Iterable[int], path: str) -> None:
    """Checks that what a file unpacks to is not far larger than the file.

    Args:
        sizes: of its parts, in bytes; they are added up only until they are too many.
        path: of the file.

    Raises:
        errors.UserError: they are.
    """
    size, total = os.path.getsize(path), 0
    limit = min(max(MAX_RATIO * size, SMALL_BYTES), MAX_BYTES)
    for part in sizes:
        total += part
        if total > limit:
            raise errors.UserError(
                f"A file of {size:,} bytes must not unpack to more than {limit:,}. Received: "
                f"{path}, with at least {total:,}. Don't use it."
            )


def _unsafe(name: str, where: str) -> errors.UserError:
    return errors.UserError(
        "An archive or folder must hold plain files, with names that stay inside it. Received: "
        f"{where}, with {name!r}. Don't use it."
    )
