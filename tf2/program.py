"""What every command does around its work: signals, output that nobody reads, names of files."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, which ends a program as Ctrl-C does, with all cleanup.

    Training handles both itself, to save before it ends; see `loop.StopSignal`.
    """


def run(main: Callable[[], Any]) -> NoReturn:
    """Runs a command and exits with the code that it returns, or 128 + the number of a signal."""
    _use_utf8()
    signal.signal(signal.SIGTERM, _terminate)
    with (
        contextlib.redirect_stdout(Unread(sys.stdout)),
        contextlib.redirect_stderr(Unread(sys.stderr)),
    ):
        try:
            sys.exit(main())
        except KeyboardInterrupt as stop:
            number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
            print(f"Stopped by {number.name}. Repeat the command to resume.", file=sys.stderr)
            sys.exit(128 + number)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


class Unread:
    """A text stream that drops what can no longer be written, so that the work goes on.

    The reader of a pipe may have ended (`| head -1`), a terminal closed, the disk of a log be full.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text, or drops it."""
        try:
            return self._stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flushes the stream, or drops what it has."""
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # also for the flush at exit
            os.close(nowhere)


def _use_utf8() -> None:
    """Starts Python again in UTF-8 mode where file names are in another encoding.

    TensorFlow takes UTF-8 alone, so other names would reach it as different ones.
    """
    other = sys.getfilesystemencoding() != "utf-8"
    if other and os.name == "posix" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
