"""A training run is the same with either implementation of the kernels."""

import json
import os

import pytest
from rich.console import Console

from fastsemi.common.progress import Progress
from fastsemi.run.run import Run


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton's interpreter")
def test_steps_with_triton_and_with_torch_have_the_same_losses(tiny, tmp_path):
    curves = {}
    for kernels in ("torch", "triton"):
        config = tiny(
            *("--stages", "[semi]", "--semi.length", "2 steps", "--log_every", "1", "--kernels", kernels),
            *("--semi.warmup", "0 steps", "--semi.eval_every", "2 steps"),
            *("--output", str(tmp_path / kernels)),
            # The interpreter augments some 10 images/s.
            *("--semi.batch", "2", "--semi.unlabelled_ratio", "2"),
        )
        Run(config, Progress(Console(quiet=True))).train(["semi"])
        rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
        curves[kernels] = [row["loss"] for row in rows if "loss" in row]
    assert len(curves["torch"]) == 2
    assert len(set(curves["torch"])) == 2, "the loss moves"
    assert curves["triton"] == pytest.approx(curves["torch"], rel=1e-4)
