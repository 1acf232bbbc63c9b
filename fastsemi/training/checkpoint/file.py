"""Checkpoints: written atomically, read without running code from the file.

What a stage starts from, first match wins:
1. its own checkpoint in the run directory;
2. the result of the stage before it in the run directory;
3. `model.weights`;
4. random weights.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from fastsemi.common.errors import UserError
from fastsemi.common.files import UNREADABLE, replacing, why_unreadable


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` so that the file is either the old or the new one, also after a power cut.

    Raises:
        UserError: The disk is full or not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot write checkpoint {path}: {error}; free disk space or change --output"
        ) from error


def _verify(path: Path, *, values_only: bool) -> None:
    """Raise where a record of the archive is not what was written."""
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if values_only and "/data/" in record.filename:
                continue
            with archive.open(record) as content:
                while content.read(1 << 20):
                    pass


def load(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU; tensors and plain values only.

    The file is a zip archive, whose checksums are verified first: PyTorch does not look at them. With `mmap`
    tensors are read when they are used, which makes a look at the other values quick; only the checksums of
    these are verified.

    Raises:
        UserError: The file is missing, damaged or holds code.
    """
    try:
        _verify(path, values_only=mmap)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist; check the path") from None
    except (*UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"cannot read checkpoint {path}: {why_unreadable(error)}; delete it to start the stage again"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"checkpoint {path} holds no state dict; move it away or check the path")
    return state
