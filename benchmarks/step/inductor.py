"""What torch.compile makes of the semi step's networks for a GPU: COMPILED for an H100, run on none.

    python -m benchmarks.step.inductor [--models S,B] [--json OUT.json]

Student, forward and backward, and teacher are taken through Dynamo, AOTAutograd and Inductor on fake tensors
(`benchmarks.step.lowering`), at the batches of `benchmarks.step.predicted`. Beside Inductor's launches and
bytes stand those of the same call without it, and those of the roofline's guess, which takes all between two
products for one launch. Times are the same roofline over each. What is not compiled is not in it: views,
mixing, the loss, the optimizer, the teacher's update.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.harness import harness
from benchmarks.harness.environment import environment
from benchmarks.harness.result_tables import inductor
from benchmarks.step.lowering import Graph, lower
from benchmarks.step.predicted import Machine, fused
from benchmarks.step.step_cases import RATIO, SIZES, Size
from fastsemi.common.errors import UserError
from fastsemi.models.create import create_model
from fastsemi.run.pretended_cuda import DEVICE, pretended_cuda
from fastsemi.run.trace import Operation, Watch, materialise
from fastsemi.tools.estimate.gpus import GPUS

GPU = GPUS["h100"]
DTYPE = torch.bfloat16
PASSES = {"forward": "student, forward", "backward": "student, backward", "inference": "teacher"}


def of_network(size: Size) -> list[dict[str, Any]]:
    """Rows of one network, each a pass of the student or of the teacher."""
    shape: dict[str, Any] = {"num_classes": size.classes, "image_size": size.image_size}
    student, teacher = (create_model(size.model, drop_path=size.drop_path, **shape) for _ in range(2))
    rows = []
    with pretended_cuda(), FakeTensorMode(allow_non_fake_inputs=True):
        for network, ratio in ((student.train(), 1 + RATIO), (teacher.eval().requires_grad_(False), RATIO)):
            materialise(network, DEVICE)
            count = size.gpu_batch * ratio
            images = torch.empty(count, 3, *[size.image_size] * 2, device=DEVICE, dtype=DTYPE)
            with nullcontext() if network.training else torch.no_grad():
                eager, graphs = _eager(network, images), lower(network, images, DTYPE)
            assert [graph.what for graph in graphs] == list(eager), "a graph is broken"
            for graph in graphs:
                name = PASSES[graph.what]
                row = {"name": f"inductor/{size.name}/{name}", "model": size.name, "pass": name}
                row |= {"images": count, "precision": str(DTYPE).removeprefix("torch."), "gpu": GPU.label}
                rows.append(row | _counts(eager[graph.what], graph))
    return [{**row, "samples": [], **environment()} for row in rows]  # of a measurement there would be some


def _eager(network: nn.Module, images: Tensor) -> dict[str, list[Operation]]:
    """The launches of each pass without torch.compile."""
    with Watch(device=DEVICE) as watch:
        with torch.autocast("cuda", DTYPE):
            logits = network(images)
        if not network.training:
            return {"inference": watch.operations}
        forward = len(watch.operations)
        logits.backward(torch.empty_like(logits))
    return {"forward": watch.operations[:forward], "backward": watch.operations[forward:]}


def _counts(eager: list[Operation], graph: Graph) -> dict[str, Any]:
    """Launches, bytes besides those of products, and ms: eager, as guessed, and by Inductor."""
    machine = Machine.of_gpu(GPU)
    counts: dict[str, Any] = {
        "kernels": graph.kernels,
        "products": len(graph.products),
        "others": len(graph.fused) - graph.kernels + graph.others.total(),
    }
    ways = {"eager": eager, "guess": fused(eager), "inductor": [*graph.products, *graph.fused]}
    for way, operations in ways.items():
        counts[f"{way}_bytes"] = _bytes(operation for operation in operations if not operation.flops)
        counts[f"{way}_launches"] = len(operations)
        counts[f"{way}_ms"] = 1e3 * machine.seconds(operations)
    # The few bytes of random numbers are in none of the lists; their launches are.
    counts["inductor_launches"] = graph.launches
    counts["inductor_ms"] += 1e3 * machine.gap_s * graph.others.total()
    return counts


def _bytes(operations: Iterable[Operation]) -> int:
    return sum(operation.read + operation.written for operation in operations)


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Compile, print and write what the command line asks for.

    Raises:
        UserError: Wrong options.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="S,B", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args(argv)
    models = args.models.split(",")
    if unknown := [name for name in models if name not in SIZES]:
        raise UserError(f"--models {unknown[0]!r} is unknown; use {', '.join(SIZES)}")
    rows = [row for name in models for row in of_network(SIZES[name])]
    print(inductor(rows))
    if args.json:
        harness.write(args.json, rows)
    return rows


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
