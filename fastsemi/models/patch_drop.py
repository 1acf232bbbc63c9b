"""Patches that a ViT leaves out in training: timm's `PatchDropout`, switched.

Source: Liu et al., "PatchDropout: economizing vision transformers using patch dropout" (WACV 2023).
"""

from __future__ import annotations

import torch
from timm.layers import PatchDropout, PatchDropoutWithIndices
from timm.models import is_model_in_modules
from torch import Tensor, nn

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


def patch_drop_rate(keep_tokens: float) -> float | None:
    """What timm's `PatchDropout` is given to keep a share of the patches; None where it is to keep all.

    timm subtracts it from 1 again and rounds down, so that 0.2 of 100 patches would be 19; the share given is
    therefore larger by 1e-7.
    """
    return max(0.0, 1 - keep_tokens - 1e-7) or None


def keep_prefix(network: nn.Module) -> None:
    """Let no token but patches be left out: timm takes a distilled DeiT's second one for a patch."""
    for module in network.modules():
        if isinstance(module, PatchDropout | PatchDropoutWithIndices):
            module.num_prefix_tokens = network.num_prefix_tokens  # type: ignore[assignment]


def see(network: nn.Module, whole: Tensor, partly: Tensor, *, drop: bool) -> Tensor:
    """Logits [N + M, C] of images [N, 3, S, S] that are seen whole and of [M, 3, S, S] that may lose patches.

    One pass; two where patches are dropped, since the sequences differ in length.
    """
    if not drop:
        return network(torch.cat([whole, partly]))
    seen_whole = _dropping(network, False)(whole)
    return torch.cat([seen_whole, _dropping(network, True)(partly)])


def _dropping(network: nn.Module, drop: bool) -> nn.Module:
    """The network, whose next pass in training mode leaves patches out or sees all."""
    for module in network.modules():
        if isinstance(module, PatchDropout | PatchDropoutWithIndices):
            module.train(drop)
    return network
