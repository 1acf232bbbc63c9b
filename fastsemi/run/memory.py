"""Memory per GPU of a stage, before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from fastsemi.loaders.data import Data
from fastsemi.loaders.engines.settings import DEVICE_PADDING
from fastsemi.parallel.settings import Strategy
from fastsemi.parallel.shards import blocks
from fastsemi.run.config import Config
from fastsemi.run.fake_stage import FakeStage
from fastsemi.run.trace import StepTrace
from fastsemi.stages.names import StageName
from fastsemi.training.optim import parameter_groups

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
    """Networks that follow the trained one (the teacher, with its copy in half precision if any, or
    fine-tuning's average), FSDP: the shard; and what a threshold rule remembers."""
    weight_casts: int
    """Half-precision copies of the weights that autocast keeps; none under FSDP, see `gathered`."""
    gathered: int
    """FSDP only: what lies outside the blocks and two blocks in half precision, and their gradients."""
    activations: int
    """Inputs, tensors saved for backward and temporary ones of one micro-batch."""
    batches: int
    """Loaded uint8 batches on the device: `loader.prefetch` and two more at most."""
    decoder: int
    """What DALI's decoder sets aside for each thread of its pipelines, where `loader.engine` is `dali`."""
    reserve: int
    """CUDA's context, libraries' workspaces and fragmentation: an assumption (1 GiB and 5 %)."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class StageNeeds:
    """What a stage needs for its state and for one micro-batch, however GPUs share them; bytes."""

    parameters: int
    """Weights and buffers of the trained network."""
    trained: int
    """Those weights of them that the optimizer changes."""
    followers: int
    """Weights and buffers of networks that follow it."""
    kept: int
    """Other tensors of the stage, of a threshold rule."""
    groups: tuple[int, ...]
    """Weights of each parameter group of the optimizer, by number and not in bytes."""
    weights: int
    """Weights of the trained network, by number."""
    outside: int
    """Weights and buffers outside the blocks that FSDP gathers one by one, by number."""
    largest_block: int
    """Weights of the largest block, by number."""
    images: int
    """Loaded uint8 images of a micro-batch."""
    batches: int
    """How many such batches may wait on the device."""
    decoder: int
    """Set aside by the loader's decoder on the device."""
    micro_batches: int
    """Micro-batches of a step, by number."""
    half: int
    """Bytes of a number in autocast's type."""
    trace: StepTrace
    """One micro-batch."""

    @property
    def step_flops(self) -> int:
        """Floating-point operations of an optimizer step, with no unlabelled sample rejected."""
        return self.micro_batches * self.trace.flops

    def memory(self, strategy: Strategy = "ddp", world: int = 1) -> MemoryEstimate:
        """Memory of one GPU.

        Args:
            strategy: ddp (all state on each GPU, also of a single process) or fsdp (sharded over all GPUs).
            world: GPUs that share the micro-batches, and under fsdp the state.

        Returns:
            Bytes, by part; `.total` is the sum.
        """
        sharded = strategy == "fsdp"
        shards = world if sharded else 1
        accumulates = self.micro_batches > world
        # The block in work and the next one: weights, gradients, and fp32 gradients on their way.
        gathered = (self.outside + 2 * self.largest_block) * (self.half + self.half + 4)
        parts = {
            "parameters": _share(self.parameters, shards),
            "gradients": _share(self.trained, 1 if accumulates else shards),
            "optimizer": _share(2 * self.trained, shards),
            "teacher": _share(self.followers, shards) + self.kept,
            "weight_casts": 0 if sharded else self.trace.weight_casts,
            "gathered": gathered if sharded else 0,
            "activations": self.trace.without_casts if sharded else self.trace.activations,
            "batches": self.batches * self.images,
            "decoder": self.decoder,
        }
        return MemoryEstimate(**parts, reserve=CONTEXT_BYTES + int(FRAGMENTATION * sum(parts.values())))


def measure_stage(
    config: Config,
    name: StageName,
    data: Data,
    *,
    dtype: torch.dtype = torch.bfloat16,
    fused_attention: bool = True,
) -> StageNeeds:
    """Build a stage as training does and run one micro-batch through its loss, on tensors without memory.

    Weights, gradients, optimizer and followers are exact. Activations are those of forward and backward in
    eager mode, with the fused kernels of a GPU, and with rejected samples all kept. It takes seconds,
    whatever the model's size.

    Args:
        config: The run. The micro-batch is `batch / micro_batches` whatever the number of GPUs.
        name: Which stage.
        data: The images; they are counted, not loaded.
        dtype: Type of autocast: torch.float32, bfloat16 or float16.
        fused_attention: Whether attention keeps its [N, N] weights out of memory (PyTorch's flash and
            memory-efficient kernels).

    Raises:
        UserError: What training would refuse: settings, model, data that does not fill a batch.
    """
    fake = FakeStage(config, name, data, dtype=dtype, fused_attention=fused_attention)
    stage, settings = fake.stage, fake.stage.config
    groups = parameter_groups(
        stage.model, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay
    )
    own, following = _tensors([stage.model]), _tensors(stage.followers())
    others = _tensors(module for module in vars(stage).values() if isinstance(module, nn.Module))
    units = [sum(p.numel() for p in block.parameters()) for block in blocks(stage.model)]
    weights = sum(tensor.numel() for tensor in own)
    return StageNeeds(
        parameters=_bytes(own),
        trained=sum(_bytes(group["params"]) for group in groups),
        followers=_bytes(following - own),
        kept=_bytes(others - following - own),
        groups=tuple(sum(p.numel() for p in group["params"]) for group in groups),
        weights=sum(p.numel() for p in stage.model.parameters()),
        outside=weights - sum(units) if units else 0,
        largest_block=max(units, default=weights),
        images=_bytes(batch.images for batch in fake.batch.values()),
        batches=config.loader.prefetch + 2,
        decoder=_decoder_bytes(config, pipelines=len(fake.batch) + 1),  # one evaluates
        micro_batches=settings.micro_batches,
        half=dtype.itemsize,
        trace=fake.trace(),
    )


def _decoder_bytes(config: Config, pipelines: int) -> int:
    """On the device: nvJPEG sets aside a buffer for each thread of a pipeline, whatever the images."""
    if config.loader.engine != "dali":
        return 0
    return pipelines * config.loader.thread_count * DEVICE_PADDING


def _tensors(networks: Iterable[nn.Module]) -> set[Tensor]:
    """Parameters and buffers."""
    return {tensor for network in networks for tensor in (*network.parameters(), *network.buffers())}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _share(amount: int, shards: int) -> int:
    """The larger part of `amount` in `shards` nearly equal ones."""
    return -(-amount // shards)
