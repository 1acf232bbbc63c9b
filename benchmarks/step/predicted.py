"""The semi step's time on GPUs that nobody has run it on: PREDICTED by a roofline over what it launches.

    python -m benchmarks.step.predicted [--models S,B,L,H] [--cpu-batch N] [--json OUT.json]

The trainer's own step is rehearsed on fake tensors of a GPU (`fastsemi.run.rehearse`). Each launch takes the
longer of two times, of its operations at a share of the vendor's peak and of its bytes at a share of the
memory's bandwidth, and a gap. Fused, all launches between two products are one, which reads its largest input
and writes its largest output once. Waits for the host are not in it.

How far that can be trusted: the same sum for the step on this CPU, from a product, a copy and a small launch
that are measured in the same rounds, beside the step as it is measured in them.
"""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import harness
from benchmarks.harness.environment import environment
from benchmarks.harness.result_tables import predicted
from benchmarks.step.step_cases import RATIO, SIZES, ProductStep, matmul
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision
from fastsemi.kernels import dispatch
from fastsemi.run import config as configuration
from fastsemi.run.rehearse import rehearse_step
from fastsemi.run.trace import Operation, Watch
from fastsemi.tools.estimate.gpus import GPUS, Gpu
from fastsemi.tools.estimate.sizes import open_data

PRESETS = Path(__file__).parents[2] / "configs/imagenet"
NAMES = {"S": "small", "B": "base", "L": "large", "H": "huge"}
MACHINES = ("v100", "a100-80", "h100", "h200")
# Assumptions, not measurements: what of the data sheet large products and copies reach, and seconds between
# two launches.
OF_PEAK, OF_BANDWIDTH, GAP_S = 0.7, 0.9, 1.5e-6
COPIED = 64 << 20  # bytes, more than a cache holds
STEP, PRODUCT, COPY, SMALL = "step", "product", "copy", "small launch"


@dataclass(frozen=True)
class Machine:
    """What a device reaches."""

    flops_per_s: float
    bytes_per_s: float
    gap_s: float

    @classmethod
    def of_gpu(cls, gpu: Gpu) -> Machine:
        """In half precision."""
        return cls(OF_PEAK * gpu.half_tflops * 1e12, OF_BANDWIDTH * gpu.bandwidth_gb_s * 1e9, GAP_S)

    def seconds(self, operations: Iterable[Operation]) -> float:
        """Of operations one after the other."""
        return sum(
            max(each.flops / self.flops_per_s, (each.read + each.written) / self.bytes_per_s) + self.gap_s
            for each in operations
        )


def fused(operations: Iterable[Operation]) -> list[Operation]:
    """The same with what lies between two products in one launch; lists of weights stay launches."""
    result: list[Operation] = []
    for each in operations:
        alone = each.flops or each.name.startswith(("_f", "_amp")) or each.name.endswith("_kernel")
        if alone or not result or result[-1].name != "fused":
            result.append(each if alone else replace(each, name="fused"))
        else:
            last = result[-1]
            most = max(last.read, each.read), max(last.written, each.written)
            result[-1] = replace(last, read=most[0], written=most[1])
    return result


