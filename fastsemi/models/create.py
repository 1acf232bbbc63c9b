"""Classifiers: timm models with the heads, pooling and position embeddings of the paper."""

from __future__ import annotations

import difflib
import math
from typing import Any

import timm
import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models import VisionTransformer, is_model_in_modules
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.models.adapt import classifiers
from fastsemi.models.patch_drop import keep_prefix, patch_drop_rate, require_patches
from fastsemi.models.settings import ModelConfig

CHANNELS_LAST_FROM = 64  # pixels, on a GPU, where smaller images were not measured

# Modules of timm whose networks choose between their class token and the average of their patches.
_TOKEN_FAMILIES = (
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "deit",
    "beit",
    "cait",
    "eva",
)


def create_model(
    config: ModelConfig,
    *,
    num_classes: int,
    image_size: int,
    drop_path: float = 0.0,
    keep_tokens: float = 1.0,
) -> nn.Module:
    """Build a classifier with random weights.

    Args:
        config: Which network.
        num_classes: Number of classes, C.
        image_size: Side of the input in pixels.
        drop_path: Largest drop-path (stochastic depth) rate; it grows linearly with depth.
        keep_tokens: Share of an image's patches that it sees in training mode, rounded down, at least one.

    Returns:
        A timm model, `[B, 3, S, S] -> [B, C]`.

    Raises:
        UserError: Unknown model, arguments it does not take, an image size its patches do not divide, or
            patches to leave out of a network that always sees all.
    """
    kwargs = model_args(config, image_size)
    require_patches(config.name, keep_tokens)
    try:
        # No zero rates: some families know no drop path or no patches at all.
        model = timm.create_model(
            config.name,
            pretrained=False,
            num_classes=num_classes,
            drop_path_rate=drop_path or None,
            patch_drop_rate=patch_drop_rate(keep_tokens),
            **kwargs,
        )
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        rate = f" and drop_path {drop_path}" if drop_path else ""
        raise UserError(
            f"model {config.name} refuses its arguments {kwargs}{rate}: {reason}; "
            "change model.args, model.pool or drop_path"
        ) from error
    _check_patches(model, config.name, image_size)
    keep_prefix(model)
    if config.pos_embed == "sincos":
        fix_position_embedding(model, config.name)
    token = getattr(model, "cls_token", None)
    if config.class_token_std is not None and isinstance(token, nn.Parameter):
        nn.init.trunc_normal_(token, std=config.class_token_std)
    return model


def model_args(config: ModelConfig, image_size: int) -> dict[str, Any]:
    """The arguments of `timm.create_model` that shape the network; drop path is training's business.

    Raises:
        UserError: Unknown model.
    """
    kwargs = dict(config.args)
    if _takes_image_size(config.name):
        kwargs["img_size"] = image_size
    # Others average by themselves; asked for a class token, they refuse.
    pooling = config.pooling
    if pooling == "token" or (pooling == "avg" and is_model_in_modules(config.name, _TOKEN_FAMILIES)):
        kwargs["global_pool"] = pooling
    return kwargs


def _takes_image_size(name: str) -> bool:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() prints all names"
        raise UserError(f"model.name {name!r} is no timm model; {hint}")
    try:
        defaults = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:
        raise UserError(f"model.name {name!r} has a tag that timm does not know; leave out the tag") from None
    return bool(defaults is not None and defaults.fixed_input_size)


def _check_patches(model: nn.Module, name: str, image_size: int) -> None:
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if not isinstance(size, tuple) or not is_model_in_modules(name, _TOKEN_FAMILIES):
        return
    patch = math.lcm(*size)
    if image_size % patch:
        below = image_size // patch * patch
        sizes = f"{below} or {below + patch}" if below else f"{patch}"
        raise UserError(
            f"data.image_size {image_size} does not divide into patches of {patch} pixels of {name}; "
            f"use {sizes}"
        )


def fix_position_embedding(model: nn.Module, name: str) -> None:
    """Replace a ViT's position embedding by the fixed two-dimensional sine-cosine one.

    The values are MAE's and MoCo-v3's, the order of the channels is timm's.

    Raises:
        UserError: The model has no position embedding to replace, or its width is no multiple of four.
    """
    if not isinstance(model, VisionTransformer) or model.pos_embed is None:
        raise UserError(
            f"model.pos_embed sincos needs a ViT with a position embedding, not {name}; use learn"
        )
    if model.embed_dim % 4:
        raise UserError(
            f"model.pos_embed sincos needs an embed_dim that four divides, not {model.embed_dim}; use learn"
        )
    height, width = model.patch_embed.grid_size
    table = build_sincos2d_pos_embed([height, width], dim=model.embed_dim)
    prefix = model.pos_embed.shape[1] - height * width
    with torch.no_grad():
        model.pos_embed.copy_(torch.cat([table.new_zeros(prefix, table.shape[1]), table])[None])
    model.pos_embed.requires_grad_(False)


def prefer_channels_last(model: nn.Module, image_size: int, device: torch.device) -> None:
    """Let the convolutions of a network work on [B, H, W, C] in memory where that is faster.

    It is on a CPU, where pooling is slow otherwise and depthwise convolutions are, and in half precision on a
    GPU where images are not tiny. A network that has a single convolution, to cut patches, is left alone.
    """
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    if convolutions > 4 and (device.type == "cpu" or image_size >= CHANNELS_LAST_FROM):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def scale_head(model: nn.Module, scale: float) -> None:
    """Scale the classifier's weights and biases, as DeiT, MAE and ConvNeXt do before fine-tuning."""
    with torch.no_grad():
        for head in classifiers(model):
            for module in head.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.weight.mul_(scale)
                    if module.bias is not None:
                        module.bias.mul_(scale)


def use_fused_attention(model: nn.Module, enabled: bool) -> None:
    """Switch PyTorch's scaled-dot-product kernels on or off in every attention layer of a timm model."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = enabled  # type: ignore[assignment]


def checkpoint_activations(model: nn.Module, name: str) -> None:
    """Let a network compute each block again in the backward pass, with the forward pass's random numbers.

    Args:
        model: A timm model, or a masked autoencoder; what is trained, not a teacher.
        name: The model's name, for errors.

    Raises:
        UserError: timm's model has no activation checkpointing, or batch norm, whose statistics would be
            updated twice a step.
    """
    cure = "set model.activation_checkpointing to false and raise micro_batches instead"
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise UserError(
            f"model.activation_checkpointing would update the batch norm of {name} twice a step; {cure}"
        )
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError):
        raise UserError(f"model {name} has no activation checkpointing in timm; {cure}") from None
