"""The figures of docs/cluster.md are those of the command that the page names."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from fastsemi.commands import cli
from fastsemi.tools.estimate import stages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/cluster.md").read_text()
COMMAND = [
    "--config",
    str(ROOT / "configs/imagenet/vit_huge_10p.yaml"),
    "--gpus",
    "8",
    "--gpu",
    "v100",
    "--stages",
    "[semi]",
    "--json",
]
PARTS = ("parameters", "gradients", "optimizer", "teacher", "weight_casts", "gathered", "activations")


@pytest.fixture(scope="module", params=["kept", "computed again"])
def stage(request, measured):
    """How activations are kept, and the semi stage's part of what the command prints."""
    options = ["--model.activation_checkpointing", "true"] if request.param != "kept" else []
    out = StringIO()
    with redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "measure_stage", measured)
        assert cli.main(["estimate", *COMMAND, *options]) == 0
    return request.param, json.loads(out.getvalue())["stages"]["semi"]


def gib(amount: int) -> str:
    return f"{amount / 2**30:.1f}"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_vit_huge_fits_32_gb_and_the_page_says_how(stage, strategy):
    kept, figures = stage
    memory = figures["memory"][strategy]
    assert memory["total"] < 32 * 10**9  # less than the 32 GiB that the GPU has
    rest = memory["batches"] + memory["reserve"]
    cells = [strategy, kept, *(gib(memory[part]) for part in PARTS), gib(rest), f"**{gib(memory['total'])}**"]
    row = "| " + " | ".join(cells) + " |"
    assert row in PAGE, f"docs/cluster.md lacks: {row}"


def test_the_page_describes_this_step(stage):
    kept, figures = stage
    assert figures["batch"] == {"unlabelled": 640, "labelled": 128} and "128 labelled\nand 640" in PAGE
    assert figures["micro_batches_per_gpu"] == 8 and figures["precision"] == "float16"
    assert figures["strategy"] == "ddp"
    operations = f"{figures['step_flops']['value'] / 1e12:,.0f}"
    assert (f"{operations} instead of" if kept != "kept" else f"instead of {operations} TFLOP") in PAGE
