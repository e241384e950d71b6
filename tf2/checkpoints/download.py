"""Downloads released networks: resumed where they broke off, checked, whole or not at all.

A gs:// address is read over https from storage.googleapis.com, as anyone can. SIMCLR_MIRROR names
another server with the same paths (`MIRROR/BUCKET/PATH`); SIMCLR_CACHE names the directory that
downloads go to, ~/.cache/simclr-tf2 by default.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import tqdm

from tf2 import errors, files
from tf2.checkpoints import archive, catalog, model_json

SERVER = "https://storage.googleapis.com"
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_ATTEMPTS = 4
_TIMEOUT_SECONDS = 30
_CHUNK = 2**20  # bytes
# What a checkpoint's folder holds beside weights, and nothing here reads.
_UNUSED = re.compile(r".*\.meta|graph\.pbtxt|events\..*|hub/.*|eval.*|export/.*")


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file to download.

    Attributes:
        url: where it is.
        name: relative path to store it under.
        size: in bytes; None where it isn't known beforehand.
        md5: 16 bytes; None where it isn't recorded.
    """

    url: str
    name: str
    size: int | None = None
    md5: bytes | None = None


def local_path(checkpoint: str) -> str:
    """Returns where a checkpoint is: a path as it is, a name of the catalog downloaded if need be.

    Raises:
        errors.UserError: nearly a name of the catalog; or see `download`.
    """
    if os.path.exists(checkpoint) or os.path.exists(f"{checkpoint}.index"):
        return checkpoint
    if checkpoint in catalog.RELEASES:
        return download(checkpoint)
    similar = catalog.nearest(checkpoint)
    if similar:
        raise errors.UserError(
            "A checkpoint must be a path or a name of the catalog. Received: "
            f"{checkpoint}, which is neither; near it are {', '.join(similar)}. "
            "python -m checkpoints_tools.catalog lists all names."
        )
    return checkpoint


def download(name: str, directory: str | None = None, *, saved_model: bool = False) -> str:
    """Downloads a released network, unless it is there already.

    Args:
        name: of the catalog, or a gs:// or https:// address of a folder (gs:// only), file or
            archive.
        directory: where to put it; a subdirectory of the cache by default.
        saved_model: take the SavedModel made for TF2 instead of the TF1 checkpoint.

    Returns:
        A path that `--checkpoint` takes.

    Raises:
        errors.UserError: the name is unknown, the server or the disk refuses, or what came isn't
            what was sent.
    """
    release = catalog.RELEASES.get(name)
    address = (
        release.saved_model if release and saved_model else release.address if release else name
    )
    if address is None or not re.match(r"(gs|https?)://[^/]+/.", address):
        raise errors.UserError(
            "What is downloaded must be a name of the catalog or a gs:// or https:// address. "
            f"Received: {name}{' as a SavedModel' if saved_model else ''}. "
            "python -m checkpoints_tools.catalog lists all names."
        )
    folder = re.sub(r"[^\w.-]+", "_", name) + ("_saved_model" if release and saved_model else "")
    directory = os.path.expanduser(directory or os.path.join(cache(), folder))
    done = os.path.join(directory, ".complete")
    if not os.path.exists(done):
        if os.path.exists(directory) and (os.path.isfile(directory) or os.listdir(directory)):
            raise errors.UserError(
                "A download needs a directory of its own. Received: "
                f"{directory}, where there is something already. Choose another one."
            )
        aside = f"{directory}.part"
        with _writing(directory, aside):
            os.makedirs(aside, exist_ok=True)
            found = _fetch_all(address, aside, release.step if release else None)
            if release:
                metadata = {"format": model_json.FORMAT, **release.metadata, "source": address}
                with open(os.path.join(aside, found, model_json.FILE_NAME), "w") as f:
                    json.dump(metadata, f, indent=2)
            with open(os.path.join(aside, ".complete"), "w") as f:
                f.write(found)
            files.replace_directory(aside, directory)
    with open(done) as f:
        return os.path.normpath(os.path.join(directory, f.read()))


def cache() -> str:
    """Returns the directory of downloads."""
    return os.path.expanduser(os.environ.get("SIMCLR_CACHE") or "~/.cache/simclr-tf2")


