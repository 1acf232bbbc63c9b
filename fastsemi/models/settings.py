"""The settings `model`: which network, and its shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastsemi.common.errors import UserError

# Arguments of `timm.create_model` that read weights, from files that may run code or from the network.
LOADING = (
    "cache_dir",
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "scriptable",
)

Adapt = Literal["full", "head", "norm", "top", "lora"]


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and its shape."""

    name: str = "vit_base_patch16_224"
    """A timm model name (`timm.list_models()`)."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `timm.create_model`, for example patch_size, embed_dim, depth, num_heads."""
    pool: Literal["auto", "avg", "token", "default"] = "auto"
    """What a ViT's classifier sees: the average of the patch tokens, the class token, or its default; auto:
    its default with published weights, which learnt with it, else the average."""
    pos_embed: Literal["learn", "sincos"] = "learn"
    """Position embedding of ViTs: learnable, or fixed sine-cosine (for training from scratch)."""
    fc_norm: Literal["kept", "fresh"] = "kept"
    """Where a ViT averages its patches: whether the norm behind the average starts from the last norm of
    weights that have theirs before it, as those of pretraining, or fresh, with scale 1 and shift 0."""
    class_token_std: float | None = None
    """Standard deviation of a ViT's class token where no weights bring one; null: as timm has it, 1e-6."""
    head_init_scale: float = 0.001
    """Factor on the classifier's initial weights before fine-tuning."""
    pretrained: bool | str = False
    """Start from the weights that timm publishes for the network: true for its default ones, or a tag such as
    in21k (`timm.list_pretrained`). Image size, mean, deviation and crop of data are then the network's own
    unless they are set."""
    weights: Path | None = None
    """A file of weights to start from: MAE, DINO, MoCo-v3, timm and others, .pth or .safetensors; none for
    random."""
    keep_head: bool = False
    """Whether weights bring a trained classifier of the same classes; it is then kept, and not scaled."""
    adapt: Adapt = "full"
    """What is trained: full (everything), head (the classifier alone), norm (it and the norms), top (it and
    the last adapt_layers), or lora (it and products of low rank beside the linear layers of a vision
    transformer). The rest stays as it came with the weights; the teacher shares it."""
    adapt_layers: int = 2
    """With adapt top: how many blocks of a transformer, or stages of a convolutional network."""
    lora_rank: int = 8
    """With adapt lora: the rank of the products, r."""
    lora_alpha: float = 16.0
    """With adapt lora: the products are scaled by lora_alpha / lora_rank."""
    batch_norm: Literal["auto", "train", "frozen"] = "auto"
    """Whether batch norm trains on the statistics of its batches, or keeps those that came with the weights;
    auto: keeps them where weights are given or published, else trains."""
    activation_checkpointing: bool = False
    """Keep only the input of each block for the backward pass and compute the rest again: a third more
    arithmetic for a fraction of the memory. The gradients are the same."""

    def __post_init__(self) -> None:
        """Refuse two sources of weights, and others than these."""
        refuse_loading(self.args)
        if self.pretrained and self.weights:
            raise UserError(
                f"model.pretrained is {self.pretrained} and model.weights {self.weights}; give one of them"
            )
        if not 0 <= self.head_init_scale < math.inf:
            raise UserError(
                f"model.head_init_scale is {self.head_init_scale}; it must be finite and not negative"
            )
        if self.class_token_std is not None and not 0 <= self.class_token_std < math.inf:
            raise UserError(
                f"model.class_token_std is {self.class_token_std}; it must be finite, not negative, or null"
            )
        if self.adapt_layers < 1:
            raise UserError(f"model.adapt_layers is {self.adapt_layers}; it must be at least 1")
        if self.lora_rank < 1:
            raise UserError(f"model.lora_rank is {self.lora_rank}; it must be at least 1")
        if not 0 < self.lora_alpha < math.inf:
            raise UserError(f"model.lora_alpha is {self.lora_alpha}; it must be positive and finite")
        if self.adapt != "full" and not self.has_weights:
            raise UserError(
                f"model.adapt is {self.adapt}, but the network starts from random weights; give "
                "model.weights or model.pretrained, or set it to full"
            )

    @property
    def has_weights(self) -> bool:
        """Whether it starts from weights that others trained."""
        return bool(self.weights or self.pretrained)

    @property
    def freezes_statistics(self) -> bool:
        """`batch_norm`, resolved."""
        return self.has_weights if self.batch_norm == "auto" else self.batch_norm == "frozen"

    @property
    def pooling(self) -> Literal["avg", "token", "default"]:
        """`pool`, resolved."""
        if self.pool != "auto":
            return self.pool
        return "default" if self.pretrained else "avg"


def refuse_loading(args: dict[str, Any]) -> None:
    """Refuse arguments of a network that say where weights come from.

    Raises:
        UserError: Names the first.
    """
    for name in LOADING:
        if name in args:
            raise UserError(
                f"model.args.{name} says where weights come from, which model.args may not; use "
                "model.weights or model.pretrained"
            )
