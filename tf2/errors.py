"""What a user did wrong, and how it is told: one sentence, no traceback."""

import sys


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
