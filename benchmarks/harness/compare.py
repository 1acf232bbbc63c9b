"""What became slower or faster between two results of the same hardware.

    python -m benchmarks.harness.compare                       the newest two of this machine's history
    python -m benchmarks.harness.compare OLD NEW               two files, or two folders of files
    python -m benchmarks.harness.compare --record FOLDER  keep a copy of a folder's results in its history

Exits with 1 if a case became slower by more than the threshold and the spreads do not touch, with 2 where
there is nothing to compare.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from benchmarks.harness import harness
from benchmarks.harness.environment import environment
from fastsemi.common.errors import UserError

RESULTS = Path(__file__).parents[1] / "results"
HISTORY = "history"
THRESHOLD = 0.05


def record(folder: Path, history: Path | None = None) -> Path:
    """Copy the JSON files of a folder of results into a new folder of its history, named by time and commit.

    Raises:
        UserError: There are none.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder} holds no results; measure first: make bench")
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    git = (environment()["git"] or "unknown").replace("+", "-changed")
    out = (history or folder / HISTORY) / f"{stamp}-{git}"
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


def pairs(old: Path, new: Path) -> list[tuple[Path, Path]]:
    """Files to compare: the two given, or those of one name in two folders.

    Raises:
        UserError: The folders have no file of one name.
    """
    if not old.is_dir() and not new.is_dir():
        return [(old, new)]
    names = {path.name for path in old.glob("*.json")} & {path.name for path in new.glob("*.json")}
    if not names:
        raise UserError(f"{old} and {new} have no results of one name; give folders of the same benchmarks")
    return [(old / name, new / name) for name in sorted(names)]


def compare(old: Path, new: Path, threshold: float) -> tuple[list[str], bool]:
    """Compare files or folders.

    Returns:
        Lines to print, and whether something became slower.

    Raises:
        UserError: A file cannot be compared.
    """
    lines, slower = [], False
    folders = old.is_dir()
    for before, after in pairs(old, new):
        try:
            changes = harness.compare(harness.read(before), harness.read(after), threshold)
        except UserError as error:
            if not folders:
                raise
            lines.append(f"skipped {before.name}: {error}")
            continue
        lines.append(f"{before} -> {after}")
        for c in changes:
            slower |= c["verdict"] == "slower"
            lines.append(
                f"  {c['verdict']:7}{c['change']:+7.1%} ({c['low']:+.1%} to {c['high']:+.1%})  "
                f"{c['old']:10.4g} -> {c['new']:10.4g} {c['unit']}  {c['name']}, {c['threads']} threads"
            )
    if all(line.startswith("skipped") for line in lines):
        raise UserError(f"{old} and {new} hold nothing that can be compared: {lines[0]}")
    return lines, slower


def main(argv: list[str] | None = None) -> int:
    """Compare or record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path, nargs="?")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="change that counts, a fraction")
    parser.add_argument("--record", type=Path, help="folder of results to keep a copy of")
    args = parser.parse_args(argv)
    try:
        if args.record:
            print(record(args.record))
            return 0
        if (args.old is None) != (args.new is None):
            raise UserError("one result alone cannot be compared; give two, or none for the newest two")
        found = (args.old, args.new) if args.old else newest(RESULTS, environment()["hardware"]["name"])
        lines, slower = compare(found[0], found[1], args.threshold)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
