"""The class of users' mistakes, and the messages of exceptions that are no bugs."""

from __future__ import annotations

import difflib
import itertools
import sys
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


class UserError(ValueError):
    """A user's mistake: a wrong flag, a missing file, a checkpoint of another architecture.

    The message holds the rule, `Received: name=value` and the remedy, in short sentences. The
    command line shows the message without a traceback.
    """


class DamagedFile(UserError):
    """A file of the program's own is not what it wrote."""


def choose(flag: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    """Returns the entry of a registry under a name.

    Raises:
        UserError: there is none; the message lists the names and the closest one.
    """
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(str(name).lower(), entries, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"{flag} must be one of {', '.join(entries)}. Received: {flag}={name}.{hint}")


def first_few(names: Collection[str], limit: int = 5) -> str:
    """Returns the first of some names for a message: "a, b, c and 7 more"."""
    more = len(names) - limit
    shown = ", ".join(itertools.islice(names, limit))
    return f"{shown} and {more:,} more" if more > 0 else shown


def sentence(error: BaseException) -> str | None:
    """Returns the message of an exception that needs no traceback.

    Args:
        error: an exception that was raised.

    Returns:
        The message of a user's mistake or of a fault of the machine (file not found, no permission,
        disk full, no network, out of memory); None for all other exceptions, which are bugs.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return _os_sentence(error)
    if isinstance(error, MemoryError):
        return "Not enough memory: use a smaller batch size or image size."
    return _tensorflow_sentence(error)


def _os_sentence(error: OSError) -> str:
    if error.strerror is None:
        return _first_line(str(error)) or type(error).__name__
    if error.filename is None:
        return f"{error.strerror}."
    return f"{error.strerror}: {error.filename}"


def _tensorflow_sentence(error: Any) -> str | None:
    # TensorFlow is not imported here; if nobody has imported it, it has not raised this error.
    tensorflow = sys.modules.get("tensorflow")
    kinds: Any = getattr(tensorflow, "errors", None)
    if kinds is None:
        return None
    faults_of_the_machine = (
        kinds.NotFoundError,
        kinds.PermissionDeniedError,
        kinds.DataLossError,
        kinds.ResourceExhaustedError,
        kinds.UnavailableError,
    )
    if not isinstance(error, faults_of_the_machine):
        return None
    text = error.message.removeprefix("Graph execution error:")
    message = _first_line(text) or type(error).__name__
    if isinstance(error, kinds.UnavailableError) and "/job:worker" in text:
        return (
            "A worker of this run has ended or cannot be reached. Start all workers again: the run "
            "resumes from its newest checkpoint."
        )
    if "OOM" in message:
        return f"Out of memory: use a smaller batch size or image size ({message})"
    return message


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
