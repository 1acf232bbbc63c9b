"""Compiled networks train as others do."""

import json

import pytest
import torch
from rich.console import Console
from torch._dynamo.testing import CompileCounter

from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig
from fastsemi.run.config import load
from fastsemi.run.run import Run
from fastsemi.stages.compaction import Compaction
from fastsemi.training.compiled import compile_networks
from fastsemi.training.settings import CompileConfig


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_run_has_the_same_losses_weights_and_teacher(tiny, tmp_path):
    """Drop path, layer decay, the average and the sizes that skipping gives are on."""
    curves, weights = {}, {}
    for compiled in ("false", "true"):
        config = tiny(
            *(
                "--stages",
                "[semi]",
                "--semi.length",
                "8 steps",
                "--log_every",
                "1",
                "--semi.drop_path",
                "0.5",
            ),
            *("--semi.layer_decay", "0.5", "--semi.threshold", "0.36", "--semi.eval_every", "8 steps"),
            *("--semi.merge_tokens", "2"),
            *("--compile.enabled", compiled, "--precision", "fp32", "--output", str(tmp_path / compiled)),
        )
        run = Run(config, Progress(Console(quiet=True)))
        run.train(["semi"])
        rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
        curves[compiled] = [row["loss"] for row in rows if "loss" in row]
        weights[compiled] = torch.load(run.folder.result("semi"), weights_only=True)["model"]
    assert len(set(curves["false"])) == 8, "the loss moves"
    assert curves["true"] == pytest.approx(curves["false"], rel=1e-5)
    assert weights["true"].keys() == weights["false"].keys(), "names do not change"
    for name, weight in weights["false"].items():
        torch.testing.assert_close(weights["true"][name], weight, rtol=1e-4, atol=1e-5)


def test_nothing_is_compiled_unless_asked():
    network = torch.nn.Linear(2, 2)
    compile_networks([network], CompileConfig(), torch.device("cpu"))
    assert network._compiled_call_impl is None


def test_the_sizes_that_skipping_gives_make_two_graphs():
    """One for the first size, one for any other: PyTorch compiles no third time."""
    torch._dynamo.reset()
    args = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 1}
    model = ModelConfig("vit_tiny_patch16_224", args)
    network = create_model(model, num_classes=3, image_size=8, drop_path=0.2).train()
    counter = CompileCounter()
    network.compile(backend=counter)
    labelled, unlabelled = torch.rand(4, 3, 8, 8), torch.rand(40, 3, 8, 8)
    sizes = set()
    for count in (13, 40, 0, 1, 22, 9, 30, 17, 33, 26, 5):
        kept = Compaction(torch.arange(40) < count).select(unlabelled)
        network(torch.cat([labelled, kept])).sum().backward()
        sizes.add(len(kept))
    assert sizes == {0, 5, 10, 15, 20, 25, 30, 35, 40}
    assert counter.frame_count == 2
    torch._dynamo.reset()


def test_graphs_need_a_gpu_and_compiled_networks():
    with pytest.raises(UserError, match=r"set compile\.enabled to true"):
        CompileConfig(cuda_graphs=True)
    with pytest.raises(UserError, match="needs a CUDA GPU, not cpu"):
        compile_networks([], CompileConfig(enabled=True, cuda_graphs=True), torch.device("cpu"))
    graphs = ["--compile.enabled", "true", "--compile.cuda_graphs", "true"]
    with pytest.raises(UserError, match=r"set compile\.cuda_graphs to false or distributed\.strategy to ddp"):
        load([], [*graphs, "--distributed.strategy", "fsdp", "--data.root", "x"])


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["pretrain", "semi"])
@pytest.mark.parametrize("micro_batches", ["1", "2"])
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_a_compiled_run_on_a_gpu_has_about_the_same_losses(tiny, tmp_path, graphs, micro_batches, stage):
    curves = {}
    for compiled in ("false", "true"):
        config = tiny(
            *("--stages", f"[{stage}]", f"--{stage}.length", "8 steps", "--log_every", "1"),
            *("--compile.enabled", compiled, "--precision", "fp32", "--output", str(tmp_path / compiled)),
            *("--compile.cuda_graphs", graphs if compiled == "true" else "false", "--device", "cuda"),
            *(f"--{stage}.micro_batches", micro_batches),
        )
        Run(config, Progress(Console(quiet=True))).train([stage])
        rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
        curves[compiled] = [row["loss"] for row in rows if "loss" in row]
    assert curves["true"] == pytest.approx(curves["false"], rel=1e-3)
