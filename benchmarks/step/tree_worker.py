"""Steps of one source tree, on request: the other end of `benchmarks.step.two_trees`.

It is run as a file, with the tree on PYTHONPATH, and uses only what trees of the past have too. It reads
commands from its standard input, a line each, and answers with a line of JSON: `step` with the seconds of the
processors for one step, `kinds` with the share of each kind of operation, by PyTorch's profiler.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

# The first kind that one of whose words is in an operation's name has it.
KINDS = {
    "products": ("mm", "conv", "linear_pointwise"),
    "activations": ("gelu", "softmax", "clamp", "relu", "hardtanh", "threshold", "silu", "sigmoid"),
    "norms": ("layer_norm", "batch_norm", "group_norm"),
    "pooling": ("pool", "mean"),
    "copies": ("copy_", "cat", "fill_", "zero_", "index"),
    "update": ("adamw", "lerp", "_foreach", "vector_norm"),
}
OTHER = "other"


def kind_of(operation: str, within: list[str]) -> str:
    """The kind of an operation, by its name and those of the operations that it is a part of."""
    if any("optimizer" in name.lower() for name in (operation, *within)):
        return "update"
    return next((kind for kind, words in KINDS.items() if any(w in operation for w in words)), OTHER)


def shares(step: Any, count: int) -> dict[str, float]:
    """The share of each kind in the time of all operations of some steps."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        step(count)
    sums: Counter[str] = Counter()
    for event in found.events():
        within, outer = [], event.cpu_parent
        while outer is not None:
            within.append(outer.name)
            outer = outer.cpu_parent
        kind = kind_of(event.name, within) if event.name.startswith(("aten::", "mkldnn::")) else OTHER
        sums[kind] += event.self_cpu_time_total
    whole = sum(sums.values())
    return {kind: sums[kind] / whole for kind in (*KINDS, OTHER)}


def main(files: list[str], options: list[str], count: int) -> None:
    """Answer until the input ends.

    Args:
        files: Configurations.
        options: Keys of the configuration and their values.
        count: Steps of a measurement; their mean is answered.
    """
    import torch

    from fastsemi.run.config import load
    from fastsemi.tools.profile.job import ProfiledStage

    with tempfile.TemporaryDirectory() as folder:
        config = load([Path(file) for file in files], [*options, "--output", f"{folder}/run"])
        job = ProfiledStage(config, config.stages[-1], Path(folder))
        job.measure_step(2, 1)

        def step(steps: int) -> None:
            job.measure_step(steps, 0)

        settings = job.stage.config
        answer(
            {
                "batch": settings.batch,
                "images": job.images,
                "network": config.model.name,
                "image_size": config.data.image_size,
                "precision": str(job.run.precision.dtype).removeprefix("torch."),
                "threads": torch.get_num_threads(),
            }
        )
        for command in sys.stdin:
            if command.strip() == "kinds":
                answer(shares(step, count))
            else:
                began = time.process_time()
                step(count)
                answer((time.process_time() - began) / count)
        job.close()


def answer(what: Any) -> None:
    """Write a line."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    main(job["files"], job["options"], job["count"])
