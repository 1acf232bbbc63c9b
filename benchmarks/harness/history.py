"""Earlier results of a machine: a folder for each time that they were kept, named by time and commit."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks.harness import harness
from fastsemi.common.errors import UserError

HISTORY = "history"


def of_changed_tree(folder: Path) -> list[str]:
    """Names of a folder's results whose commit does not tell the code that was measured.

    Raises:
        UserError: There are no results, or files of something else.
    """
    return [file.name for file in _results(folder) if any(c.endswith("+") for c in _commits(file))]


def record(folder: Path) -> Path:
    """Copy a folder's results into a new folder of its history.

    Raises:
        UserError: There are none, or some are of a changed tree.
    """
    changed = of_changed_tree(folder)
    if changed:
        raise UserError(
            f"{', '.join(changed)} in {folder}: measured with uncommitted changes; commit and measure again"
        )
    files = _results(folder)
    commit = max(_commits(max(files, key=lambda file: file.stat().st_mtime)))
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    out = folder / HISTORY / f"{stamp}-{commit}"
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, out / file.name)
    return out


def newest(results: Path, machine: str) -> tuple[Path, Path]:
    """The newest two folders of results of a machine, older one first: of its history, or of its GPU suites.

    Raises:
        UserError: There are fewer than two.
    """
    kept = sorted(path for path in (results / machine / HISTORY).glob("*") if path.is_dir())
    suites = sorted(path for path in results.glob(f"{machine}-20*") if path.is_dir())
    found = kept if len(kept) > 1 else suites
    if len(found) < 2:
        raise UserError(
            f"{results} holds fewer than two results of {machine} to compare; run make bench once more, or "
            "give two files or folders"
        )
    return found[-2], found[-1]


def _results(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder} holds no results; measure first: make bench")
    return files


def _commits(file: Path) -> set[str]:
    return {row["git"] or "unknown" for row in harness.read(file)}
