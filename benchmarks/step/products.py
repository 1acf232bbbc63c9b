"""The matrix products of the semi step on a CPU: at which share of a large product's rate each of them runs.

    OMP_NUM_THREADS=1 python -m benchmarks.step.products [--model S] [--batch 3] [--precision bf16]
        [--json OUT.json]

Whole updates through the trainer on loaded batches, every sample kept, as in
`benchmarks.step.steps`. A round has a large square product, a step, a step whose operations are timed one by
one, and each product of the step alone, with the operands that one step had. Time is the processors'. Were
all but the products free, a step would run at their rate: the table has that bound.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness import harness, result_tables
from benchmarks.step.step_cases import RATIO, SIZES, ProductStep, Size, forward_flops, matmul, model_flops
from benchmarks.step.tree_worker import kind_of
from fastsemi.common.allocator import keep_memory
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision

KINDS = {  # of operations that `benchmarks.step.tree_worker` sorts by what they are a part of
    "aten::_fused_adamw_": "update",
    "aten::clone": "copies",
    "aten::_to_copy": "copies",
    "aten::sum": "gradients of biases",
    "aten::add": "residuals",
}
STEP, WATCHED, SQUARE = "step", "step, operations timed", "square product"
TURNED = "square product, right factor transposed"  # as linear layers have their weights


@dataclass
class Product:
    """A kind of product in a step: an operation on operands of some shapes and strides."""

    group: str
    flops: float
    call: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    """Of each time it ran in a step."""


class Watch(TorchDispatchMode):
    """Times each operation by the processors' time; keeps an example of each product."""

    def __init__(self) -> None:
        super().__init__()
        self.products: dict[str, Product] = {}
        self.others: defaultdict[str, float] = defaultdict(float)
        """Seconds of what is no product, by kind."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and note."""
        call = partial(func, *args, **(kwargs or {}))
        start = time.process_time()
        result = call()
        took = time.process_time() - start
        name = func._schema.name
        if found := work(name, args, result):
            operands = [(tuple(x.shape), x.stride()) for x in args if isinstance(x, Tensor)]
            key = f"{name} {operands}"
            self.products.setdefault(key, Product(*found, call)).seconds.append(took)
        else:
            self.others[KINDS.get(name) or kind_of(name, [])] += took
        return result


def work(name: str, args: Any, result: Any) -> tuple[str, float] | None:
    """The group of a product, and its floating-point operations; None for what is no product."""
    if name == "aten::bmm":
        return "attention", 2.0 * result.numel() * args[0].shape[-1]
    if name.startswith("aten::_scaled_dot_product"):  # Q K^T, which backward makes anew, counts once
        backward = name.endswith("_backward")
        query, key = args[1:3] if backward else args[:2]
        return "attention", (8.0 if backward else 4.0) * query.numel() * key.shape[-2]
    if name in ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"):
        left = args[1] if name == "aten::addmm" else args[0]
        flops = 2.0 * result.numel() * left.shape[-1]
        if name != "aten::mm":
            return "linear layers, forward", flops
        turned = left.stride(-1) != 1
        return f"linear layers, gradients of the {'weights' if turned else 'inputs'}", flops
    if name == "aten::convolution":
        return "patch embedding", 2.0 * result.numel() * math.prod(args[1].shape[1:])
    if name == "aten::convolution_backward":
        wanted = sum(args[10][:2])  # of the images and of the weights
        return "patch embedding", 2.0 * args[0].numel() * math.prod(args[2].shape[1:]) * wanted
    return None


def measure(size: Size, labelled: int, precision: Precision, side: int, rounds: int) -> list[dict[str, Any]]:
    """Rows: a square product of that side, the step, and every kind of product in it."""
    step = ProductStep(size, labelled, precision, compiled="no", augment=False)
    first = Watch()
    step.step()  # AdamW makes its moments
    with first:
        step.step()
    watch = Watch()

    def watched() -> None:
        with watch:
            step.step()

    square, operations = matmul(side, precision.device, precision.dtype)
    known = {f"{i}: {each.group}": key for i, (key, each) in enumerate(first.products.items())}
    left, right = (torch.randn(side, side).to(precision.dtype) for _ in range(2))
    turned = partial(torch.mm, left, right.t())
    runs: dict[str, Callable[[], object]] = {
        SQUARE: square,
        TURNED: turned,
        STEP: step.step,
        WATCHED: watched,
    }
    runs |= {name: first.products[key].call for name, key in known.items()}
    cases = [harness.Case(name, torch.no_grad()(run) if name in known else run) for name, run in runs.items()]
    cases = [harness.Case(case.name, case.run, timer=harness.processor_seconds) for case in cases]
    measured = harness.measure(cases, rounds=rounds, progress=lambda text: print(text, file=sys.stderr))
    settings = {
        "model": size.name,
        "labelled": labelled,
        "unlabelled": RATIO * labelled,
        "precision": str(precision.dtype).removeprefix("torch."),
        "clock": "processors' time",
        "square": side,
    }
    rows = harness.rows(measured, unit="ms", threads=torch.get_num_threads(), configuration=settings)
    steps = rounds + 1  # with the one that was warm-up
    model = model_flops(forward_flops(size), labelled, RATIO * labelled)
    for row in rows:
        if row["name"] in (SQUARE, TURNED):
            row["flops"] = operations
        elif row["name"] == STEP:
            row |= {"flops": model, "others_ms": {k: 1e3 * s / steps for k, s in watch.others.items()}}
        elif row["name"] in known:
            seen = watch.products[known[row["name"]]]
            in_step = {"in_step_ms": 1e3 * statistics.median(seen.seconds)}
            row |= {"group": seen.group, "flops": seen.flops, "calls": len(seen.seconds) / steps, **in_step}
    step.close()
    return rows


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="S", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--batch", type=int, default=3, help="labelled images of a step")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--side", type=int, default=2048, help="of the square product")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args(argv)
    if args.model not in SIZES:
        raise UserError(f"--model {args.model!r} is unknown; use {', '.join(SIZES)}")
    keep_memory()
    precision = Precision.select(args.precision, torch.device("cpu"))
    rows = measure(SIZES[args.model], args.batch, precision, args.side, args.rounds)
    if args.json:
        harness.write(args.json, rows)
    print(result_tables.products(rows))
    return rows


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
