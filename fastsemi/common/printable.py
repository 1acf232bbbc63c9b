"""Names of files and classes as a terminal can show them: what would command it is written out."""

from __future__ import annotations

import logging
import unicodedata

# Control characters, halves of characters (bytes that are no text), ends of lines and paragraphs.
_COMMANDS = {"Cc", "Cs", "Zl", "Zp"}
# Those that change the direction of writing, so that "gpj.exe" reads "exe.jpg".
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    r"""The text with control characters and changes of direction as escapes, such as `\x1b` and `\u202e`."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if c in _DIRECTIONS or unicodedata.category(c) in _COMMANDS else c
        for c in text
    )


class PrintableFormatter(logging.Formatter):
    """Log records in one line each, with nothing in them that commands a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return printable(super().format(record))
