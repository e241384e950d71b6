"""Networks on the Hugging Face Hub: `hf://user/name`, with `@revision` for a branch, tag or commit.

A repository holds model.safetensors, model.json and README.md; only the first two are read, and
neither can hold code. huggingface_hub (extra `hub`) downloads them into its cache, with the token
of the user's login, which this program never sees. The weights then become a checkpoint in our own
cache, one directory per commit.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf2 import errors
from tf2.checkpoints import checkpoint, layouts, model_json, safetensors_reader

PREFIX = "hf://"
WEIGHTS_FILE = "model.safetensors"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def parse(address: str) -> tuple[str, str | None]:
    """Returns the repository, user/name, and the revision of an address, None for the newest.

    Raises:
        errors.UserError: it has another form.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise errors.UserError(
            "A network on the Hub is hf://user/name, or hf://user/name@revision. Received: "
            f"{address}. Correct the address."
        )
    return match[1], match[2]


def library() -> Any:
    """Imports huggingface_hub.

    Raises:
        errors.UserError: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise errors.UserError(
            "The Hugging Face Hub is reached through huggingface_hub. Received: a Python without "
            "it. Run `pip install 'simclr-tf2[hub]'`."
        ) from error


@contextlib.contextmanager
def asking(address: str) -> Iterator[None]:
    """Turns the Hub's errors into one sentence, which quotes none of their text.

    Raises:
        errors.UserError: it is not reachable, or has nothing for this user under the address.
    """
    library()
    found = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except found.LocalEntryNotFoundError:
        raise _unreachable(address) from None
    except (found.HfHubHTTPError, found.EntryNotFoundError, found.HFValidationError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"{type(error).__name__}, HTTP {status}" if status else type(error).__name__
        raise errors.UserError(
            f"The Hub must have the repository, and let this user in. Received: {address} "
            f"({reason}). Check the address and the revision; a private repository needs "
            "`hf auth login` or HF_TOKEN."
        ) from None
    except OSError:
        raise _unreachable(address) from None


def _unreachable(address: str) -> errors.UserError:
    return errors.UserError(
        f"The Hub must be reachable, or have been once. Received: {address}, which is not in its "
        "cache. Connect, or set HF_ENDPOINT to a mirror."
    )


def download(address: str, cache: str) -> str:
    """Returns the directory of a network's checkpoint; downloads it unless it is there already.

    Args:
        address: see `parse`.
        cache: the directory of downloads.

    Raises:
        errors.UserError: the Hub fails, or the files are not those of a network.
    """
    repository, revision = parse(address)
    hub = library()
    with asking(address):
        described = hub.hf_hub_download(repository, model_json.FILE_NAME, revision=revision)
        commit = os.path.basename(os.path.dirname(described))
        weights = hub.hf_hub_download(repository, WEIGHTS_FILE, revision=commit)
    directory = os.path.join(cache, f"hf_{repository.replace('/', '_')}_{commit}")
    if not os.path.isdir(directory):
        metadata = model_json.read_model_json(os.path.dirname(described)) or {}
        arrays = _checked(safetensors_reader.read_arrays(weights), metadata, address)
        os.makedirs(cache, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            finished = os.path.join(aside, "network")
            os.mkdir(finished)
            step = metadata["global_step"]
            contents = {
                "model": {name: tf.Variable(value) for name, value in arrays.items()},
                "global_step": tf.Variable(step, dtype=tf.int64),
            }
            model_json.write_model_json(finished, {**metadata, "source": address})
            checkpoint.Saver(finished, contents).save(step)
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(finished, directory)
    return directory


def _checked(arrays: dict[str, np.ndarray], metadata: dict, address: str) -> dict[str, np.ndarray]:
    """Returns the weights, after checking that they are those of the network in model.json.

    Raises:
        errors.UserError: they are not.
    """
    try:
        wanted = {n: (s, "float32") for n, s in layouts.weights(metadata["architecture"]).items()}
        whole = type(metadata["global_step"]) is int and metadata["preprocessing"] is not None
    except (TypeError, ValueError, KeyError, ArithmeticError, AttributeError):
        wanted, whole = {}, False
    if not whole or {n: (v.shape, v.dtype.name) for n, v in arrays.items()} != wanted:
        raise errors.UserError(
            "A repository must hold the weights of the network that its model.json describes. "
            f"Received: {address}, where they differ. Ask its author to push it again."
        )
    return arrays