def on_gpus(key: str) -> list[dict[str, Any]]:
    """Rows of one network."""
    size, labelled = SIZES[key], SIZES[key].gpu_batch
    config = configuration.load([PRESETS / f"vit_{NAMES[key]}_10p.yaml"], [])
    config = replace(config, semi=replace(config.semi, batch=labelled, micro_batches=1))
    # As many images as a step needs: its tensors do not depend on them.
    data, _ = open_data(config, Namespace(train_images=20_000, classes=size.classes, unlabelled_images=None))
    rows, traced = [], {}
    for gpu in (GPUS[name] for name in MACHINES):
        dtype = gpu.dtype(config)
        if dtype not in traced:
            kernels = dispatch._triton_kernels()
            traced[dtype] = rehearse_step(config, "semi", data, dtype=dtype, kernels=kernels)
        step, machine = traced[dtype], Machine.of_gpu(gpu)
        row = {
            **{"name": f"predicted/{size.name}/{gpu.label}", "kind": "predicted", "model": size.name},
            **{"gpu": gpu.label, "precision": str(dtype).removeprefix("torch.")},
            **{"labelled": labelled, "unlabelled": RATIO * labelled, "launches": len(step.operations)},
            **{"flops": step.flops, "peak_bytes": step.peak, "fits": step.peak < gpu.memory},
        }
        for how, operations in (("eager", step.operations), ("fused", fused(step.operations))):
            seconds = machine.seconds(operations)
            row |= {
                f"{how}_ms": 1e3 * seconds,
                f"{how}_images_per_s": RATIO * labelled / seconds,
                f"{how}_utilisation": step.flops / seconds / (gpu.half_tflops * 1e12),
            }
        rows.append({**row, "samples": [], **environment()})  # of a measurement there would be some
    return rows


def on_this_cpu(labelled: int, rounds: int) -> dict[str, Any]:
    """The step of ViT-S in fp32, predicted from what is measured in the same rounds, and measured."""
    device, dtype = torch.device("cpu"), torch.float32
    step = ProductStep(SIZES["S"], labelled, Precision(device, dtype), compiled=False, augment=False)
    step.step()
    with Watch(device=device) as watch:
        step.step()
    product, operations = matmul(device, dtype)
    source, small = torch.zeros(COPIED, dtype=torch.uint8), torch.zeros(1)
    target = torch.empty_like(source)
    cases = [
        harness.Case(STEP, step.step),
        harness.Case(PRODUCT, product),
        harness.Case(COPY, lambda: target.copy_(source)),
        harness.Case(SMALL, lambda: [small.add(1) for _ in range(1000)]),
    ]
    found = {each.case.name: each.seconds for each in harness.measure(cases, rounds=rounds)}
    step.close()
    sums = [
        Machine(operations / p, 2 * COPIED / c, s / 1000).seconds(watch.operations)
        for p, c, s in zip(found[PRODUCT], found[COPY], found[SMALL], strict=True)
    ]
    return {
        **{"name": "predicted/CPU", "kind": "cpu", "model": SIZES["S"].name, "precision": "float32"},
        **{
            "labelled": labelled,
            "unlabelled": RATIO * labelled,
            "n": rounds,
            "launches": len(watch.operations),
        },
        "samples": [1e3 * s for s in found[STEP]],
        "measured_ms": harness.spread([1e3 * s for s in found[STEP]]),
        "predicted_ms": harness.spread([1e3 * s for s in sums]),
        "of_measured": harness.spread([p / m for p, m in zip(sums, found[STEP], strict=True)]),
        "tflops": harness.spread([operations / s / 1e12 for s in found[PRODUCT]]),
        "gb_per_s": harness.spread([2 * COPIED / s / 1e9 for s in found[COPY]]),
        "gap_us": harness.spread([1e3 * s for s in found[SMALL]]),
        **{"threads": torch.get_num_threads(), "device": "cpu", **environment()},
    }


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Predict, print and write what the command line asks for.

    Raises:
        UserError: Wrong options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="S,B,L,H", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--cpu-batch", type=int, default=2, help="labelled images; 0 for no step on the CPU")
    parser.add_argument("--rounds", type=int, default=5, help="of what is measured on the CPU")
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args(argv)
    models = args.models.split(",")
    if unknown := [name for name in models if name not in NAMES]:
        raise UserError(f"--models {unknown[0]!r} is unknown; use {', '.join(NAMES)}")
    if args.cpu_batch < 0:
        raise UserError(f"--cpu-batch is {args.cpu_batch}; it must be 0 or more")
    rows = [row for name in models for row in on_gpus(name)]
    if args.cpu_batch:
        rows.append(on_this_cpu(args.cpu_batch, args.rounds))
    print(predicted(rows))
    if args.json:
        harness.write(args.json, rows)
    return rows


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
