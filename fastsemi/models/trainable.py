"""Which parameters of a network are trained, and whether its batch-norm statistics move."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import GroupNorm, LayerNorm, LayerNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastsemi.common.errors import UserError
from fastsemi.models.adapt import classifiers
from fastsemi.models.layers import layer_ids
from fastsemi.models.lora import add_lora
from fastsemi.models.settings import Adapt, ModelConfig

_NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm, LayerNorm, LayerNorm2d, GroupNorm)


def prepare_training(model: nn.Module, config: ModelConfig, *, seed: int) -> None:
    """Make a network with the weights that it starts from one that trains as `model` says.

    Args:
        model: A timm classifier.
        config: What is trained, and whether batch-norm statistics move.
        seed: Of what LoRA draws.

    Raises:
        UserError: The network has no such part.
    """
    choose_trained(model, config.adapt, config.adapt_layers)
    if config.adapt == "lora":
        add_lora(model, config.lora_rank, config.lora_alpha, seed=seed)
    if config.freezes_statistics:
        freeze_statistics(model)


def choose_trained(model: nn.Module, adapt: Adapt, layers: int = 0) -> None:
    """Freeze what is not to be trained; a network without a trained trunk needs no backward pass through it.

    Args:
        model: A timm classifier.
        adapt: full: everything; head: the classifier alone; norm: it, and weights and biases of all norms;
            top: it and the last layers; lora: it, and what `add_lora` adds.
        layers: How many these are: blocks of a transformer, stages of a convolutional network.

    Raises:
        UserError: The network has no such part.
    """
    if adapt == "full":
        return
    chosen = {id(p) for head in classifiers(model) for p in head.parameters()}
    if not chosen:
        raise UserError("model.adapt needs a network with a classifier of its own; use full")
    if adapt == "norm":
        chosen |= {id(p) for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters()}
    if adapt == "top":
        chosen |= _last_layers(model, layers)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in chosen)


def _last_layers(model: nn.Module, count: int) -> set[int]:
    """The parameters, by their identity, of the head and of `count` layers before it."""
    ids = layer_ids(model, coarse=True)
    numbers = sorted(set(ids.values()))
    if count >= len(numbers) - 1:
        raise UserError(
            f"model.adapt_layers is {count}, but the network has {len(numbers) - 1} layers before its head; "
            "give fewer, or set model.adapt to full"
        )
    first = numbers[-1 - count]
    return {id(p) for name, p in model.named_parameters() if ids[name] >= first}


def freeze_statistics(model: nn.Module) -> int:
    """Let batch norm use the statistics it has, in training too, and leave them; its weights still train.

    Statistics that a network learnt from a million images are worth more than those of a batch of tens of
    a few kinds of images.

    Returns:
        How many layers of batch norm there are.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.__class__ = _frozen(type(norm))
        norm.train(False)
    return len(norms)


_FROZEN: dict[Any, Any] = {}


def _frozen(kind: Any) -> Any:
    """A kind of batch norm that is always in evaluation mode."""
    if kind not in _FROZEN:

        def train(self: Any, mode: bool = True) -> Any:
            return kind.train(self, False)

        _FROZEN[kind] = type(f"Frozen{kind.__name__}", (kind,), {"train": train})
    return _FROZEN[kind]


def set_head(model: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Give the classifier of a network weights [C, D] and biases [C].

    Raises:
        UserError: The network's classifier is not one linear layer of that shape.
    """
    heads = classifiers(model)
    head = heads[0] if len(heads) == 1 else None
    if not isinstance(head, nn.Linear) or head.weight.shape != weight.shape or head.bias is None:
        raise UserError(
            "head probe needs a network whose classifier is one linear layer; set finetune.head or semi.head "
            "to random"
        )
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
