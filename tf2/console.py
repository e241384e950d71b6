"""What reaches the user: our own lines and warnings, not TensorFlow's notes to itself."""

from __future__ import annotations

import contextlib
import logging as stdlib_logging
import os
import re
import sys
import tempfile

_HERE = os.path.dirname(os.path.abspath(__file__))
# Before TensorFlow is imported. Its C++ code calls a missing GPU an error (level 2) at every start;
# what stops a run arrives as an exception too. Who sets the variable sees everything as it comes.
_QUIET = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What it writes all the same while it is imported: glog's information lines.
_CHATTER = re.compile(r"I\d{4} |WARNING: All log messages before absl::InitializeLog")
from absl import logging  # noqa: E402


def quiet() -> None:
    """Imports TensorFlow without what it writes for itself, and holds that back from then on.

    For a notebook or a script, before anything else; the programs do so too. Warnings are shown,
    and with TF_CPP_MIN_LOG_LEVEL set everything is.
    """
    logging.use_absl_handler()
    quiet_logs()
    with importing():
        import tensorflow  # noqa: F401


def importing():
    """Returns a context to import TensorFlow in: `without_chatter`, unless the user wants all."""
    return without_chatter() if _QUIET else contextlib.nullcontext()


def quiet_logs():
    """Makes log lines plain, and drops what TensorFlow notes for itself."""
    logging.get_absl_handler().setFormatter(_LogFormatter())
    logging.get_absl_handler().addFilter(_is_worth_showing)


class _LogFormatter(stdlib_logging.Formatter):
    """Plain lines: the message alone, and from warnings on their level before it."""

    def format(self, record):
        message = super().format(record)
        if record.levelno < stdlib_logging.WARNING:
            return message
        return f"{record.levelname.capitalize()}: {message}"


def _is_worth_showing(record):
    """Drops what TensorFlow notes for itself; from warnings on, everything else is shown."""
    if "triggered tf.function retracing" in record.getMessage():
        return False  # each run of several in one process has graphs of its own
    return record.levelno >= stdlib_logging.WARNING or record.pathname.startswith(_HERE)


@contextlib.contextmanager
def without_chatter():
    """Holds back what is written to stderr inside the block; tells it afterwards, sifted."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not _CHATTER.match(line):
                    print(line, file=sys.stderr)
