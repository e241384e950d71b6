"""Downloads one file: resumes it, checks size and hash, leaves all of it or nothing."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import hashlib
import http.client
import ipaddress
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import tqdm

from tf2 import errors
from tf2.checkpoints import file_lock

_ATTEMPTS = 4
_WAIT_SECONDS = 1.0  # before the first retry
_TIMEOUT_SECONDS = 30
_CHUNK = 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file to download.

    Attributes:
        url: where it is.
        name: relative path to store it under.
        size: in bytes; None if unknown.
        md5: 16 bytes; None if unknown.
    """

    url: str
    name: str
    size: int | None = None
    md5: bytes | None = None


def fetch(remote: Remote, path: str) -> None:
    """Downloads one file, or the rest of it after an interrupted attempt.

    Raises:
        errors.UserError: the server does not respond or has no such file, the content's size or
            hash is wrong or neither is known, or see `open_url`.
    """
    if os.path.exists(path):  # complete: a file gets this name once it is checked
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with file_lock.locked(f"{path}.lock"):  # another process may fetch the same file
        if not os.path.exists(path):
            _fetch(remote, path)


def _fetch(remote: Remote, path: str) -> None:
    part, failure = f"{path}.part", ""
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
        received = os.path.getsize(part)
        if size is not None and received < size:
            failure = f"{received:,} of {size:,} bytes came"
            continue
        if (size is not None and received > size) or (md5 and _md5(part) != md5):
            os.remove(part)
            failure = "the content isn't what the server has recorded (size or hash)"
            continue
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{part}.etag")
        os.replace(part, path)
        return
    raise errors.UserError(
        f"A download must come whole. Received: {remote.url}, where {failure}. Run the command "
        "again to resume it, or set SIMCLR_MIRROR to another server."
    )


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _is_same_site(one: str, other: str) -> bool:
    """Whether two hosts are the same, or one is a subdomain of the other."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return one == other or ("." in shorter and longer.endswith(f".{shorter}"))


def check_url(url: str) -> None:
    """Checks that what comes from a URL can't be changed on its way.

    Raises:
        errors.UserError: it isn't https, nor of this machine.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise errors.UserError(
            "A download is by https, so that nobody can change it on its way; by http from this "
            f"machine alone. Received: {url}. Use an https:// address, also in SIMCLR_MIRROR."
        )


class _SameSite(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the same host, its subdomains and its parent domain, by https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        begin, end = (urllib.parse.urlsplit(url) for url in (req.full_url, newurl))
        to_http = end.scheme != "https" and begin.scheme == "https"
        if to_http or not _is_same_site(begin.hostname or "", end.hostname or ""):
            raise errors.UserError(
                "A download is redirected within its site only, and never from https to http. "
                f"Received: {req.full_url}, redirected to {newurl}. Give that address itself if "
                "you trust it."
            )
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _continue(remote: Remote, part: str) -> tuple[int | None, bytes | None]:
    """Appends the missing bytes to a partial file; returns the total size and MD5, if known."""
    begin = os.path.getsize(part) if os.path.exists(part) else 0
    etag = _read(f"{part}.etag") if begin else None
    headers = {"Range": f"bytes={begin}-", "If-Range": etag} if etag else {}
    try:
        response = open_url(remote.url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # there are no bytes after ours
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
        if size is None and md5 is None:
            raise errors.UserError(
                "A download needs a size or a hash, which show that all of it came. Received: "
                f"{remote.url}, for which the server names neither. Use another server, or copy "
                "the file yourself."
            )
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


def open_url(url: str, headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
    """Sends a request.

    Raises:
        urllib.error.URLError: the server cannot be reached, or responds with an error (HTTPError).
        errors.UserError: the address isn't https, or is redirected to another site.
    """
    check_url(url)
    request = urllib.request.Request(url, headers={"User-Agent": "simclr-tf2", **(headers or {})})
    try:
        return urllib.request.build_opener(_SameSite).open(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError:
        raise
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise urllib.error.URLError(f"no response ({reason})") from error


def _bar(name: str, size: int | None, begin: int) -> tqdm.tqdm:
    """Shows bytes, rate and time left: a bar on a terminal, otherwise a line every few seconds."""
    terminal = sys.stderr.isatty()
    return tqdm.tqdm(
        total=size, initial=begin, unit="B", unit_scale=True, desc=name, delay=2,
        mininterval=0.1 if terminal else 5, file=sys.stderr if terminal else _Lines(),
    )  # fmt: skip


class _Lines:
    """A stream for tqdm that prints each of its updates as a line."""

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
