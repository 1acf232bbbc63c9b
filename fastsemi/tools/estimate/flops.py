"""Floating-point operations of a stage, counted while it runs on the meta device.

A multiply-add counts as two operations. Matrix products, attention and convolutions are counted, as PyTorch's
`FlopCounterMode` does; the rest is below a percent for these networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastsemi.models.create import use_fused_attention
from fastsemi.run.config import Config, StageName
from fastsemi.run.meta_networks import NetworkKey, meta_network, trained


@dataclass(frozen=True)
class StageFlops:
    """Operations for one image."""

    forward: int
    """A forward pass without gradients, such as the teacher's."""
    training: int
    """Forward and backward pass, with what activation checkpointing computes again."""

    def step(self, config: Config, stage: StageName) -> int:
        """Operations of an optimizer step over the whole batch, with no unlabelled sample rejected."""
        settings = getattr(config, stage)
        unlabelled = settings.batch * config.semi.unlabelled_ratio if stage == "semi" else 0
        return (settings.batch + unlabelled) * self.training + unlabelled * self.forward


def count_flops(config: Config, stage: StageName, classes: int) -> StageFlops:
    """Count the operations of a stage's network.

    Args:
        config: The run.
        stage: Which stage.
        classes: Number of classes, C.

    Raises:
        UserError: The model refuses its settings.
    """
    return _count_stage(NetworkKey(config, stage, classes))


@lru_cache(maxsize=64)
def _count_stage(key: NetworkKey) -> StageFlops:
    network = trained(meta_network(key.config, key.stage, key.classes), key.config)
    use_fused_attention(network, False)  # as plain products, which are counted on every device
    size = key.config.data.image_size
    return StageFlops(_count(network, size, backward=False), _count(network, size, backward=True))


def _count(network: nn.Module, size: int, *, backward: bool) -> int:
    images = torch.empty(1, 3, size, size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        result = network(images)
        if backward:
            result.sum().backward()
    return counter.get_total_flops()
