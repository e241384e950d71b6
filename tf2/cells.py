"""Text in the cells of a CSV file, which a spreadsheet would take for a formula.

A cell that begins with = + - @, a tab or a carriage return gets an apostrophe in front, which
spreadsheets take as "this is text"; so does one that has apostrophes before such a character, so
that reading takes off exactly what writing put on. Numbers are written as they are.
"""

from __future__ import annotations

import re
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def guard(value: Any) -> Any:
    """Returns what to write for a value: text that might be a formula with an apostrophe."""
    if not isinstance(value, str) or not _FORMULA.match(value) or _is_number(value):
        return value
    return f"'{value}"


def unguard(text: str) -> str:
    """Returns the text that `guard` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None
