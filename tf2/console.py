"""Console output: our own lines and all warnings, without TensorFlow's internal messages."""

from __future__ import annotations

import contextlib
import logging as stdlib_logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence

_HERE = os.path.dirname(os.path.abspath(__file__))
# Set before TensorFlow is imported. Its C++ code logs a missing GPU as an error (level 2) at every
# start; errors that stop a run are raised as exceptions as well. A user who sets the variable sees
# everything.
_QUIET = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What it still writes during the import: glog's information lines.
_INTERNAL = re.compile(r"I\d{4} |WARNING: All log messages before absl::InitializeLog")
from absl import logging  # noqa: E402


def quiet() -> None:
    """Imports TensorFlow and hides its internal messages, now and later.

    Call it first in a notebook or script; the command line does the same. Warnings are still shown.
    If TF_CPP_MIN_LOG_LEVEL is set, everything is.
    """
    logging.use_absl_handler()
    quiet_logs()
    with quiet_import():
        import tensorflow  # noqa: F401


def quiet_import() -> contextlib.AbstractContextManager[None]:
    """Returns the context to import TensorFlow in: `filtered_stderr`, or none if all is wanted."""
    return filtered_stderr() if _QUIET else contextlib.nullcontext()


def quiet_logs() -> None:
    """Sets a plain log format and filters out TensorFlow's internal messages."""
    logging.get_absl_handler().setFormatter(_LogFormatter())
    logging.get_absl_handler().addFilter(_is_shown)


class _LogFormatter(stdlib_logging.Formatter):
    """Formats a record as its message, after the level if that is warning or higher."""

    def format(self, record: stdlib_logging.LogRecord) -> str:
        message = super().format(record)
        if record.levelno < stdlib_logging.WARNING:
            return message
        return f"{record.levelname.capitalize()}: {message}"


def _is_shown(record: stdlib_logging.LogRecord) -> bool:
    """Returns whether a record is a warning or comes from this package."""
    if "triggered tf.function retracing" in record.getMessage():
        return False  # several runs in one process have a graph each
    return record.levelno >= stdlib_logging.WARNING or record.pathname.startswith(_HERE)


@contextlib.contextmanager
def hidden_stderr() -> Iterator[None]:
    """Discards what libraries write to stderr inside the block, unless everything is wanted."""
    with open(os.devnull, "wb") as nowhere:
        with _stderr_to(nowhere.fileno()) if _QUIET else contextlib.nullcontext():
            yield


@contextlib.contextmanager
def filtered_stderr() -> Iterator[None]:
    """Captures stderr inside the block, then writes it without TensorFlow's internal lines."""
    with tempfile.TemporaryFile() as captured:
        try:
            with _stderr_to(captured.fileno()):
                yield
        finally:
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not _INTERNAL.match(line):
                    print(line, file=sys.stderr)


@contextlib.contextmanager
def _stderr_to(descriptor: int) -> Iterator[None]:
    """Redirects the process's stderr, of libraries too, inside the block."""
    stderr = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table whose columns line up in plain text too."""
    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
