"""The step of two source trees beside each other: what a change gave, in one run, on real jobs.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.step.two_trees --before /tmp/before --job 'digits: --config
        configs/demo/digits.yaml --data.root data/digits' [--job ...] [--json OUT.json]

Each job is the last stage of a configuration, in a process of its own for each tree, with batches in memory.
A round takes some steps of each process in turn, in a new order. Time is the processors', of all threads of
a process, which what else runs on the machine disturbs less than the clock; with OMP_NUM_THREADS=1 nothing
waits in it. Where a classifier is not trained yet, every pseudo label is accepted. Each tree needs its own
operator of C++.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import harness, result_tables
from benchmarks.step import tree_worker
from fastsemi.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BEFORE, NOW = "before", "now"


@dataclass(frozen=True)
class Job:
    """What to train, by name."""

    name: str
    files: tuple[str, ...]
    options: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Job:
        """`NAME: --config FILE [--KEY VALUE ...]`.

        Raises:
            UserError: It is nothing of that kind.
        """
        name, colon, rest = text.partition(": ")
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        parser.add_argument("--config", action="append", default=[])
        known, others = parser.parse_known_args(shlex.split(rest))
        if not (name and colon and known.config):
            raise UserError(f"--job {text!r} names no configuration; write 'NAME: --config FILE --KEY VALUE'")
        files = tuple(str(Path(file).resolve()) for file in known.config)
        if missing := [file for file in files if not Path(file).is_file()]:
            raise UserError(f"--job {name} needs {missing[0]}, which is no file; name one that is there")
        return cls(name, files, tuple(others))


class Tree:
    """A process that trains a job with the source of one tree."""

    def __init__(self, tree: Path, job: Job, count: int):
        text = json.dumps({"files": job.files, "options": job.options, "count": count})
        self._process = subprocess.Popen(
            [sys.executable, tree_worker.__file__, text],
            env=os.environ | {"PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._where = f"{job.name} in {tree}"
        self.about: dict[str, Any] = self._answer()

    def ask(self, command: str) -> Any:
        """What the process answers.

        Raises:
            UserError: It has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"{self._where} has ended with {self._process.wait()}; its error stands above")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options, or a tree that cannot train a job.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="the other source tree")
    parser.add_argument("--job", action="append", required=True, help="'NAME: --config FILE --KEY VALUE ...'")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps of one measurement")
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args(argv)
    if not (args.before / "fastsemi").is_dir():
        raise UserError(f"--before {args.before} holds no fastsemi; give a source tree")
    rows: list[dict[str, Any]] = []
    for job in map(Job.parse, args.job):
        rows += _measure(job, {BEFORE: args.before.resolve(), NOW: ROOT}, args)
        if args.json:
            harness.write(args.json, rows)
    print(result_tables.two_trees(rows))
    return rows


def _measure(job: Job, where: dict[str, Path], args: argparse.Namespace) -> list[dict[str, Any]]:
    trees: dict[str, Tree] = {}
    try:
        for name, path in where.items():
            trees[name] = Tree(path, job, args.steps)
        cases = [
            harness.Case(f"{job.name}, {name}", lambda: None, timer=lambda _, tree=tree: tree.ask("step"))
            for name, tree in trees.items()
        ]
        measured = harness.measure(
            cases, rounds=args.rounds, progress=lambda text: print(text, file=sys.stderr)
        )
        about = trees[NOW].about
        threads = about.pop("threads")
        settings = {"job": job.name, "before": _commit(where[BEFORE]), "clock": "processors' time", **about}
        found = harness.rows(measured, unit="ms", threads=threads, configuration=settings)
        for row, name in zip(found, trees, strict=True):
            row |= {
                "tree": name,
                "kinds": trees[name].ask("kinds"),
                "of_before": harness.ratio(row, found[0]),
            }
        return found
    finally:
        for tree in trees.values():
            tree.close()


def _commit(tree: Path) -> str:
    command = ["git", "-C", str(tree), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
