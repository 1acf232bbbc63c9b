"""Masked autoencoder around any timm ViT: mask, encode what is visible, decode, predict normalised pixels.

Source: He et al., "Masked autoencoders are scalable vision learners" (CVPR 2022).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models import VisionTransformer, checkpoint_seq
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fastsemi.common.errors import UserError


class MaskedAutoencoder(nn.Module):
    """Encoder, mask token and a light decoder.

    Args:
        encoder: A ViT whose head is not used; its last norm is `norm` or, with average pooling, `fc_norm`.
        mask_ratio: Fraction of the patches that the encoder does not see.
        decoder_dim: Width of the decoder.
        decoder_depth: Blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        as_published: As in MAE's published code: linear layers of the decoder start by `initialise`, its
            norms have an epsilon of 1e-6 in place of PyTorch's 1e-5, the number of visible patches is rounded
            down in place of to the nearest, and the class token and the mask token have weight decay.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        mask_ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        as_published: bool = False,
    ):
        super().__init__()
        self.encoder, self.mask_ratio, self.decays_tokens = encoder, mask_ratio, as_published
        patches = encoder.patch_embed.num_patches
        kept = patches * (1 - mask_ratio)
        self.visible = int(kept) if as_published else round(kept)
        if not 0 < self.visible < patches:
            raise UserError(
                f"pretrain.mask_ratio {mask_ratio} of {patches} patches hides none or all of them; choose a "
                "ratio that leaves both, or smaller patches"
            )
        self.patch_size: int = encoder.patch_embed.patch_size[0]
        self.prefix = encoder.num_prefix_tokens
        self.embed = nn.Linear(encoder.embed_dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        table = build_sincos2d_pos_embed(list(encoder.patch_embed.grid_size), dim=decoder_dim)
        table = torch.cat([table.new_zeros(self.prefix, decoder_dim), table])[None]
        self.decoder_pos: Tensor
        self.register_buffer("decoder_pos", table, persistent=False)
        norm: Any = partial(nn.LayerNorm, eps=1e-6 if as_published else 1e-5)
        self.blocks = nn.Sequential(
            *(Block(decoder_dim, decoder_heads, qkv_bias=True, norm_layer=norm) for _ in range(decoder_depth))
        )
        self.norm = norm(decoder_dim)
        self.predict = nn.Linear(decoder_dim, self.patch_size**2 * 3)
        for module in (self.embed, self.predict):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        if as_published:
            initialise(self.blocks)
        nn.init.normal_(self.mask_token, std=0.02)
        self._checkpoints = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks of encoder and decoder again in the backward pass; named as in timm's models."""
        self._checkpoints = enable

    def _run(self, blocks: nn.Sequential, tokens: Tensor) -> Tensor:
        return checkpoint_seq(blocks, tokens) if self._checkpoints else blocks(tokens)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The reconstruction loss.

        Args:
            images: [B, 3, S, S], normalised.
            noise: [B, N] numbers that choose the mask: patches with the largest are hidden. Default: uniform.

        Raises:
            UserError: The noise is of another number of patches.

        Returns:
            Mean squared error over the hidden patches, whose pixels are normalised patch by patch.
        """
        target = self.patchify(images.float())  # [B, N, P*P*3]
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
        if noise is None:
            noise = torch.rand(target.shape[:2], device=images.device)
        elif noise.shape != target.shape[:2]:
            raise UserError(
                f"plan.replay hides some of {noise.shape[1]} patches, and images have {target.shape[1]}; "
                "set model and data.image_size as they were"
            )
        order = noise.argsort(1)  # [B, N] visible patches first
        visible = self.visible
        prediction = self.decode(
            self.encode(images, order[:, :visible]), order
        )  # [B, N, P*P*3] in mask order
        hidden = order[:, visible:, None].expand(-1, -1, target.shape[2])
        return (prediction[:, visible:].float() - target.gather(1, hidden)).square().mean()

    def patchify(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, N, P*P*3], rows first."""
        b, c, s, _ = images.shape
        p, n = self.patch_size, s // self.patch_size
        return images.reshape(b, c, n, p, n, p).permute(0, 2, 4, 3, 5, 1).reshape(b, n * n, p * p * c)

    def encode(self, images: Tensor, visible: Tensor) -> Tensor:
        """Tokens of the visible patches, [B, prefix + n, D]; `visible` is [B, n] patch indices."""
        encoder = self.encoder
        tokens = encoder._pos_embed(encoder.patch_embed(images))  # [B, prefix + N, D]
        patches = tokens[:, self.prefix :]
        patches = patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[2]))
        tokens = encoder.norm_pre(torch.cat([tokens[:, : self.prefix], patches], 1))
        tokens = self._run(encoder.blocks, tokens)
        return encoder.fc_norm(encoder.norm(tokens))  # one of the two is the identity

    def decode(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Predictions for all patches in the order of `order` [B, N], [B, N, P*P*3]."""
        tokens = self.embed(tokens)
        hidden = order.shape[1] + self.prefix - tokens.shape[1]
        masks = self.mask_token.to(tokens.dtype).expand(tokens.shape[0], hidden, -1)
        position = self.decoder_pos[0, self.prefix :][order]
        prefix = self.decoder_pos[:, : self.prefix].expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([tokens, masks], 1) + torch.cat([prefix, position], 1)
        return self.predict(self.norm(self._run(self.blocks, tokens)))[:, self.prefix :]


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Start a network as MAE's published code does.

    Linear layers: Xavier's uniform and zero biases. Of a ViT also the projection of its patches, as a matrix,
    and the class token, normal with a deviation of 0.02.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if isinstance(network, VisionTransformer):
        nn.init.xavier_uniform_(network.patch_embed.proj.weight.flatten(1))
        if network.cls_token is not None:
            nn.init.normal_(network.cls_token, std=0.02)
