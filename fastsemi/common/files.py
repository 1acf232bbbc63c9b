"""Small files that are either the old or the new one, never half of it."""

from __future__ import annotations

import os
import pickle
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

# What torch.load raises on files that are damaged, of another kind, or hold more than tensors.
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    struct.error,
    pickle.UnpicklingError,
)


def csv_safe(text: str) -> str:
    """A cell of a CSV that no spreadsheet takes for a formula: what looks like one gets an apostrophe.

    Numbers stay as they are. What begins a formula: OWASP, CSV injection.
    """
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def sync_folder(folder: Path) -> None:
    """Let names that were changed in a folder outlast a power cut, where the file system knows how."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def code_in(error: BaseException) -> str | None:
    """What a file would run that `torch.load` refused; None where it refused it for another reason."""
    found = re.search(r"(?:GLOBAL|but got|unrecognized function|class) (<[^>]*>|[\w.]+)", str(error))
    return found[1] if found and "weights_only" in str(error) else None


def why_unreadable(error: BaseException) -> str:
    """What is wrong with a file that `torch.load` refused, in one line.

    PyTorch's advice to set weights_only to False, with which the file would run code, is not passed on.
    """
    if code := code_in(error):
        return f"reading it would run Python code ({code})"
    text = str(error).strip()
    if "weights_only" in text:
        return "it is damaged or holds more than tensors and plain values"
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file for writing that takes the place of `path` when the block ends without an error.

    Args:
        path: The file to replace.
        mode: As of `open`.
        **options: As of `open`.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
