"""AdamW with layer-wise learning-rate decay."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.models.layers import layer_ids
from fastsemi.models.projected import Projected
from fastsemi.training.settings import OptimizerBackend

# Names that have no weight decay in any network, besides those of its own `no_weight_decay`; tokens have it
# in a network that says so (`decays_tokens`).
_SPARED = ("*.bias", "*pos_embed", "*_bias_table")
_TOKENS = "*_token"


def parameter_groups(model: nn.Module, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Group trainable parameters by layer and weight decay.

    Biases, norms, position embeddings and, as a rule, tokens have no weight decay. A layer's learning rate is
    the head's times `layer_decay` to the power of its distance from the head.

    Returns:
        Groups with `params`, `names`, `weight_decay`, `lr_scale` and `layer`.

    Raises:
        UserError: The learning rate is to decay over layers, and the network's layers are not known.
    """
    ids = layer_ids(model)
    top = max(ids.values(), default=0)
    if layer_decay != 1 and top == 0:
        raise UserError(
            f"layer_decay is {layer_decay}, but the layers of {type(model).__name__} are not known; "
            "set it to 1"
        )
    tokens = () if getattr(model, "decays_tokens", False) else (_TOKENS,)
    spared = (*_SPARED, *tokens, *_own_spared(model))
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and not any(fnmatchcase(name, pattern) for pattern in spared)
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


def _own_spared(model: nn.Module) -> list[str]:
    """Names that a network spares itself."""
    if isinstance(model, Projected):
        return [f"classifier.{name}" for name in _own_spared(model.classifier)]
    return list(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else []  # type: ignore[operator]


def create_optimizer(
    model: nn.Module,
    *,
    weight_decay: float,
    layer_decay: float,
    betas: tuple[float, float],
    backend: OptimizerBackend = "fused",
) -> torch.optim.Optimizer:
    """AdamW over `parameter_groups`; learning rates are set by `set_lr`.

    Args:
        model: What to train.
        weight_decay: Of matrices; see `parameter_groups`.
        layer_decay: Factor on the learning rate from each layer to the one below.
        betas: Momenta.
        backend: "fused", PyTorch's single launch per group, which can skip a step on the device; "foreach",
            PyTorch's list operations, which run on every device; "apex", NVIDIA's FusedAdam. The last two
            make the host wait once a step, for the check that the gradient is finite.

    Raises:
        UserError: "apex" without NVIDIA's Apex, or with a network that is not on a GPU.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, layer_decay=layer_decay)
    if backend == "apex":
        adam = _apex_adam()
        if any(not parameter.is_cuda for parameter in model.parameters()):
            raise UserError(
                "optimizer is apex, whose kernels need a GPU, and the network is on the CPU; use fused"
            )
        return adam(groups, lr=0.0, betas=betas, adam_w_mode=True)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, **{backend: True})


def _apex_adam() -> Callable[..., torch.optim.Optimizer]:
    cure = (
        "build it from https://github.com/NVIDIA/apex (APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v "
        "--no-build-isolation .), or use fused"
    )
    try:
        import apex
    except ImportError:
        raise UserError(
            f"optimizer is apex, but NVIDIA's Apex is not installed (apex on PyPI is something else); {cure}"
        ) from None
    try:
        import amp_C  # noqa: F401
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise UserError(
            f"optimizer is apex, but {next(iter(apex.__path__), 'apex')} has no FusedAdam ({error}): "
            f"it is PyPI's, which is something else, or was built without its CUDA kernels; {cure}"
        ) from None
    return FusedAdam


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group to `lr` times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
