"""The semi step: unlabelled images/s of the product's trainer against the paper's own step, in one run.

    python -m benchmarks.steps [--models S,B,L,H] [--json OUT.json] [--plots DIR]

Each step is a whole update on loaded batches: teacher, mixing, student, loss, backward, AdamW, EMA.
The product's batches lie on the device, where its loaders bring them beside the step before; the paper's come
from pinned memory at the start of the step. Cases: every sample kept; 35 % rejected, which the product leaves
out of the student; both compiled; the paper's step (`benchmarks.paper_step`), where it makes no difference.
On a GPU the product's step holds colour jitter and RandAugment too, which the paper leaves to its workers; on
a CPU, where they would take the same cores on either side, both get augmented views (`--augment` puts them
in). Utilisation is the model's operations over the time, as a fraction of a large matrix product in the same
rounds and in the product's format.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness, step_profile
from benchmarks.step_cases import (
    RATIO,
    SIZES,
    PeerStep,
    ProductStep,
    Size,
    Work,
    forward_flops,
    matmul,
    model_flops,
)
from fastsemi.errors import UserError
from fastsemi.precision import Precision, PrecisionName, select_device

REJECTED = 0.35
PAPER, KEPT, SKIPPED = "paper", "kept", "rejected"
LABELS = {
    PAPER: "the paper's step",
    "paper, fused attention": "the paper's step, fused attention",
    KEPT: "fastsemi, all kept",
    SKIPPED: "fastsemi, 35 % rejected",
    "kept, compiled": "fastsemi, all kept, compiled",
    "rejected, compiled": "fastsemi, 35 % rejected, compiled",
}
PHASE_STEPS = 5


@dataclass(frozen=True)
class StepCase:
    """A step and the fraction of samples that it rejects."""

    name: str
    step: ProductStep | PeerStep
    rejected: float = 0.0

    def ready(self) -> None:
        """Make the step do this case from now on."""
        if isinstance(self.step, ProductStep):
            self.step.reject(self.rejected)

    def run(self, count: int) -> None:
        """Some steps."""
        self.ready()
        for _ in range(count):
            self.step.step()


def waiting(device: torch.device) -> harness.Timer:
    """Wall time until the device has finished."""

    def seconds(run: Callable[[], object]) -> float:
        if device.type != "cuda":
            return harness.wall_seconds(run)
        torch.cuda.synchronize()

        def whole() -> None:
            run()
            torch.cuda.synchronize()

        return harness.wall_seconds(whole)

    return seconds


def build(size: Size, labelled: int, precision: Precision, args: argparse.Namespace) -> tuple[list, dict]:
    """The cases that run here, each warmed up, and why the others do not."""
    device = precision.device
    product = partial(ProductStep, size, labelled, precision, augment=args.augment)
    peer = partial(PeerStep, size, labelled, device)
    makers: dict[str, Callable[[], ProductStep | PeerStep]] = {
        "kept": partial(product, compiled=False),
        **({"kept, compiled": partial(product, compiled=True)} if args.compile else {}),
        "paper": partial(peer, fused_attention=False),
        **({"paper, fused attention": partial(peer, fused_attention=True)} if args.peer_fused else {}),
    }
    cases: list[StepCase] = []
    absent: dict[str, str] = {}
    for name, make in makers.items():
        try:
            step = make()
            found = [StepCase(name, step)]
            if isinstance(step, ProductStep):
                found.append(StepCase(name.replace(KEPT, SKIPPED), step, REJECTED))
            for case in found:
                case.run(2)
        except RuntimeError as error:  # out of memory, no compiler
            absent[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            print(f"absent: {size.name} {name}: {absent[name]}", file=sys.stderr)
            gc.collect()
            continue
        cases += found
    return cases, absent


def measure_size(size: Size, precision: Precision, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one network."""
    device, dtype = precision.device, precision.dtype
    labelled = args.batch or (size.gpu_batch if device.type == "cuda" else size.cpu_batch)
    cases, absent = build(size, labelled, precision, args)
    product, operations = matmul(device, dtype)
    products = 10 if device.type == "cuda" else 2
    peak = harness.Case(
        "matmul", lambda: [product() for _ in range(products)], products, waiting(device), details={}
    )
    timed = [
        harness.Case(case.name, partial(case.run, args.steps), args.steps * RATIO * labelled, waiting(device))
        for case in cases
    ]
    measured = harness.measure([peak, *timed], rounds=args.rounds, progress=_say(size.name))
    flops_per_s = [operations * value for value in measured[0].values("images_per_s")]
    forward = forward_flops(size)
    configuration = {
        **{"model": size.name, "labelled": labelled, "unlabelled": RATIO * labelled, "absent": absent},
        **{"image_size": size.image_size, "classes": size.classes, "augment": args.augment},
        **{"precision": str(dtype).removeprefix("torch."), "steps": args.steps},
        "peak_tflops": harness.spread([f / 1e12 for f in flops_per_s]),
    }
    found = harness.rows(
        measured[1:],
        unit="images_per_s",
        threads=torch.get_num_threads(),
        configuration=configuration,
        device=device.type,
    )
    for case, row in zip(cases, found, strict=True):
        row |= _details(case, row, labelled, forward, flops_per_s, device)
        row["name"] = f"steps/{size.name}/{case.name}"
    paper = next((row for row in found if row["case"] == PAPER), None)
    for row in found:
        row["of_paper"] = harness.ratio(row, paper) if paper else None
    for case in cases:
        case.step.close()
    return found


