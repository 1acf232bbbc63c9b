"""The tensors of a trained network as the next stage and `model/` read them."""

from __future__ import annotations

from torch import Tensor, nn

from fastsemi.models.lora import merged
from fastsemi.parallel.shards import whole_state


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a plain timm network: without shards, LoRA merged; on the CPU.

    All processes must ask for it.
    """
    return merged(network, whole_state(network))
