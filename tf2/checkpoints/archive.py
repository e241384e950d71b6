"""Unpacks archives of others: whole or not at all, and never outside of one directory."""

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
    """Unpacks a .zip or .tar, whole or not at all; nothing outside of `directory` is touched.

    Raises:
        errors.UserError: it is damaged, or holds links or names that lead outside.
    """
    aside = f"{directory}.extracting"
    files.remove(aside)
    try:
        if path.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                refuse_unsafe(archive.namelist(), path)
                archive.extractall(aside)
        else:
            with tarfile.open(path) as archive:
                members = archive.getmembers()
                refuse_unsafe((m.name for m in members), path)
                odd = next((m.name for m in members if not (m.isfile() or m.isdir())), None)
                if odd is not None:
                    raise _unsafe(odd, path)
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
        RuntimeError,  # an encrypted .zip; NotImplementedError, an unknown method, is one too
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


def refuse_unsafe(names: Iterable[str], where: str) -> None:
    """Refuses names that lead out of the directory that they are put under.

    Raises:
        errors.UserError: names the first of them.
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
