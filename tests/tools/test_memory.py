"""The memory estimate against real allocations on a CPU, where PyTorch's profiler sees every byte."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.models.create import checkpoint_activations, create_model, use_fused_attention
from fastsemi.models.settings import ModelConfig
from fastsemi.run import config as configuration
from fastsemi.run.memory import estimate
from fastsemi.run.meta_networks import frozen_copy, meta_network
from fastsemi.run.trace import trace_step
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
    step(*networks).backward()
    with torch.profiler.profile(profile_memory=True) as profile:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = step(*networks)
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
    assert trace.saved == pytest.approx(
        saved, rel=0.04
    )  # besides tensors, checkpoints keep 5 kB of random state


def fake_bytes(model: ModelConfig, checkpointing: bool, dtype: torch.dtype, fused: bool):
    with torch.device("meta"):
        network = build(model, checkpointing)
    return trace_step((network,), supervised, dtype=dtype, cuda_rules=False, fused_attention=fused)


def test_a_teacher_adds_its_forward_pass_only():
    network = build(VIT, False)
    peak, _ = real_bytes(with_teacher, (network, frozen_copy(network)), torch.float32)
    with torch.device("meta"):
        fake = build(VIT, False)
    step = {"dtype": torch.float32, "cuda_rules": False, "fused_attention": True}
    trace = trace_step((fake, frozen_copy(fake)), with_teacher, **step)
    assert trace.activations == pytest.approx(peak, rel=0.02)


def test_norms_in_fp32_as_on_cuda_need_more():
    with torch.device("meta"):
        networks = [build(CONVNEXT, False) for _ in range(2)]
    cpu, cuda = (
        trace_step((n,), supervised, dtype=torch.bfloat16, cuda_rules=rules, fused_attention=True)
        for n, rules in zip(networks, (False, True), strict=True)
    )
    assert cuda.saved > 1.05 * cpu.saved


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "semi"])
def test_weights_and_optimizer_are_exact(tiny, stage):
    config = tiny()
    network = meta_network(config, stage, 3)
    real = network.to_empty(device="cpu")
    optimizer = create_optimizer(real, weight_decay=0.0, layer_decay=1.0, betas=(0.9, 0.999))
    for parameter in real.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [v for s in optimizer.state.values() for k, v in s.items() if k != "step"]
    got = estimate(config, stage, classes=3)
    assert got.parameters == sum(t.nbytes for t in (*real.parameters(), *real.buffers()))
    assert got.gradients == sum(p.grad.nbytes for p in real.parameters())
    assert got.optimizer == sum(t.nbytes for t in moments)
    assert got.teacher == (got.parameters if stage == "semi" else 0)
    assert got.total == sum(vars(got).values())


def test_fixed_position_embeddings_have_no_gradient(tiny):
    learned, fixed = (estimate(tiny("--model.pos_embed", p), "semi", classes=3) for p in ("learn", "sincos"))
    assert fixed.parameters == learned.parameters
    assert learned.gradients - fixed.gradients == 4 * 32 * 17  # 16 patches and the class token


def test_an_average_of_weights_counts_as_a_teacher(tiny):
    got = estimate(tiny("--finetune.ema", "0.99"), "finetune", classes=3)
    assert got.teacher == got.parameters


def test_fsdp_shares_out_the_state_but_not_accumulated_gradients(tiny):
    config = tiny("--semi.micro_batches", "2")
    alone = estimate(config, "semi", classes=3, dtype=torch.float32)
    two = estimate(config, "semi", classes=3, dtype=torch.float32, strategy="fsdp", world=2)
    for part in ("parameters", "gradients", "optimizer", "teacher"):
        assert getattr(two, part) == -(-getattr(alone, part) // 2)
    assert two.activations == alone.activations and two.gathered > 0 == alone.gathered
    four = tiny("--semi.batch", "12", "--semi.micro_batches", "4")
    accumulating = estimate(four, "semi", classes=3, dtype=torch.float32, strategy="fsdp", world=2)
    assert accumulating.gradients == alone.gradients


def test_more_micro_batches_need_less(tiny):
    one, three = (estimate(tiny("--semi.micro_batches", n), "semi", classes=3) for n in ("1", "3"))
    assert three.activations < one.activations / 2
    assert three.parameters == one.parameters


def test_a_batch_that_does_not_divide_is_refused(tiny):
    config = tiny()
    config = replace(config, semi=replace(config.semi, micro_batches=4))
    with pytest.raises(UserError, match=r"semi.batch of 6 does not divide into 4"):
        estimate(config, "semi", classes=3)


@pytest.mark.parametrize("preset", ["vit_huge_10p", "vit_huge_1p"])
def test_vit_huge_fits_eight_gpus_of_32_gb_at_the_papers_batch(preset):
    config = configuration.load([IMAGENET / f"{preset}.yaml"], [])
    for stage in config.stages:
        got = estimate(config, stage, classes=1000, strategy="ddp", world=8, dtype=torch.float16)
        assert got.parameters + got.gradients + got.optimizer == 16 * 632_045_800
        assert got.total < 32 * 10**9
