"""All that a GPU is wanted for, in five calls that together are planned for 24 minutes.

    python -m benchmarks.gpu.suite [CALL ...] [--quick | --tiny] [--only PART,PART] [--out FOLDER]

Works from a bare copy of the tree, without network or installation, where PyTorch, timm and Triton are; what
needs more is skipped by name. Each part is a process with a time limit of its own, so one that fails or hangs
costs no other, and all parts of a call share a deadline. Steps, kernels and loaders write after each round.
Results go to `benchmarks/results/<gpu>-<date>/`: a JSON file a part, `suite.json` with how each ended,
`README.md` with the tables, and plots where Matplotlib is there; `--archive FILE` packs all of it into one
file, anew after each part. Calls with the same `--out` add to it. `--quick` is planned for three minutes.
`--tiny` runs every part on a CPU with tiny sizes and Triton's interpreter, to know that the suite works.
`gpu/README.md` has the calls and what to expect of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.gpu.lists import Part, calls, quick, tiny
from benchmarks.gpu.parts import PARTIAL, SKIPPED, has
from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing

ROOT = Path(__file__).parents[2]
MEASURING = 0.75  # of a part's time; the rest is for imports, warming up and writing
_BAD_RESULT = (UserError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


@dataclass
class Outcome:
    """How a part ended."""

    name: str
    status: str
    """ok, partial, skipped, failed or timeout."""
    reason: str
    seconds: float
    tail: list[str] = field(default_factory=list)
    """Last lines of what a failed part printed."""


def run_part(part: Part, out: Path, seconds: float, gpu: bool) -> Outcome:
    """Run one part for so many seconds at most."""
    start = time.monotonic()
    lacking = [name for name in part.needs if not has(name)]
    if lacking:
        return Outcome(part.name, "skipped", f"not installed: {', '.join(lacking)}", 0.0)
    if part.gpu and not gpu:
        return Outcome(part.name, "skipped", "no CUDA GPU", 0.0)
    if seconds < 5:
        return Outcome(part.name, "skipped", "no time was left", 0.0)
    words = (word.format(out=out, seconds=round(MEASURING * seconds)) for word in part.command)
    command = [sys.executable, "-m", *words]
    log = out / "logs" / f"{part.name.replace(' ', '_')}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **dict(part.variables)},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:  # Ctrl-C too, which does not reach another session
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started
                process.wait()
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else "it printed nothing"
    took = time.monotonic() - start
    if code is None:
        return Outcome(part.name, "timeout", f"stopped after {seconds:.0f} s", took, lines[-20:])
    if code == SKIPPED:
        return Outcome(part.name, "skipped", last, took)
    if code == PARTIAL:
        return Outcome(part.name, "partial", last, took)
    if code:
        return Outcome(part.name, "failed", f"exit code {code}: {last}", took, lines[-20:])
    return Outcome(part.name, "ok", last if part.command[0].startswith("benchmarks.gpu.") else "", took)


def merge_steps(out: Path) -> None:
    """Put the rows of all networks into `steps.json`."""
    from benchmarks.harness import harness

    rows = []
    for size in ("S", "B", "L", "H", "tiny"):
        path = out / f"steps_{size}.json"
        if path.exists():
            rows += harness.read(path)
    if rows:
        harness.write(out / "steps.json", rows)


def write(out: Path, outcomes: Sequence[Outcome], title: str) -> None:
    """Write how the parts ended and the tables of what there is."""
    from benchmarks.harness import harness, result_tables

    merge_steps(out)
    with replacing(out / "suite.json") as file:  # which the next call reads
        file.write(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    lines = [f"# {title}", "", "| part | ended | seconds | |", "|---|---|--:|---|"]
    for o in outcomes:
        reason = o.reason.replace("|", "/")
        lines.append(f"| {o.name} | {o.status} | {o.seconds:.0f} | {reason} |")
    for name, table in result_tables.TABLES.items():
        path = out / f"{name}.json"
        if path.exists():
            try:
                text = table(harness.read(path))
            except _BAD_RESULT as error:  # one bad file costs no other table
                text = f"{path.name} makes no table: {type(error).__name__}: {error}"
            lines += ["", f"## {name.replace('_', ' ')}", "", text]
    (out / "README.md").write_text("\n".join(lines) + "\n")


def draw(out: Path) -> Outcome:
    """Plots of what there is."""
    if not has("matplotlib"):
        return Outcome("plots", "skipped", "not installed: matplotlib", 0.0)
    from benchmarks.harness import harness, plots

    start = time.monotonic()
    drawers = {"steps": plots.steps, "kernels": plots.roofline, "end_to_end": plots.end_to_end}
    drawn: list[Path] = []
    for name, drawer in drawers.items():
        path = out / f"{name}.json"
        if path.exists():
            try:
                drawn += drawer(harness.read(path), out)
            except _BAD_RESULT as error:
                reason = f"{path.name} makes no plot: {type(error).__name__}: {error}"
                return Outcome("plots", "failed", reason, time.monotonic() - start)
    names = ", ".join(sorted({path.stem for path in drawn}))
    return Outcome("plots", "ok", names, time.monotonic() - start)


def pack(out: Path, archive: Path) -> None:
    """Put all results into one file, whole or not at all."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f".{archive.name}")
    with tarfile.open(part, "w:gz") as tar:
        tar.add(out, out.name)
    part.replace(archive)


