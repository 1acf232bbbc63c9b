"""AdamW with layer-wise learning-rate decay."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import group_parameters
from torch import nn


def layer_ids(model: nn.Module) -> dict[str, int]:
    """The layer of each parameter, 0 the stem; the last layer is the head with the norm before it.

    From timm's own grouping (`group_matcher`), so it holds for any timm model. One thing differs: a ViT's
    last norm belongs to the head's layer whether it stands before the pooling (`norm`) or after it
    (`fc_norm`), so a block's learning rate does not depend on the pooling (BEiT's and MAE's convention).
    """
    if not hasattr(model, "group_matcher"):
        return {name: 0 for name, _ in model.named_parameters()}
    ids: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    head = [name for name in ids if name.split(".")[0] in ("norm", "fc_norm", "head")]
    if head:
        last = min(ids[name] for name in head)
        if all(ids[name] < last for name in ids if name not in head):
            ids.update(dict.fromkeys(head, last))
    return ids


def parameter_groups(model: nn.Module, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Group trainable parameters by layer and weight decay.

    Biases, norms, tokens and position embeddings have no weight decay. A layer's learning rate is the head's
    times `layer_decay` to the power of its distance from the head.

    Returns:
        Groups with `params`, `names`, `weight_decay`, `lr_scale` and `layer`.
    """
    ids = layer_ids(model)
    top = max(ids.values(), default=0)
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and name not in spared and not name.endswith("_token")
        layer = ids.get(name, top)
        group = groups.setdefault(
            (layer, decays),
            {
                "params": [],
                "names": [],
                "weight_decay": weight_decay if decays else 0.0,
                "lr_scale": layer_decay ** (top - layer),
                "layer": layer,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def create_optimizer(
    model: nn.Module, *, weight_decay: float, layer_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, one fused launch per group; learning rates are set by `set_lr`."""
    groups = parameter_groups(model, weight_decay=weight_decay, layer_decay=layer_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group to `lr` times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
