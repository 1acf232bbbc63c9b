"""Memory per GPU of a stage, before anything is allocated."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor, nn

from fastsemi.parallel.settings import Strategy
from fastsemi.parallel.shards import blocks
from fastsemi.run.config import Config, StageName
from fastsemi.run.meta_networks import NetworkKey, frozen_copy, has_copy, meta_network, micro_batch, trained
from fastsemi.run.trace import StepTrace, trace_step

# What no tensor of the step holds: CUDA's context, workspaces of cuBLAS and cuDNN, NCCL's buffers. An
# assumption, not a measurement.
CONTEXT_BYTES = 1 << 30
# Memory that PyTorch's caching allocator holds beyond the tensors, as a part of them; an assumption too.
FRAGMENTATION = 0.05


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU when a step needs most; the parts add up to `total`."""

    parameters: int
    """Weights and buffers of the trained network, fp32; FSDP: this rank's shard."""
    gradients: int
    """fp32; DDP's buckets are these same bytes (gradient_as_bucket_view); FSDP: the shard, but whole where a
    process accumulates over micro-batches, since gradients are only exchanged after the last one."""
    optimizer: int
    """AdamW's two moments, fp32; FSDP: the shard."""
    teacher: int
    """The teacher, with its copy in half precision if any, or fine-tuning's average; FSDP: the shard."""
    weight_casts: int
    """Half-precision copies of the weights that autocast keeps; none under FSDP, see `gathered`."""
    gathered: int
    """FSDP only: what lies outside the blocks and two blocks in half precision, and their gradients."""
    activations: int
    """Inputs, tensors saved for backward and temporary ones of one micro-batch."""
    batches: int
    """Loaded uint8 batches on the device: `loader.prefetch` and two more at most."""
    reserve: int
    """CUDA's context, libraries' workspaces and fragmentation: an assumption (1 GiB and 5 %)."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class _Measured:
    """Numbers of a stage that do not depend on strategy and world size."""

    weights: int  # parameters and buffers, elements
    trained: int  # of these with a gradient, elements
    in_blocks: int  # elements of all blocks together
    largest_block: int  # elements
    trace: StepTrace


def estimate(
    config: Config,
    stage: StageName,
    *,
    classes: int,
    strategy: Strategy = "ddp",
    world: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    fused_attention: bool = True,
) -> MemoryEstimate:
    """Estimate the memory of one GPU in a stage.

    Weights, gradients, optimizer and teacher are exact. Activations are found by running forward and backward
    of one micro-batch on tensors without memory (seconds, independent of the model's size); they hold for
    eager mode, and with rejected samples all kept. The first call of a configuration takes seconds, further
    ones with another strategy or world size nothing.

    Args:
        config: The run. The micro-batch is `batch / micro_batches` whatever the world size.
        stage: pretrain, finetune or semi.
        classes: Number of classes, C.
        strategy: ddp (all state on each GPU, also of a single process) or fsdp (state sharded over all GPUs).
        world: GPUs that share the state under fsdp.
        dtype: Type of autocast: torch.float32, bfloat16 or float16.
        fused_attention: Whether attention keeps its [N, N] weights out of memory (PyTorch's flash and
            memory-efficient kernels).

    Returns:
        Bytes, by part; `.total` is the sum.

    Raises:
        UserError: The model refuses its settings, or the batch does not divide into its micro-batches.
    """
    measured = _measure(NetworkKey(config, stage, classes, dtype, fused_attention))
    shards = world if strategy == "fsdp" else 1
    half_teacher = stage == "semi" and config.semi.teacher_dtype != "fp32"
    copies = (4 + 2 * half_teacher) if has_copy(config, stage) else 0
    trace, half = measured.trace, 4 if dtype == torch.float32 else 2
    accumulates = getattr(config, stage).micro_batches > world
    gathered = 0
    if strategy == "fsdp":
        outside = measured.weights - measured.in_blocks
        # The block in work and the next one: weights, gradients, and fp32 gradients on their way.
        gathered = (outside + 2 * measured.largest_block) * (half + half + 4)
    labelled, unlabelled = micro_batch(config, stage)
    pixels = 3 * config.data.image_size**2
    parts = {
        "parameters": _share(4 * measured.weights, shards),
        "gradients": _share(4 * measured.trained, 1 if accumulates else shards),
        "optimizer": _share(8 * measured.trained, shards),
        "teacher": _share(copies * measured.weights, shards),
        "weight_casts": 0 if strategy == "fsdp" else trace.weight_casts,
        "gathered": gathered,
        "activations": trace.without_casts if strategy == "fsdp" else trace.activations,
        "batches": (config.loader.prefetch + 2) * (labelled + 2 * unlabelled) * pixels,
    }
    return MemoryEstimate(**parts, reserve=CONTEXT_BYTES + int(FRAGMENTATION * sum(parts.values())))


_TEACHER = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@lru_cache(maxsize=64)
def _measure(key: NetworkKey) -> _Measured:
    network = meta_network(key.config, key.stage, key.classes)
    weights = sum(t.numel() for t in (*network.parameters(), *network.buffers()))
    with_gradient = sum(p.numel() for p in network.parameters() if p.requires_grad)
    units = [sum(p.numel() for p in block.parameters()) for block in blocks(network)] or [weights]
    followers = (frozen_copy(network).to(_TEACHER[key.config.semi.teacher_dtype]),) * (key.stage == "semi")
    networks = (trained(network, key.config), *followers)
    labelled, unlabelled = micro_batch(key.config, key.stage)
    step = _Step(labelled, unlabelled, key.config.data.image_size, key.dtype)
    run = getattr(step, key.stage)
    trace = trace_step(networks, run, dtype=key.dtype, cuda_rules=True, fused_attention=key.fused)
    return _Measured(weights, with_gradient, sum(units), max(units), trace)


class _Step:
    """Forward passes with the shapes of a micro-batch; what they allocate follows the stages' losses."""

    def __init__(self, labelled: int, unlabelled: int, size: int, dtype: torch.dtype):
        self.labelled, self.unlabelled, self.size, self.dtype = labelled, unlabelled, size, dtype

    def _images(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, 3, self.size, self.size, dtype=dtype)

    def pretrain(self, network: nn.Module) -> Tensor:
        return network(self._images(self.labelled, torch.float32))

    def finetune(self, network: nn.Module) -> Tensor:
        return network(self._images(self.labelled, self.dtype)).float().log_softmax(1).mean()

    def semi(self, network: nn.Module, teacher: nn.Module) -> Tensor:
        own = next(teacher.parameters()).dtype  # in half precision autocast has nothing to do
        with torch.no_grad(), torch.autocast("cpu", enabled=False) if own != torch.float32 else nullcontext():
            weak = self._images(self.unlabelled, self.dtype)
            teacher(weak.to(own) if own != torch.float32 else weak).float().softmax(1)
        mixed = self._images(self.unlabelled, self.dtype)
        labelled = self._images(self.labelled, self.dtype)
        return network(torch.cat([labelled, mixed])).float().log_softmax(1).mean()


def _share(amount: int, shards: int) -> int:
    """The larger part of `amount` in `shards` nearly equal ones."""
    return -(-amount // shards)
