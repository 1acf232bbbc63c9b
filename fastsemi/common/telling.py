"""What a command tells while it works, unless it is to be quiet."""

from __future__ import annotations

import logging
import sys

_quiet = False


def be_quiet(quiet: bool = True) -> None:
    """From here on only results and warnings are printed, or all again."""
    global _quiet
    _quiet = quiet
    logging.getLogger("fastsemi.loaders").setLevel(logging.WARNING if quiet else logging.INFO)


def is_quiet() -> bool:
    """Whether `be_quiet` was called."""
    return _quiet


def tell(text: str) -> None:
    """A line on standard error about what is being done."""
    if not _quiet:
        sys.stderr.write(f"{text}\n")