def _details(
    case: StepCase,
    row: dict[str, Any],
    labelled: int,
    forward: float,
    peak: list[float],
    device: torch.device,
) -> dict[str, Any]:
    case.ready()
    work: Work = case.step.work()
    operations = model_flops(forward, labelled, work.entered)
    rates = [operations * value / (RATIO * labelled) for value in row["samples"]]
    inside = step_profile.inspect(case.step.step, device, compiled="compiled" in case.name)
    held = case.step.state_bytes()
    return {
        **{"case": case.name, "label": LABELS[case.name], "model": row["configuration"]["model"]},
        **{"entered": work.entered, "accepted": work.accepted},
        "tflops": harness.spread([rate / 1e12 for rate in rates]),
        "utilisation": harness.spread([rate / p for rate, p in zip(rates, peak, strict=True)]),
        **inside,
        "state_bytes": held,
        "peak_bytes": held + (inside["step_bytes"] or 0),
        "phases_ms": step_profile.phases(case.step.step, device, PHASE_STEPS),
    }


def _say(size: str) -> Callable[[str], None]:
    return lambda text: print(f"{size}, {text}", file=sys.stderr)


def summary(rows: list[dict[str, Any]]) -> str:
    """One line a row."""
    lines = []
    for row in rows:
        paper = row["of_paper"]
        versus = f"{paper['median']:.2f} x ({paper['p20']:.2f} to {paper['p80']:.2f})" if paper else "-"
        launches = "" if row["launches"] is None else f"{row['launches']} launches, "
        waits = "?" if row["host_waits"] is None else row["host_waits"]
        lines.append(
            f"{row['model']:9}{row['label']:36}{row['median']:9.1f} images/s  {versus:24} "
            f"{row['tflops']['median']:7.2f} TFLOP/s  {row['utilisation']['median']:4.0%} of peak  "
            f"{row['peak_bytes'] / 2**30:6.2f} GiB  {launches}{waits} host waits"
        )
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, with defaults that depend on the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", help=f"of {', '.join(SIZES)}; default: S,B,L,H on a GPU, S on a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    parser.add_argument("--batch", type=int, help="labelled images of a step; default: by network and device")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int, help="steps of one measurement")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: unless --quick")
    parser.add_argument("--augment", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    parser.add_argument("--peer-fused", action="store_true", help="the paper's step with fused attention too")
    parser.add_argument("--quick", action="store_true", help="5 rounds, small CPU batch, nothing compiled")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--plots", type=Path, help="folder for plots as PNG and SVG")
    args = parser.parse_args(argv)
    gpu = select_device(args.device).type == "cuda"
    args.models = (args.models or ("S,B,L,H" if gpu else "S")).split(",")
    unknown = [name for name in args.models if name not in SIZES]
    if unknown:
        raise UserError(f"--models {unknown[0]!r} is unknown; use {', '.join(SIZES)}")
    for name, least in (("batch", 1), ("steps", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least {least}")
    args.compile = not args.quick if args.compile is None else args.compile
    args.augment = gpu if args.augment is None else args.augment
    args.rounds = args.rounds or (5 if args.quick or not gpu else 9)
    args.steps = args.steps or (5 if gpu else 1)
    if args.quick and not gpu:
        args.batch = args.batch or 2
    return args


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for; what is measured is kept after each network.

    Raises:
        UserError: Wrong options.
    """
    args = parse(argv)
    name: PrecisionName = args.precision
    precision = Precision.select(name, select_device(args.device))
    rows: list[dict[str, Any]] = []
    for key in args.models:
        rows += measure_size(SIZES[key], precision, args)
        gc.collect()
        torch.compiler.reset()
        if precision.device.type == "cuda":
            torch.cuda.empty_cache()
        if args.json:
            harness.write(args.json, rows)
    print(summary(rows))
    if args.plots:
        from benchmarks import plots

        plots.steps(rows, args.plots)
    return rows


def main() -> int:
    """Run; wrong input ends with one line."""
    try:
        run()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
