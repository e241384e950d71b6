"""Unpacks archives that others made: completely or not at all, and into one directory only."""

from __future__ import annotations

import errno
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable

from tf2 import errors, files


def extract(path: str, directory: str) -> None:
    """Unpacks a .zip or .tar, completely or not at all; writes nothing outside of `directory`.

    Raises:
        errors.UserError: it is damaged, or contains links or names that lead outside.
    """
    aside = f"{directory}.extracting"
    files.remove(aside)
    try:
        if path.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                check_names(archive.namelist(), path)
                archive.extractall(aside)
        else:
            with tarfile.open(path) as archive:
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


def _unsafe(name: str, where: str) -> errors.UserError:
    return errors.UserError(
        "An archive or folder must hold plain files, with names that stay inside it. Received: "
        f"{where}, with {name!r}. Don't use it."
    )