def _before(out: Path) -> list[Outcome]:
    """How the parts of earlier calls ended."""
    path = out / "suite.json"
    return [Outcome(**row) for row in json.loads(path.read_text())] if path.exists() else []


def run(
    parts: Sequence[Part], out: Path, budget: float, title: str, gpu: bool, archive: Path | None = None
) -> list[Outcome]:
    """Run the parts within a time for all of them; results are written and packed after each.

    What earlier calls with this folder left stays there, but for parts that run again.
    """
    deadline = time.monotonic() + budget
    out.mkdir(parents=True, exist_ok=True)
    names = {"plots", *(part.name for part in parts)}
    earlier = [o for o in _before(out) if o.name not in names]
    outcomes: list[Outcome] = []

    def keep() -> None:
        write(out, [*earlier, *outcomes], title)
        if archive:
            pack(out, archive)

    try:
        for part in parts:
            outcomes.append(run_part(part, out, min(part.seconds, deadline - time.monotonic()), gpu))
            o = outcomes[-1]
            print(f"{o.status:8}{o.seconds:6.1f} s  {o.name}  {o.reason}", flush=True)
            keep()
        outcomes.append(draw(out))
    finally:  # where it is stopped, with what the last part has measured by then
        keep()
    print(f"results: {archive or out}")
    return outcomes


def _where() -> tuple[str, bool]:
    """Short name of the machine, and whether it has a GPU; found by a process that then lets go of it."""
    code = "import torch\nfrom benchmarks.harness.environment import hardware\n"
    code += "print(hardware()['name'], int(torch.cuda.is_available()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"the suite needs PyTorch and NumPy: {done.stderr.strip().splitlines()[-1]}; install them"
        )
    name, gpu = done.stdout.split()
    return name, gpu == "1"


def main(argv: list[str] | None = None) -> int:
    """Run the suite; exits with 1 if a part failed or ran out of time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("call", nargs="*", help=f"of {', '.join(calls())}; default: all, in this order")
    parser.add_argument("--quick", action="store_true", help="three minutes")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a CPU, to test the suite itself")
    parser.add_argument("--only", help="parts to run, separated by commas")
    parser.add_argument("--out", type=Path, help="folder of results")
    parser.add_argument("--archive", type=Path, help="one file for all results, .tar.gz")
    args = parser.parse_args(argv)
    try:
        name, gpu = _where()
        if not gpu and not args.tiny:
            raise UserError("the GPU suite found no CUDA GPU; use --tiny to try it without, or make bench")
        unknown = set(args.call) - set(calls())
        if unknown:
            raise UserError(f"{min(unknown)!r} is no call; use {', '.join(calls())}")
        chosen = [call for name, call in calls().items() if name in args.call or not args.call]
        chosen = [tiny()] if args.tiny else [quick()] if args.quick else chosen
        parts = [part for call in chosen for part in call.parts]
        if args.only:
            names = {part.name for part in parts}
            unknown = set(args.only.split(",")) - names
            if unknown:
                raise UserError(f"--only {min(unknown)!r} is no part; use {', '.join(sorted(names))}")
            parts = [part for part in parts if part.name in args.only.split(",")]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if args.tiny:
        os.environ["TRITON_INTERPRET"] = "1"
    budget = sum(call.seconds for call in chosen)
    title = f"GPU suite, {name}, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
    out = (
        args.out or ROOT / "benchmarks" / "results" / f"{name}-{time.strftime('%Y%m%d-%H%M', time.gmtime())}"
    )
    outcomes = run(parts, out.resolve(), budget, title, gpu, args.archive)
    return 1 if any(o.status in ("failed", "timeout") for o in outcomes) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: no part stays
    sys.exit(main())