def _fetch_all(address: str, aside: str, step: int | None) -> str:
    """Downloads into a directory; returns the part of it that holds the checkpoint."""
    if address.startswith("gs://"):
        for remote in _listed(address, step):
            fetch(remote, os.path.join(aside, remote.name))
        return "."
    name = os.path.basename(urllib.parse.urlparse(address).path)
    path = os.path.join(aside, name)
    fetch(Remote(_mirrored(address), name), path)
    if not name.endswith(_ARCHIVES):
        return name
    archive.extract(path, os.path.join(aside, "content"))
    os.remove(path)
    for home, _, names in sorted(os.walk(os.path.join(aside, "content"))):
        if "saved_model.pb" in names or any(n.endswith(".index") for n in names):
            return os.path.relpath(home, aside)
    raise errors.UserError(
        f"An archive must hold a checkpoint or a SavedModel. Received: {address}, which has "
        "neither. Choose another address."
    )


def _mirrored(address: str) -> str:
    """Returns the https address, or the mirror's."""
    if address.startswith("gs://"):
        address = f"{SERVER}/{address.removeprefix('gs://')}"
    mirror = os.environ.get("SIMCLR_MIRROR")
    if mirror and address.startswith(f"{SERVER}/"):
        address = mirror.rstrip("/") + address.removeprefix(SERVER)
    return address


def _listed(address: str, step: int | None) -> list[Remote]:
    """Lists the files of a folder in a bucket that belong to its checkpoint or SavedModel."""
    bucket, _, prefix = address.removeprefix("gs://").partition("/")
    prefix = prefix.rstrip("/") + "/"
    query = urllib.parse.urlencode({"prefix": prefix, "maxResults": 1000})
    base = _mirrored(f"gs://{bucket}/{prefix}")
    try:
        with _open(_mirrored(f"{SERVER}/storage/v1/b/{bucket}/o?{query}")) as response:
            items = json.load(response).get("items", [])
        listed = [
            Remote(
                urllib.parse.urljoin(base, urllib.parse.quote(item["name"][len(prefix) :])),
                item["name"][len(prefix) :],
                int(item["size"]),
                base64.b64decode(item["md5Hash"]) if "md5Hash" in item else None,
            )
            for item in items
        ]
    except (urllib.error.HTTPError, ValueError, KeyError, AttributeError, TypeError):
        listed = _named_by_state(base, step)  # a mirror of plain files lists nothing
    wanted = [
        r for r in listed if r.name and not r.name.endswith("/") and not _UNUSED.match(r.name)
    ]
    archive.refuse_unsafe((remote.name for remote in wanted), address)
    if not any(r.name.endswith((".index", "saved_model.pb")) for r in wanted):
        raise errors.UserError(
            f"A folder must hold a checkpoint or a SavedModel. Received: {address}, which has "
            "neither, or can't be listed. Check the address and SIMCLR_MIRROR."
        )
    return wanted


def _named_by_state(base: str, step: int | None) -> list[Remote]:
    """Finds a checkpoint's files by the file `checkpoint`, which names the newest, or its step."""
    try:
        with _open(f"{base}checkpoint") as response:
            text = response.read(2**16).decode()
    except (urllib.error.HTTPError, UnicodeDecodeError):
        text = f'model_checkpoint_path: "model.ckpt-{step}"' if step else ""
    match = re.search(r'^model_checkpoint_path: "(?:.*/)?([^"/]+)"', text, re.M)
    names = [f"{match[1]}.index", f"{match[1]}.data-00000-of-00001"] if match else []
    return [Remote(base + urllib.parse.quote(name), name) for name in names]


