"""The memory estimate against real allocations on a CPU, where PyTorch's profiler sees every byte."""

import copy
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.loaders.plan.types import LoadedBatch
from fastsemi.models.create import checkpoint_activations, create_model, use_fused_attention
from fastsemi.models.settings import ModelConfig
from fastsemi.run import config as configuration
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.run.fake_stage import FakeStage
from fastsemi.run.memory import measure_stage
from fastsemi.run.new_stage import new_model, new_stage
from fastsemi.run.shape_kernels import ShapeKernels
from fastsemi.run.trace import feed_norms_fp32, materialise, trace_step
from fastsemi.stages.finetune import Finetune
from fastsemi.stages.inputs import Views
from fastsemi.stages.semi import Semi
from fastsemi.tools.estimate.sizes import open_data
from fastsemi.training.optim import create_optimizer

IMAGENET = Path(__file__).parents[2] / "configs/imagenet"
VIT = ModelConfig("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 2})
CONVNEXT = ModelConfig("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48)}, pool="default")
BATCH, SIZE, CLASSES = 16, 64, 10


def supervised(network: nn.Module) -> torch.Tensor:
    return network(torch.zeros(BATCH, 3, SIZE, SIZE)).float().log_softmax(1).mean()


def with_teacher(network: nn.Module, teacher: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        teacher(torch.zeros(BATCH, 3, SIZE, SIZE)).float().softmax(1)
    return supervised(network)


def build(config: ModelConfig, checkpointing: bool) -> nn.Module:
    network = create_model(config, num_classes=CLASSES, image_size=SIZE, drop_path=0.1).train()
    if checkpointing:
        checkpoint_activations(network, config.name)
    return network


def real_bytes(step, networks, dtype: torch.dtype) -> tuple[int, int]:
    """What a second micro-batch allocates on top of weights and gradients: (most, between the passes)."""

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return step(*networks)

    forward().backward()
    with torch.profiler.profile(profile_memory=True) as profile:
        loss = forward()
        with torch.profiler.record_function("between"):
            pass
        loss.backward()
    events = profile.profiler.kineto_results.events()
    between = next(e.start_ns() for e in events if e.name() == "between")
    now = peak = saved = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
        if event.start_ns() < between:
            saved = now
    return peak, saved


@pytest.mark.parametrize("fused", [False, True], ids=["plain_attention", "fused_attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_bytes_of_a_vit_are_what_a_cpu_really_allocates(checkpointing, dtype, fused):
    network = build(VIT, checkpointing)
    use_fused_attention(network, fused)
    peak, saved = real_bytes(supervised, (network,), dtype)
    trace = fake_bytes(VIT, checkpointing, dtype, fused)
    assert trace.saved == pytest.approx(saved, rel=0.02)
    # Kernels of the CPU have small buffers of their own in bf16.
    error = 0.02 if dtype == torch.float32 else 0.06
    assert trace.activations + trace.weight_casts == pytest.approx(peak, rel=error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_a_convnext_saves_what_a_cpu_really_keeps(checkpointing, dtype):
    # Its peak is not compared: convolutions on a CPU have buffers of their own.
    _, saved = real_bytes(supervised, (build(CONVNEXT, checkpointing),), dtype)
    trace = fake_bytes(CONVNEXT, checkpointing, dtype, True)
    # Besides tensors, checkpoints keep 5 kB of random state.
    assert trace.saved == pytest.approx(saved, rel=0.04)


def fake_bytes(model, checkpointing, dtype, fused, *, cuda=False, step=supervised, teacher=False):
    with torch.device("meta"):
        networks = [build(model, checkpointing)]
    if teacher:
        networks.append(copy.deepcopy(networks[0]).eval().requires_grad_(False))
    with FakeTensorMode():
        for network in networks:
            materialise(network)
            use_fused_attention(network, fused)
            if cuda:
                feed_norms_fp32(network)
        return trace_step(lambda: step(*networks), networks, dtype=dtype)


def test_a_teacher_adds_its_forward_pass_only():
    network = build(VIT, False)
    teacher = copy.deepcopy(network).eval().requires_grad_(False)
    peak, _ = real_bytes(with_teacher, (network, teacher), torch.float32)
    trace = fake_bytes(VIT, False, torch.float32, True, step=with_teacher, teacher=True)
    assert trace.activations == pytest.approx(peak, rel=0.02)


def test_norms_in_fp32_as_on_cuda_need_more():
    cpu, cuda = (fake_bytes(CONVNEXT, False, torch.bfloat16, True, cuda=rules) for rules in (False, True))
    assert cuda.saved > 1.05 * cpu.saved


def measure(config, stage, **options):
    return measure_stage(config, stage, Data(config.data, config.loader), **options)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "semi"])
def test_weights_and_optimizer_are_those_of_the_real_stage(tiny, stage):
    run = RunContext(tiny())
    real = build_stage(run, stage, fresh=True).model
    run.close()
    optimizer = create_optimizer(real, weight_decay=0.0, layer_decay=1.0, betas=(0.9, 0.999))
    for parameter in real.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [v for s in optimizer.state.values() for k, v in s.items() if k != "step"]
    got = measure(tiny(), stage).memory()
    assert got.parameters == sum(t.nbytes for t in (*real.parameters(), *real.buffers()))
    assert got.gradients == sum(p.grad.nbytes for p in real.parameters() if p.grad is not None)
    assert got.optimizer == sum(t.nbytes for t in moments)
    assert got.teacher == (got.parameters if stage == "semi" else 0)
    assert got.total == sum(vars(got).values())


def test_fixed_position_embeddings_have_no_gradient(tiny):
    learned, fixed = (
        measure(tiny("--model.pos_embed", kind), "semi").memory() for kind in ("learn", "sincos")
    )
    assert fixed.parameters == learned.parameters
    assert learned.gradients - fixed.gradients == 4 * 32 * 17  # 16 patches and the class token


def test_an_average_of_weights_counts_as_a_teacher(tiny):
    got = measure(tiny("--finetune.ema", "0.99"), "finetune").memory()
    assert got.teacher == got.parameters


def test_fsdp_shares_out_the_state_but_not_accumulated_gradients(tiny):
    needs = measure(tiny("--semi.micro_batches", "2"), "semi", dtype=torch.float32)
    alone, two = needs.memory(), needs.memory("fsdp", 2)
    for part in ("parameters", "gradients", "optimizer", "teacher"):
        assert getattr(two, part) == -(-getattr(alone, part) // 2)
    assert two.activations == alone.activations and two.gathered > 0 == alone.gathered
    four = measure(tiny("--semi.batch", "12", "--semi.micro_batches", "4"), "semi", dtype=torch.float32)
    assert four.memory("fsdp", 2).gradients == alone.gradients


def test_more_micro_batches_need_less(tiny):
    one, three = (measure(tiny("--semi.micro_batches", n), "semi").memory() for n in ("1", "3"))
    assert three.activations < one.activations / 2
    assert three.parameters == one.parameters


def test_a_batch_that_does_not_divide_is_refused(tiny):
    config = tiny()
    config = replace(config, semi=replace(config.semi, micro_batches=4))
    with pytest.raises(UserError, match="does not divide into 4"):
        measure(config, "semi")


def test_images_of_label_spreading_need_memory_too(tiny):
    plain = measure(tiny(), "finetune").memory()
    spread = measure(tiny("--finetune.spread_ratio", "3"), "finetune").memory()
    assert spread.activations > 2 * plain.activations


def test_a_frozen_trunk_needs_neither_gradients_nor_what_they_are_made_from(tiny, tmp_path):
    weights = ("--model.weights", str(tmp_path / "not-read.pth"))
    full, head = (
        measure(tiny(*weights, "--model.adapt", kind), "semi").memory() for kind in ("full", "head")
    )
    assert head.gradients == 4 * (32 + 1) * 3 and full.gradients == full.parameters
    assert head.activations < full.activations / 2
    assert head.teacher == head.gradients  # it shares the rest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune", "semi"])
def test_bytes_of_a_stage_are_what_a_cpu_really_allocates(tiny, stage, dtype, request):
    """The same stage on real tensors, with the same kernels, which allocate but do not compute."""
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)  # each has buffers of its own
    config = tiny()
    fake = FakeStage(config, stage, Data(config.data, config.loader), dtype=dtype, fused_attention=True)
    data = Data(config.data, config.loader)
    views = Views(config.data, torch.device("cpu"), ShapeKernels(), dtype)
    real = new_stage(config, stage, new_model(config, stage, 3), data, views)
    for network in (real.model, *real.followers()):
        use_fused_attention(network, True)
        if dtype != torch.float32:
            feed_norms_fp32(network)
    batch = {}
    for role, images in real.roles.items():
        plan = images.stream.plan(0, 0)
        pixels = torch.zeros(len(plan.views), len(plan.ids), 16, 16, 3, dtype=torch.uint8)
        batch[role] = views.to_device(LoadedBatch(plan, pixels, np.ones(len(plan.ids), bool)))
    peak, saved = real_bytes(lambda: real.loss(batch).loss, (), dtype)
    trace = fake.trace()
    assert trace.saved == pytest.approx(saved, rel=1e-3)
    error = 1e-3 if dtype == torch.float32 else 0.08  # the network is small for the buffers in bf16
    assert trace.activations + trace.weight_casts == pytest.approx(peak, rel=error)


def twice(loss):
    """A loss whose stage runs its network twice, in a chain, so that both passes are kept for backward."""

    def changed(self, batch):
        network = self.network
        self.network = lambda images: network(images) + network(images)
        try:
            return loss(self, batch)
        finally:
            self.network = network

    return changed


@pytest.mark.parametrize(("stage", "kind"), [("finetune", Finetune), ("semi", Semi)])
def test_a_change_of_a_stage_moves_its_estimate(tiny, monkeypatch, stage, kind):
    before = measure(tiny(), stage)
    monkeypatch.setattr(kind, "loss", twice(kind.loss))
    after = measure(tiny(), stage)
    labelled, unlabelled = (6, 30) if stage == "semi" else (12, 0)
    student = 3 * (labelled + unlabelled)  # a backward pass is two forward ones
    assert after.step_flops / before.step_flops == pytest.approx(
        (2 * student + unlabelled) / (student + unlabelled), rel=0.02
    )
    assert after.memory().activations > 1.7 * before.memory().activations
    assert after.memory().parameters == before.memory().parameters


def test_what_a_stage_keeps_counts_too(tiny, monkeypatch):
    before = measure(tiny(), "semi").memory()
    followers = Semi.followers
    monkeypatch.setattr(Semi, "followers", lambda self: [*followers(self), self.second])
    build = Semi.__init__

    def with_second_teacher(self, *args, **options):
        build(self, *args, **options)
        self.second = copy.deepcopy(self.teacher.model)

    monkeypatch.setattr(Semi, "__init__", with_second_teacher)
    after = measure(tiny(), "semi").memory()
    assert after.teacher == 2 * before.teacher and after.parameters == before.parameters


def test_vit_huge_fits_eight_gpus_of_32_gb_at_the_papers_batch(tmp_path, monkeypatch, measured):
    """With 1 % of the labels too, where micro-batches are no larger and nothing more is kept."""
    config, fewer = (
        configuration.load([IMAGENET / f"vit_huge_{labels}.yaml"], []) for labels in ("10p", "1p")
    )
    monkeypatch.chdir(tmp_path)
    unknown = Namespace(train_images=None, classes=None, unlabelled_images=None)
    data, _ = open_data(config, unknown)
    assert fewer.stages == config.stages and fewer.finetune.ema == 0
    for stage in config.stages:
        own, other = getattr(config, stage), getattr(fewer, stage)
        assert other.batch / other.micro_batches <= own.batch / own.micro_batches
        got = measured(config, stage, data, dtype=torch.float16).memory("ddp", 8)
        assert got.parameters + got.gradients + got.optimizer == 16 * 632_045_800
        assert got.total < 32 * 10**9
