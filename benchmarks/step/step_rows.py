"""Cases of `benchmarks.step.steps` for one network: built, measured in turn, and their rows."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.harness import harness
from benchmarks.step import step_profile
from benchmarks.step.step_cases import (
    RATIO,
    PeerStep,
    ProductStep,
    Size,
    Work,
    forward_flops,
    matmul,
    model_flops,
)
from fastsemi.common.precision import Precision

REJECTED = 0.35
INSIDE = 0.15  # of the time of a network, for what a step does besides taking time
Keep = Callable[[list[dict[str, Any]]], None]
PAPER, KEPT, SKIPPED = "paper", "kept", "rejected"
LABELS = {
    PAPER: "the paper's step",
    "paper, fused attention": "the paper's step, fused attention",
    KEPT: "fastsemi, all kept",
    SKIPPED: "fastsemi, 35 % rejected",
    "kept, compiled": "fastsemi, all kept, compiled",
    "rejected, compiled": "fastsemi, 35 % rejected, compiled",
    "kept, blocks compiled": "fastsemi, all kept, blocks compiled",
    "rejected, blocks compiled": "fastsemi, 35 % rejected, blocks compiled",
}
PHASE_STEPS = 5  # on a GPU; a CPU takes seconds for one


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
        "kept": partial(product, compiled="no"),
        **({"kept, blocks compiled": partial(product, compiled="blocks")} if args.compile_blocks else {}),
        **({"kept, compiled": partial(product, compiled="whole")} if args.compile else {}),
        "paper": partial(peer, fused_attention=False),
        **({"paper, fused attention": partial(peer, fused_attention=True)} if args.peer_fused else {}),
    }
    cases: list[StepCase] = []
    absent: dict[str, str] = {}
    for name, make in makers.items():
        try:
            cases += _warmed_up(name, make)
        except RuntimeError as error:  # out of memory, no compiler
            absent[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            print(f"absent: {size.name} {name}: {absent[name]}", file=sys.stderr)
        if name in absent:
            gc.collect()  # the error is gone by now, and with it all that held the network
    return cases, absent


def _warmed_up(name: str, make: Callable[[], ProductStep | PeerStep]) -> list[StepCase]:
    step = make()
    found = [StepCase(name, step)]
    if isinstance(step, ProductStep):
        found.append(StepCase(name.replace(KEPT, SKIPPED), step, REJECTED))
    for case in found:
        case.run(2)
    return found


def measure_size(
    size: Size, precision: Precision, args: argparse.Namespace, keep: Keep
) -> list[dict[str, Any]]:
    """Rows of one network.

    Args:
        size: The network.
        precision: Device and number format.
        args: The command line.
        keep: Called with the rows so far after each round, and after each look inside of a step.
    """
    began = time.monotonic()
    device, dtype = precision.device, precision.dtype
    labelled = args.batch or (size.gpu_batch if device.type == "cuda" else size.cpu_batch)
    cases, absent = build(size, labelled, precision, args)
    peer_dtype = torch.float32 if device.type == "cpu" else torch.float16
    side = 8192 if device.type == "cuda" else 256 if size.name == "tiny" else 2048
    peaks = [_peak("fastsemi", side, device, dtype), _peak(PAPER, side, device, peer_dtype)]
    timed = [
        harness.Case(case.name, partial(case.run, args.steps), args.steps * RATIO * labelled, waiting(device))
        for case in cases
    ]
    works = [_work(case) for case in cases]
    forward = forward_flops(size)
    shared = {
        **{
            "model": size.name,
            "network": size.model.name,
            "labelled": labelled,
            "unlabelled": RATIO * labelled,
            "absent": absent,
        },
        **{"image_size": size.image_size, "classes": size.classes, "augment": args.augment},
        **{"precision": str(dtype).removeprefix("torch."), "steps": args.steps},
    }

    def rows_of(measured: list[harness.Measurement]) -> list[dict[str, Any]]:
        flops_per_s, peer_flops_per_s = (case.values("images_per_s") for case in measured[: len(peaks)])
        configuration = {
            **shared,
            "peak_tflops": harness.spread([f / 1e12 for f in flops_per_s]),
            "peer_peak_tflops": harness.spread([f / 1e12 for f in peer_flops_per_s]),
        }
        found = harness.rows(
            measured[len(peaks) :],
            unit="images_per_s",
            threads=torch.get_num_threads(),
            configuration=configuration,
            device=device.type,
        )
        for case, work, row in zip(cases, works, found, strict=True):
            row |= _details(case, work, row, model_flops(forward, labelled, work.entered), flops_per_s)
            row["name"] = f"steps/{size.name}/{case.name}"
        paper = next((row for row in found if row["case"] == PAPER), None)
        for row in found:
            row["of_paper"] = harness.ratio(row, paper) if paper else None
        return found

    left = args.seconds and (1 - INSIDE) * args.seconds - (time.monotonic() - began)
    measured = harness.measure(
        [*peaks, *timed],
        rounds=args.rounds,
        seconds=left and max(left, 1e-3),  # one round in any case
        progress=_say(size.name),
        keep=lambda measured: keep(rows_of(measured)),
    )
    found = rows_of(measured)
    for case, row in zip(cases, found, strict=True):
        row |= _inside(case, device)
        keep(found)
    for case in cases:
        case.step.close()
    return found


def _peak(whose: str, side: int, device: torch.device, dtype: torch.dtype) -> harness.Case:
    """A large matrix product in the format of one side, maybe the other's too; its items are operations."""
    product, operations = matmul(side, device, dtype)
    count = 10 if device.type == "cuda" else 2

    def run() -> None:
        for _ in range(count):
            product()

    name = f"matmul {str(dtype).removeprefix('torch.')}, {whose}"
    return harness.Case(name, run, round(count * operations), waiting(device), details={})


def _work(case: StepCase) -> Work:
    case.ready()
    return case.step.work()


def _details(
    case: StepCase, work: Work, row: dict[str, Any], operations: float, peak: list[float]
) -> dict[str, Any]:
    """What is known of a case by its times alone; None for what `_inside` finds."""
    rates = [operations * value / row["configuration"]["unlabelled"] for value in row["samples"]]
    return {
        **{"case": case.name, "label": LABELS[case.name], "model": row["configuration"]["model"]},
        **{"entered": work.entered, "accepted": work.accepted, "compiled": "compiled" in case.name},
        "stage": "semi" if isinstance(case.step, ProductStep) else None,
        "tflops": harness.spread([rate / 1e12 for rate in rates]),
        "utilisation": harness.spread([rate / p for rate, p in zip(rates, peak, strict=True)]),
        "phases_ms": {},
        **dict.fromkeys(("launches", "host_waits", "step_bytes", "peak_bytes")),
    }


def _inside(case: StepCase, device: torch.device) -> dict[str, Any]:
    """What a step does besides taking time."""
    case.ready()
    inside = step_profile.inspect(case.step.step, device, compiled="compiled" in case.name)
    held = case.step.state_bytes()
    return {
        **inside,
        "state_bytes": held,
        "peak_bytes": held + (inside["step_bytes"] or 0),
        "phases_ms": step_profile.phases(case.step.step, device, PHASE_STEPS if device.type == "cuda" else 2),
    }


def _say(size: str) -> Callable[[str], None]:
    return lambda text: print(f"{size}, {text}", file=sys.stderr)
