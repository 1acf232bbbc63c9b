"""Tokens of a ViT that are merged between attention and MLP, so that later layers have fewer.

Source: Bolya et al., "Token Merging: Your ViT but faster" (ICLR 2023), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from fastsemi.common.errors import UserError
from fastsemi.models.projected import classifier_of


class Matching(NamedTuple):
    """Which of N tokens merge: every other patch is in A, the rest in B.

    Attributes:
        stay: [B, N - r], positions of the tokens that are left, in their new order: prefix, A, B.
        merged: [B, r], positions of the tokens of A that go.
        target: [B, r], the new position of the token of B that each of them becomes a part of.
    """

    stay: Tensor
    merged: Tensor
    target: Tensor


def match(keys: Tensor, count: int, prefix: int) -> Matching:
    """Bipartite soft matching: each token of A finds the most similar of B, and the most similar pairs merge.

    Args:
        keys: [B, N, D], compared by their cosine.
        count: r, tokens that go; at most half of the patches.
        prefix: Tokens at the beginning that never merge.
    """
    batch, length, _ = keys.shape
    positions = torch.arange(length, device=keys.device).expand(batch, -1)
    if count == 0:
        return Matching(positions, positions[:, :0], positions[:, :0])
    keys = F.normalize(keys[:, prefix:].float(), dim=-1)
    similarity, nearest = (keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)).max(-1)  # [B, |A|] each
    order = similarity.argsort(dim=-1, descending=True, stable=True)
    merged, rest = order[:, :count], order[:, count:].sort(-1).values
    stay = torch.cat([positions[:, :prefix], prefix + 2 * rest, positions[:, prefix + 1 :: 2]], dim=1)
    target = nearest.gather(1, merged) + (length - count - (length - prefix) // 2)
    return Matching(stay, prefix + 2 * merged, target)


def merge(tokens: Tensor, sizes: Tensor, found: Matching, prefix: int) -> tuple[Tensor, Tensor]:
    """What is left: each token of B is the mean of itself and of those that became a part of it, by size.

    The means are made by products of matrices, not by adding into places, which has no fixed order on a GPU.

    Args:
        tokens: [B, N, C].
        sizes: [B, N] int, the patches in each.
        found: What merges.
        prefix: As of `match`.

    Returns:
        Tokens [B, N - r, C] and sizes [B, N - r]. Tokens that stay alone are the same to the bit.
    """
    if found.merged.shape[1] == 0:
        return tokens, sizes
    start = found.stay.shape[1] - (tokens.shape[1] - prefix) // 2  # where B begins
    left, left_sizes = take(tokens, found.stay), sizes.gather(1, found.stay)
    places = torch.arange(start, found.stay.shape[1], device=tokens.device)
    into = (found.target[:, None] == places[:, None]) * sizes.gather(1, found.merged)[:, None]  # [B, |B|, r]
    alone = left_sizes[:, start:]
    total = alone + into.sum(-1)  # [B, |B|]
    own = (alone / total).to(tokens.dtype)[..., None]
    shares = (into / total[..., None]).to(tokens.dtype)
    mean = torch.baddbmm(left[:, start:] * own, shares, take(tokens, found.merged))
    return torch.cat([left[:, :start], mean], dim=1), torch.cat([left_sizes[:, :start], total], dim=1)


def new_positions(found: Matching) -> Tensor:
    """Where each of the tokens went: [B, N] in [0, N - r)."""
    (batch, left), length = found.stay.shape, found.stay.shape[1] + found.merged.shape[1]
    places = torch.arange(left, device=found.stay.device).expand(batch, -1)
    moved = found.stay.new_empty(batch, length)
    return moved.scatter(1, found.stay, places).scatter(1, found.merged, found.target)


def take(tokens: Tensor, positions: Tensor) -> Tensor:
    """Tokens [B, M, C] of [B, N, C] at positions [B, M]."""
    batch, length, width = tokens.shape
    rows = positions + length * torch.arange(batch, device=tokens.device)[:, None]
    return tokens.reshape(-1, width).index_select(0, rows.flatten()).view(batch, -1, width)


def attend(layer: Attention, tokens: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Proportional attention: log(size) is added to the scores, so that a token counts as its patches do.

    Args:
        layer: In evaluation mode.
        tokens: [B, N, C].
        sizes: [B, N].

    Returns:
        [B, N, C], and the keys' mean over the heads, [B, N, D].
    """
    batch, length, _ = tokens.shape
    qkv = layer.qkv(tokens).view(batch, length, 3, layer.num_heads, layer.head_dim)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, H, N, D] each
    query, key = layer.q_norm(query), layer.k_norm(key)
    bias = sizes.log().to(query.dtype)[:, None, None]  # [B, 1, 1, N]
    if layer.fused_attn:
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    else:
        scores = (query * layer.scale) @ key.transpose(-2, -1)
        found = scores.add_(bias).softmax(-1) @ value
    found = found.transpose(1, 2).reshape(batch, length, -1)
    return layer.proj(found), key.mean(1, dtype=torch.float32)


