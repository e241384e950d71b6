"""Runs the programs of this package: a user's mistake is one sentence and exit status 1."""

from __future__ import annotations

import sys
from collections.abc import Callable

from absl import app

from tf2 import errors


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the command line, calls `main` and exits with what it returns.

    Args:
        main: takes the program's name and its arguments without flags; raises errors.UserError for
            a mistake of the user's.
    """
    app.run(lambda arguments: sys.exit(_call(main, arguments)))


def _call(main: Callable[[list[str]], int | None], arguments: list[str]) -> int | None:
    try:
        return main(arguments)
    except Exception as error:
        sentence = errors.sentence(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return 1


def check_arguments(arguments: list[str], count: int, rule: str, remedy: str) -> None:
    """Raises errors.UserError unless a program has `count` arguments beside its name."""
    if len(arguments) != count + 1:
        received = " ".join(arguments[1:]) or "nothing"
        raise errors.UserError(f"{rule} Received: {received}. {remedy}")
