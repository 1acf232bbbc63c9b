"""The command `fastsemi estimate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fastsemi.commands.options import add_size_options, command_parser, configure
from fastsemi.common.errors import UserError

GPUS_PER_NODE = 8


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi estimate` with the words that follow it; returns the exit code."""
    parser = command_parser("estimate", "Steps, memory, loader rate and hours of a run before it is started.")
    parser.add_argument("--gpu", default="h100", help="what the run goes on: v100, a100-80, h100, ...")
    parser.add_argument("--gpus", type=int, default=1, help="how many, on all nodes together")
    parser.add_argument("--nodes", type=int, help="machines; default: 8 GPUs each")
    parser.add_argument("--utilisation", type=float, default=0.4, help="of the GPU's peak, where unmeasured")
    parser.add_argument("--images_per_s", type=float, help="measured on one such GPU; needs a single stage")
    parser.add_argument(
        "--measured",
        type=Path,
        action="append",
        help="JSON of python -m benchmarks.steps --json, which gives the rate",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_size_options(parser)
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    if options.images_per_s is not None and len(config.stages) > 1:
        raise UserError(
            "--images_per_s is the rate of one stage, and there are several; add --stages '[semi]' or another"
        )
    for name in ("gpus", "nodes"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 1")
    from fastsemi.common.progress import QuietConsole
    from fastsemi.run.fit_batches import fit_batches
    from fastsemi.tools.estimate.cost_table import show, to_json
    from fastsemi.tools.estimate.gpus import find_gpu
    from fastsemi.tools.estimate.sizes import open_data
    from fastsemi.tools.estimate.stages import Cluster, cost_stage, plan_stage

    nodes = -(-options.gpus // GPUS_PER_NODE) if options.nodes is None else options.nodes
    job = Cluster(
        find_gpu(options.gpu),
        options.gpus,
        nodes,
        options.utilisation,
        options.images_per_s,
        tuple(options.measured or ()),
    )
    data, sizes = open_data(config, options)
    config = fit_batches(config, data, config.stages, options.by_hand)
    plans = [plan_stage(config, name, data) for name in config.stages]
    costs = [cost_stage(config, plan, job, data) for plan in plans]
    if options.json:
        sys.stdout.write(json.dumps(to_json(costs, job, sizes), indent=2) + "\n")
    else:
        show(costs, job, sizes, QuietConsole())
    return 0