class MergingBlock(Block):
    """A block that merges tokens where it is told their sizes, and else is timm's."""

    attn: Attention

    def forward(  # type: ignore[override]
        self, x: Tensor, *masks: Any, sizes: Tensor | None = None, **settings: Any
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """[B, N, C] -> [B, N, C]; with sizes [B, N], `count` and `prefix` what `_merge` gives."""
        if sizes is None:
            return super().forward(x, *masks, **settings)
        return self._merge(x, sizes, **settings)

    def _merge(self, x: Tensor, sizes: Tensor, count: int, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, N - r, C], their sizes, and the new position of each of the N."""
        seen, keys = attend(self.attn, self.norm1(x), sizes)
        x = x + self.ls1(seen)
        with torch.autocast(x.device.type, enabled=False):  # neither similarities nor means are rounded more
            found = match(keys, count, prefix)
            x, sizes = merge(x, sizes, found, prefix)
        return x + self.ls2(self.mlp(self.norm2(x))), sizes, new_positions(found)


class MergingBlocks(nn.Sequential):
    """The blocks of a ViT, which merge tokens while `merging` is on, and else are timm's.

    What comes out is as long as what went in: each patch gets the token that it became a part of. Behind the
    blocks all kinds of pooling are therefore weighted by size.
    """

    merging: bool
    count: int
    prefix: int

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        if not self.merging:
            return super().forward(tokens)
        batch, length, _ = tokens.shape
        where = torch.arange(length, device=tokens.device).expand(batch, -1)
        sizes = torch.ones_like(where)
        for block in self:
            count = min(self.count, (tokens.shape[1] - self.prefix) // 2)
            tokens, sizes, moved = block(tokens, sizes=sizes, count=count, prefix=self.prefix)
            where = moved.gather(1, where)
        return take(tokens, where)


def require_plain_blocks(network: nn.Module, count: int) -> None:
    """Refuse to merge tokens of a network that is no plain ViT.

    Args:
        network: A timm network.
        count: The setting, for the message.

    Raises:
        UserError: It is none.
    """
    blocks: Any = network.blocks if isinstance(network, VisionTransformer) else None
    plain = type(blocks) is nn.Sequential
    if not plain or not all(type(block) is Block and _is_plain(block.attn) for block in blocks):
        raise UserError(
            f"semi.merge_tokens is {count}, but {type(network).__name__} does not consist of the plain "
            "blocks of timm's ViTs, whose tokens can be merged; set it to 0"
        )


def _is_plain(layer: nn.Module) -> bool:
    """Whether it is timm's attention without a norm or a gate before its last linear layer."""
    further = [getattr(layer, name, None) for name in ("norm", "gate")]
    return type(layer) is Attention and all(m is None or isinstance(m, nn.Identity) for m in further)


def prepare_merging(network: nn.Module, count: int) -> None:
    """Let the blocks of a ViT merge tokens within `merging`, in place; parameters and names stay.

    Args:
        network: A timm network, or one with a projection.
        count: Tokens that each block merges, r; at most half of the patches that it gets.

    Raises:
        UserError: It is no plain ViT.
    """
    model: Any = classifier_of(network)
    require_plain_blocks(model, count)
    for block in model.blocks:
        block.__class__ = MergingBlock
    model.blocks.__class__ = MergingBlocks
    model.blocks.merging, model.blocks.count = False, count
    model.blocks.prefix = model.num_prefix_tokens


@contextmanager
def merging(network: nn.Module) -> Iterator[None]:
    """Within, a network that is prepared merges tokens."""
    blocks: Any = classifier_of(network).blocks
    blocks.merging = True
    try:
        yield
    finally:
        blocks.merging = False
