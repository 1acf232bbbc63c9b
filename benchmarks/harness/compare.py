"""What became slower or faster between two results of the same hardware.

    python -m benchmarks.harness.compare                       the newest two of this machine's history
    python -m benchmarks.harness.compare OLD NEW               two files, or two folders of files
    python -m benchmarks.harness.compare --record FOLDER  keep a copy of a folder's results in its history,
                                                  unless they are of uncommitted changes

Exits with 1 if a case became slower by more than the threshold and the spreads do not touch, with 2 where
there is nothing to compare.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import harness, history
from benchmarks.harness.environment import environment
from fastsemi.common.errors import UserError

RESULTS = Path(__file__).parents[1] / "results"
THRESHOLD = 0.05


def changes(
    old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], threshold: float = 0.05
) -> list[dict[str, Any]]:
    """Change of every case that both results hold with the same settings.

    A case is `slower` or `faster` when its median changed by more than `threshold` and the ranges from p20 to
    p80 do not touch; a change of that size with touching ranges is `noise`, all else `same`.

    Args:
        old: Rows measured before.
        new: Rows measured now.
        threshold: Smallest change that counts, as a fraction.

    Returns:
        Dictionaries with name, threads, old, new, unit, change (positive is faster), low and high (the change
        from one end of the spreads to the other) and verdict.

    Raises:
        UserError: The rows are from different hardware, or have no case in common.
    """
    places = {row["hardware"]["name"] for row in (*old, *new)}
    if len(places) > 1:
        raise UserError(
            f"results of different hardware ({', '.join(sorted(places))}) say nothing about the code"
        )

    def key(row: dict[str, Any]) -> tuple:
        settings = row.get("configuration", {})  # with measured figures among them, which are fractions
        whole = sorted((name, value) for name, value in settings.items() if isinstance(value, int | str))
        return row["name"], row.get("threads"), row["device"], *whole

    before = {key(row): row for row in old}
    result = []
    for row in new:
        then = before.get(key(row))
        if then is None:
            continue
        faster = row["median"] / then["median"] if row["unit"] != "ms" else then["median"] / row["median"]
        apart = row["p20"] > then["p80"] or row["p80"] < then["p20"]
        ends = row["p20"] / then["p80"], row["p80"] / then["p20"]
        low, high = (1 / ends[1], 1 / ends[0]) if row["unit"] == "ms" else ends
        verdict = "same"
        if abs(faster - 1) > threshold:
            verdict = ("faster" if faster > 1 else "slower") if apart else "noise"
        result.append(
            {
                **{name: row.get(name) for name in ("name", "threads", "unit")},
                **{"old": then["median"], "new": row["median"], "change": faster - 1, "verdict": verdict},
                **{"low": low - 1, "high": high - 1},
            }
        )
    if not result:
        raise UserError(
            "the two results have no case of the same settings in common; compare files of one benchmark, "
            "run with the same options"
        )
    return result


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
            found = changes(harness.read(before), harness.read(after), threshold)
        except UserError as error:
            if not folders:
                raise
            lines.append(f"skipped {before.name}: {error}")
            continue
        lines.append(f"{before} -> {after}")
        for c in found:
            slower |= c["verdict"] == "slower"
            lines.append(
                f"  {c['verdict']:7}{c['change']:+7.1%} ({c['low']:+.1%} to {c['high']:+.1%})  "
                f"{c['old']:10.4g} -> {c['new']:10.4g} {c['unit']}  {c['name']}"
                + (f", {c['threads']} threads" if c["threads"] else "")
            )
    if all(line.startswith("skipped") for line in lines):
        raise UserError(f"{old} and {new} hold nothing that can be compared: {lines[0]}")
    return lines, slower


def _record(folder: Path) -> int:
    """Keep a copy of a folder's results, unless they are of a changed tree; that is no error."""
    changed = history.of_changed_tree(folder)
    if changed:
        print(
            f"not kept in the history: {', '.join(changed)} were measured with uncommitted changes; commit "
            "them and measure again",
            file=sys.stderr,
        )
    else:
        print(history.record(folder))
    return 0


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
            return _record(args.record)
        if (args.old is None) != (args.new is None):
            raise UserError("one result alone cannot be compared; give two, or none for the newest two")
        old, new = args.old, args.new
        if old is None:
            old, new = history.newest(RESULTS, environment()["hardware"]["name"])
        lines, slower = compare(old, new, args.threshold)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
