"""What a user did wrong, and how it is told: one sentence, no traceback."""

import os
import sys
import traceback

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


class UserError(ValueError):
    """A mistake of the user's: wrong flag, missing file, unfitting checkpoint.

    The message is one sentence with the rule, `Received: name=value` and the
    remedy. The command line shows the message and nothing else.
    """


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
    # By our rule a `raise ValueError` in this package is a user's mistake (assert
    # is for bugs). One from below us, or from a call such as int(...), is a bug.
    if isinstance(error, ValueError) and _raised_by_us(error):
        return str(error)
    return _tensorflow_sentence(error)


def _os_sentence(error):
    if error.strerror is None:
        return _first_line(str(error)) or type(error).__name__
    if error.filename is None:
        return f"{error.strerror}."
    return f"{error.strerror}: {error.filename}"


def _raised_by_us(error):
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    inside = os.path.abspath(frames[-1].filename).startswith(_PACKAGE + os.sep)
    return inside and (frames[-1].line or "").startswith("raise ")


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
