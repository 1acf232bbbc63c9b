"""Patches that a ViT leaves out in training: timm's `PatchDropout`, switched.

Source: Liu et al., "PatchDropout: economizing vision transformers using patch dropout" (WACV 2023).
"""

from __future__ import annotations

from timm.layers import PatchDropout
from timm.layers.patch_dropout import PatchDropoutWithIndices
from timm.models import is_model_in_modules
from torch import nn

from fastsemi.common.errors import UserError

# Modules of timm whose networks leave patches out behind their position embedding.
_FAMILIES = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")


def require_patches(name: str, keep_tokens: float) -> None:
    """Refuse to leave patches out of a network that always sees all.

    Raises:
        UserError: It is one.
    """
    if keep_tokens < 1 and not is_model_in_modules(name, _FAMILIES):
        raise UserError(
            f"semi.keep_tokens is {keep_tokens}, and {name} cannot leave patches out as ViTs can; set it to 1"
        )


def drop_patches(network: nn.Module, drop: bool) -> None:
    """Let a network in training mode leave patches out in its next pass, or see all."""
    for module in network.modules():
        if isinstance(module, PatchDropout | PatchDropoutWithIndices):
            module.train(drop)
