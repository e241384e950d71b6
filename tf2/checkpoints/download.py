"""Downloads released networks into a cache, completely or not at all.

A gs:// address is read over https from storage.googleapis.com, as anyone can. SIMCLR_MIRROR names
another server with the same paths (`MIRROR/BUCKET/PATH`); SIMCLR_CACHE names the directory that
downloads go to, ~/.cache/simclr-tf2 by default.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from tf2 import errors, files
from tf2.checkpoints import archive, catalog, fetch, hub, model_json

SERVER = "https://storage.googleapis.com"
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
# Files in a checkpoint's folder that nothing here reads.
_UNUSED = re.compile(r".*\.meta|graph\.pbtxt|events\..*|hub/.*|eval.*|export/.*")


def local_path(checkpoint: str) -> str:
    """Returns the path of a checkpoint; downloads what is in the catalog or on the Hub (hf://).

    Raises:
        errors.UserError: the name resembles one of the catalog; or see `download` and
            `hub.download`.
    """
    if os.path.exists(checkpoint) or os.path.exists(f"{checkpoint}.index"):
        return checkpoint
    if checkpoint.startswith(hub.PREFIX):
        return hub.download(checkpoint, cache())
    if checkpoint in catalog.RELEASES:
        return download(checkpoint)
    if catalog.nearest(checkpoint):
        raise catalog.unknown(checkpoint)
    return checkpoint


def download(name: str, directory: str | None = None, *, saved_model: bool = False) -> str:
    """Downloads a released network, unless it was downloaded before.

    Args:
        name: of the catalog, or a gs:// or https:// address of a folder (gs:// only), file or
            archive.
        directory: where to put it; a subdirectory of the cache by default.
        saved_model: download the SavedModel for TF2 instead of the TF1 checkpoint.

    Returns:
        A path that `--checkpoint` takes.

    Raises:
        errors.UserError: the name is unknown, the server or the disk fails, or the content is
            damaged.
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
            home = _fetch_all(address, aside, release.step if release else None)
            if release and release.metadata:
                metadata = {"format": model_json.FORMAT, **release.metadata, "source": address}
                with open(os.path.join(aside, home, model_json.FILE_NAME), "w") as f:
                    json.dump(metadata, f, indent=2)
            with open(os.path.join(aside, ".complete"), "w") as f:
                f.write(home)
            files.replace_directory(aside, directory)
    with open(done) as f:
        return os.path.normpath(os.path.join(directory, f.read()))


def cache() -> str:
    """Returns the directory of downloads."""
    return os.path.expanduser(os.environ.get("SIMCLR_CACHE") or "~/.cache/simclr-tf2")


def _fetch_all(address: str, aside: str, step: int | None) -> str:
    """Downloads into a directory; returns the relative path of the checkpoint in it."""
    if address.startswith("gs://"):
        for remote in _list_files(address, step):
            fetch.fetch(remote, os.path.join(aside, remote.name))
        return "."
    name = os.path.basename(urllib.parse.urlparse(address).path)
    path = os.path.join(aside, name)
    fetch.fetch(fetch.Remote(_mirrored(address), name), path)
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


def _list_files(address: str, step: int | None) -> list[fetch.Remote]:
    """Lists the files of a folder in a bucket that belong to its checkpoint or SavedModel."""
    bucket, _, prefix = address.removeprefix("gs://").partition("/")
    prefix = prefix.rstrip("/") + "/"
    query = urllib.parse.urlencode({"prefix": prefix, "maxResults": 1000})
    base = _mirrored(f"gs://{bucket}/{prefix}")
    try:
        with fetch.open_url(_mirrored(f"{SERVER}/storage/v1/b/{bucket}/o?{query}")) as response:
            items = json.load(response).get("items", [])
        listed = [
            fetch.Remote(
                urllib.parse.urljoin(base, urllib.parse.quote(item["name"][len(prefix) :])),
                item["name"][len(prefix) :],
                int(item["size"]),
                base64.b64decode(item["md5Hash"]) if "md5Hash" in item else None,
            )
            for item in items
        ]
    except (urllib.error.HTTPError, ValueError, KeyError, AttributeError, TypeError):
        listed = _files_without_listing(base, step)  # a mirror of plain files has no listing
    wanted = [
        r for r in listed if r.name and not r.name.endswith("/") and not _UNUSED.match(r.name)
    ]
    archive.check_names((remote.name for remote in wanted), address)
    if not any(r.name.endswith((".index", "saved_model.pb")) for r in wanted):
        raise errors.UserError(
            f"A folder must hold a checkpoint or a SavedModel. Received: {address}, which has "
            "neither, or can't be listed. Check the address and SIMCLR_MIRROR."
        )
    return wanted


def _files_without_listing(base: str, step: int | None) -> list[fetch.Remote]:
    """Returns a checkpoint's files: of the newest in the file `checkpoint`, or of its step."""
    try:
        with fetch.open_url(f"{base}checkpoint") as response:
            text = response.read(2**16).decode()
    except (urllib.error.HTTPError, UnicodeDecodeError):
        text = f'model_checkpoint_path: "model.ckpt-{step}"' if step else ""
    match = re.search(r'^model_checkpoint_path: "(?:.*/)?([^"/]+)"', text, re.M)
    names = [f"{match[1]}.index", f"{match[1]}.data-00000-of-00001"] if match else []
    return [fetch.Remote(base + urllib.parse.quote(name), name) for name in names]


@contextlib.contextmanager
def _writing(directory: str, aside: str) -> Iterator[None]:
    """Turns errors of the disk and the network into one sentence."""
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
