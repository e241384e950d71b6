"""What a user did wrong, and how it is told: one sentence, no traceback."""

import difflib
import sys
from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


class UserError(ValueError):
    """A mistake of the user's: wrong flag, missing file, unfitting checkpoint.

    The message is one sentence with the rule, `Received: name=value` and the
    remedy. The command line shows the message and nothing else.
    """


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


def sentence(error):
    """Says what to tell the user about an exception.

    Args:
      error: an exception that was raised and caught.

    Returns:
      One sentence for a mistake of the user's or a fault of the machine (no such
      file, no permission, disk full, no network, out of memory); None for anything
      else, which is a bug of ours and deserves its traceback.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return _os_sentence(error)
    if isinstance(error, MemoryError):
        return "Not enough memory: use a smaller batch size or image size."
    return _tensorflow_sentence(error)


def _os_sentence(error):
    if error.strerror is None:
        return _first_line(str(error)) or type(error).__name__
    if error.filename is None:
        return f"{error.strerror}."
    return f"{error.strerror}: {error.filename}"


def _tensorflow_sentence(error):
    # If TensorFlow was never imported, it did not raise this.
    tensorflow = sys.modules.get("tensorflow")
    kinds = getattr(tensorflow, "errors", None)
    if kinds is None:
        return None
    outside = (
        kinds.NotFoundError,
        kinds.PermissionDeniedError,
        kinds.DataLossError,
        kinds.ResourceExhaustedError,
        kinds.UnavailableError,
    )
    if not isinstance(error, outside):
        return None
    message = _first_line(error.message) or type(error).__name__
    if "OOM" in message:
        return f"Out of memory: use a smaller batch size or image size ({message})"
    return message


def _first_line(text):
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
