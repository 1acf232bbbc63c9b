"""Drop path with its rate in a tensor: blocks that differ in their rates alone share a compiled graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import DropPath
from torch import Tensor, nn


@torch.library.custom_op(
    "fastsemi::drop_path_mask", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def _mask(tokens: Tensor, rate: Tensor) -> Tensor:
    """What timm's `drop_path` multiplies by, [B, 1, ...], with the same draws; `rate` [] is on the host."""
    kept = 1 - rate.item()
    mask = tokens.new_empty(len(tokens), *(1,) * (tokens.ndim - 1))
    return mask.fill_(1.0) if kept == 1 else mask.bernoulli_(kept).div_(kept)


@_mask.register_fake
def _(tokens: Tensor, rate: Tensor) -> Tensor:
    return tokens.new_empty(tokens.shape[0], *(1,) * (tokens.ndim - 1))


class SharedDropPath(nn.Module):
    """timm's `DropPath`, or the identity, to the bit.

    torch.compile takes a rate that is a number for a part of the program and compiles each block anew; it
    gives up at the eighth.

    Args:
        rate: How often a sample leaves the block out, in [0, 1).
    """

    def __init__(self, rate: float):
        super().__init__()
        self._rate = torch.tensor(rate, dtype=torch.float64)  # no buffer: it stays on the host, unsaved

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]."""
        return tokens * _mask(tokens.detach(), self._rate) if self.training else tokens


def share_drop_path(blocks: Sequence[nn.Module]) -> None:
    """Let the blocks of a network differ in their parameters alone; without any drop path they do already."""
    paths = [
        (block, name, child)
        for block in blocks
        for name, child in block.named_children()
        if name.startswith("drop_path") and isinstance(child, DropPath | nn.Identity)
    ]
    dropping = [child for _, _, child in paths if isinstance(child, DropPath)]
    if dropping and all(child.scale_by_keep for child in dropping):
        for block, name, child in paths:
            setattr(block, name, SharedDropPath(getattr(child, "drop_prob", 0.0)).train(child.training))
