"""The settings `model`: which network, and its shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and its shape."""

    name: str = "vit_base_patch16_224"
    """A timm model name (`timm.list_models()`)."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `timm.create_model`, for example patch_size, embed_dim, depth, num_heads."""
    pool: Literal["avg", "token", "default"] = "avg"
    """What a ViT's classifier sees: the average of the patch tokens, the class token, or its default."""
    pos_embed: Literal["learn", "sincos"] = "learn"
    """Position embedding of ViTs: learnable, or fixed sine-cosine (for training from scratch)."""
    head_init_scale: float = 0.001
    """Factor on the classifier's initial weights before fine-tuning."""
    weights: Path | None = None
    """Weights to start from: MAE, DINO, MoCo-v3, timm and others, .pth or .safetensors; none for random."""
    keep_head: bool = False
    """Whether weights bring a trained classifier of the same classes; it is then kept, and not scaled."""
    activation_checkpointing: bool = False
    """Keep only the input of each block for the backward pass and compute the rest again: a third more
    arithmetic for a fraction of the memory. The gradients are the same."""