def fetch(remote: Remote, path: str) -> None:
    """Downloads one file, from where an earlier attempt broke off.

    Raises:
        errors.UserError: the server doesn't answer or has no such file, or the content's size or
            hash isn't what was announced.
    """
    if os.path.exists(path):  # whole: nothing gets this name before it was checked
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may fetch the same file
        try:
            if not os.path.exists(path):
                _fetch(remote, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(lock.name)


def _fetch(remote: Remote, path: str) -> None:
    part, failure = f"{path}.part", None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(min(2.0**attempt, 8) * _WAIT_SECONDS)
        try:
            size, md5 = _continue(remote, part)
        except urllib.error.HTTPError as error:
            failure = f"the server says {error.code} {error.reason}"
            if error.code in (429, 500, 502, 503, 504):
                continue
            break
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            TimeoutError,
            ConnectionError,
        ) as error:
            failure = str(getattr(error, "reason", error)) or type(error).__name__
            continue
        there = os.path.getsize(part)
        if size is not None and there < size:
            failure = f"{there:,} of {size:,} bytes came"
            continue
        if (size is not None and there > size) or (md5 and _md5(part) != md5):
            os.remove(part)
            failure = "the content isn't what the server has recorded (size or hash)"
            continue
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{part}.etag")
        os.replace(part, path)
        return
    raise errors.UserError(
        f"A download must come whole. Received: {remote.url}, where {failure}. Run the command "
        "again to go on from there, or set SIMCLR_MIRROR to another server."
    )


_WAIT_SECONDS = 1.0  # a test's server needs no waiting


def _continue(remote: Remote, part: str) -> tuple[int | None, bytes | None]:
    """Appends what is missing to a partial file; returns the whole's size and MD5, if known."""
    begin = os.path.getsize(part) if os.path.exists(part) else 0
    etag = _read(f"{part}.etag") if begin else None
    headers = {"Range": f"bytes={begin}-", "If-Range": etag} if etag else {}
    try:
        response = _open(remote.url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # there is nothing after what we have
            raise
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        return (int(total[1]) if total else remote.size), remote.md5
    with response:
        if response.status != 206:
            begin = 0
        length = response.headers.get("Content-Length")
        size = begin + int(length) if length else remote.size
        if remote.size is not None and size != remote.size:
            size = remote.size
        # One header for each kind of hash.
        hashes = ",".join(response.headers.get_all("x-goog-hash") or ())
        recorded = re.search(r"md5=([\w+/]{22}==)", hashes)
        md5 = remote.md5 or (base64.b64decode(recorded[1]) if recorded else None)
        free = shutil.disk_usage(os.path.dirname(part)).free
        if size is not None and size - begin > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), part)
        if response.headers.get("ETag"):
            with open(f"{part}.etag", "w") as f:
                f.write(response.headers["ETag"])
        with open(part, "ab" if begin else "wb") as f, _bar(remote.name, size, begin) as bar:
            while chunk := response.read(_CHUNK):
                f.write(chunk)
                bar.update(len(chunk))
    return size, md5


def _open(url: str, headers: dict | None = None):
    request = urllib.request.Request(url, headers={"User-Agent": "simclr-tf2", **(headers or {})})
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError:
        raise
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise urllib.error.URLError(f"there is no answer ({reason})") from error


def _bar(name: str, size: int | None, begin: int):
    """Shows bytes, rate and time left: a bar on a terminal, a line every few seconds elsewhere."""
    terminal = sys.stderr.isatty()
    return tqdm.tqdm(
        total=size, initial=begin, unit="B", unit_scale=True, desc=name, delay=2,
        mininterval=0.1 if terminal else 5, file=sys.stderr if terminal else _Lines(),
    )  # fmt: skip


class _Lines:
    """A stream for tqdm that ends each of its updates as a line."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def _md5(path: str) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as f:
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()


def _read(path: str) -> str | None:
    if not os.path.exists(path):
        return None
    with open(path) as f:
        return f.read()


@contextlib.contextmanager
def _writing(directory: str, aside: str) -> Iterator[None]:
    """Says in one sentence that the disk or the network refuses."""
    try:
        yield
    except urllib.error.URLError as error:
        raise errors.UserError(
            f"A download needs a network. Received: {directory}, for which {error.reason}. "
            "Connect, or set SIMCLR_MIRROR to a server that can be reached."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            files.remove(aside)
            raise errors.UserError(
                f"A download needs space, and too little is left. Received: {directory}. Free "
                "some space, or set SIMCLR_CACHE to another disk."
            ) from error
        raise errors.UserError(
            f"A download needs a directory that can be written to. Received: {directory} "
            f"({error.strerror}). Set SIMCLR_CACHE to another one."
        ) from error
