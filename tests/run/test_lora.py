"""Runs that train LoRA: what they leave, how they resume, what they are estimated to need."""

import timm
import torch

from fastsemi.common.progress import Progress, QuietConsole
from fastsemi.loaders.data import Data
from fastsemi.run.folder import RunFolder
from fastsemi.run.memory import measure_stage
from fastsemi.run.run import Run
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.checkpoint.folder import Checkpoints, shapes
from fastsemi.training.trainer import Interrupted


class _Stopping(Progress):
    """Stops the run at a step of the semi stage."""

    def __init__(self, step):
        super().__init__(QuietConsole(quiet=True))
        self._step = step

    def update(self, step, row):
        if self._stage == "semi" and step == self._step:
            raise Interrupted("here")


def published(path, seed=0):
    """A file of weights that a run starts from."""
    torch.manual_seed(seed)
    args = {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "global_pool": "avg",
    }
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=3, **args).state_dict(), path)
    return path


def test_a_run_resumes_and_leaves_plain_weights(tiny, tmp_path):
    options = ("--stages", "[finetune, semi]", "--model.adapt", "lora", "--model.lora_rank", "4")
    options += ("--model.weights", str(published(tmp_path / "start.pth")), "--finetune.base_lr", "0.1")
    found = []
    for name, stop in (("whole", -1), ("stopped", 6)):
        config = tiny(*options, "--output", str(tmp_path / name))
        try:
            Run(config, _Stopping(stop)).train(config.stages)
        except Interrupted:
            kept = shapes(Checkpoints(config.output / "checkpoints", "semi").latest())
            assert kept["model.blocks.1.attn.qkv.lora_b"] == (96, 4)
            assert kept["extra.teacher.blocks.1.attn.qkv.lora_b"] == (96, 4)
            Run(config, _Stopping(-1)).train(config.stages)
        found.append(
            {s: checkpoint_file.load(RunFolder(config.output).result(s))["model"] for s in config.stages}
        )
    start = checkpoint_file.load(tmp_path / "start.pth")
    for stage, state in found[0].items():
        assert state.keys() == start.keys()
        assert not torch.equal(state["blocks.0.attn.qkv.weight"], start["blocks.0.attn.qkv.weight"])
        assert torch.equal(state["blocks.0.norm1.weight"], start["blocks.0.norm1.weight"])
        assert all(torch.equal(tensor, found[1][stage][name]) for name, tensor in state.items())
    model = timm.create_model(f"local-dir:{tmp_path / 'whole' / 'model'}", pretrained=True)
    assert all(torch.equal(tensor, found[0]["semi"][name]) for name, tensor in model.state_dict().items())


def test_the_estimate_counts_what_is_trained(tiny, tmp_path):
    weights = ("--model.weights", str(tmp_path / "not-read.pth"))
    full, lora = (
        measure_stage(config, "semi", Data(config.data, config.loader), dtype=torch.float32)
        for config in (tiny(*weights), tiny(*weights, "--model.adapt", "lora", "--model.lora_rank", "4"))
    )
    # A and B of qkv, proj, fc1 and fc2 in two blocks of width 32, and the head.
    numbers = 2 * 4 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32)) + (32 + 1) * 3
    assert sum(lora.groups) == numbers and lora.memory().optimizer == 2 * 4 * numbers
    assert lora.memory().teacher == lora.memory().gradients == 4 * numbers
    assert lora.weights == full.weights + numbers - 99
    assert lora.trace.flops < full.trace.flops
