"""What torch.compile makes of the networks, without its slow back end: no break, few graphs."""

import copy

import pytest
import torch
from rich.console import Console
from timm.models.vision_transformer import Attention
from torch import nn
from torch._dynamo.utils import counters

from fastsemi.common.progress import Progress
from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig
from fastsemi.run.build import build_stage, build_trainer
from fastsemi.run.context import RunContext
from fastsemi.training.compiled import compile_networks
from fastsemi.training.metrics import MetricLog
from fastsemi.training.settings import CompileConfig

VIT = {"patch_size": 8, "embed_dim": 16, "num_heads": 1}
MOST = 4  # student and teacher, each for its first number of images and for any


@pytest.fixture(autouse=True)
def traced_alone(monkeypatch):
    """torch.compile that takes the program apart, and runs what it finds as it is."""
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: compile_(self, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def blocks_trained(depth):
    """Student and teacher compiled by block, as under FSDP, with micro-batches of several sizes."""
    model = ModelConfig("vit_tiny_patch16_224", {**VIT, "depth": depth})
    student = create_model(model, num_classes=3, image_size=16, drop_path=0.1).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    compile_networks([*student.blocks, *teacher.blocks], CompileConfig(True), torch.device("cpu"))
    for size in (4, 8, 6):
        images = torch.zeros(size, 3, 16, 16)
        with torch.no_grad():
            teacher(images)
        student(images).sum().backward()
    assert counters["frames"]["total"] == counters["frames"]["ok"]
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("depth", [3, 32])
def test_blocks_with_drop_path_share_their_graphs(depth):
    assert blocks_trained(depth) <= MOST
    assert not counters["graph_break"]


def test_blocks_with_rates_of_their_own_are_found(monkeypatch):
    monkeypatch.setattr("fastsemi.training.compiled.share_drop_path", lambda blocks: None)
    assert blocks_trained(4) > MOST


def test_a_graph_break_is_found(monkeypatch):
    forward = Attention.forward

    def broken(self, *args, **kwargs):
        torch._dynamo.graph_break()
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Attention, "forward", broken)
    blocks_trained(3)
    assert counters["graph_break"]


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("pretrain", ()),
        ("finetune", ("--finetune.drop_path", "0.3")),
        ("semi", ("--semi.drop_path", "0.3")),
        ("semi", ("--semi.merge_tokens", "2")),
    ],
)
def test_a_stage_breaks_no_graph(tiny, stage, options):
    run = RunContext(tiny("--stages", f"[{stage}]", "--compile.enabled", "true", *options))
    log = MetricLog(run.folder.metrics, run.folder.board)
    stage_built = build_stage(run, stage, fresh=True)
    trainer = build_trainer(run, stage_built, stage, log, Progress(Console(quiet=True)))
    try:
        with trainer.batches(trainer.data.load) as batches:
            for _ in range(3):
                trainer.update(batches)
                trainer.step += 1
    finally:
        run.close()
    assert 0 < counters["stats"]["unique_graphs"] <= MOST
    assert not counters["graph_break"] and counters["frames"]["total"] == counters["frames"]["ok"]
