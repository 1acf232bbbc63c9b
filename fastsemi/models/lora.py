"""LoRA: small trained matrices beside the frozen linear layers of a vision transformer's blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsemi.common.errors import UserError

# All linear layers of a block, as QLoRA has it (Dettmers et al. 2023, section 4) and PEFT's `all-linear`.
_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class LoraLinear(nn.Linear):
    """h = W x + (alpha / r) B A x (Hu et al., "LoRA" (2021), eq. 3), without dropout.

    W keeps its name, so that plain weights load into the network, and what is frozen can be shared.

    Attributes:
        lora_a: A, [r, in].
        lora_b: B, [out, r].
        lora_scale: alpha / r.
    """

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        low = F.linear(input, self.lora_a) * self.lora_scale  # [..., r]
        return super().forward(input) + F.linear(low, self.lora_b)


def add_lora(model: nn.Module, rank: int, alpha: float, *, seed: int) -> None:
    """Give every linear layer of a ViT's blocks a trained product of rank r beside its weights.

    B starts at 0, so the network's outputs stay as they are; A starts as PEFT has it, uniform within
    1 / sqrt(in). It is drawn on the CPU, so that all processes and devices have the same. What else is
    trained stays as it is.

    Args:
        model: A timm network.
        rank: r.
        alpha: The product is scaled by alpha / r.
        seed: Of A.

    Raises:
        UserError: The network has no such layers, they are smaller than the rank, or it reads the weights of
            one without calling it.
    """
    layers = {name: module for name, module in model.named_modules() if _takes_lora(name, module)}
    cure = "set model.adapt to norm, top or head"
    if not any(name.endswith("attn.qkv") for name in layers):
        raise UserError(
            "model.adapt lora needs a vision transformer whose blocks have linear layers attn.qkv, which "
            f"{type(model).__name__} has not; {cure}"
        )
    generator = torch.Generator().manual_seed(seed)
    for name, layer in layers.items():
        # BEiT and others with biases for query and value alone multiply by `qkv.weight` themselves.
        if getattr(model.get_submodule(name.rpartition(".")[0]), "q_bias", None) is not None:
            raise UserError(
                f"model.adapt lora cannot reach {name}, whose weights {type(model).__name__} reads without "
                f"calling it; {cure}"
            )
        if rank > min(layer.in_features, layer.out_features):
            raise UserError(
                f"model.lora_rank is {rank}, but {name} has weights of {list(layer.weight.shape)}; give less"
            )
        _extend(layer, rank, alpha / rank, generator)


def _takes_lora(name: str, module: nn.Module) -> bool:
    return type(module) is nn.Linear and name.endswith(_LAYERS) and ".blocks." in f".{name}"


def _extend(layer: nn.Module, rank: int, scale: float, generator: torch.Generator) -> None:
    """Make a linear layer one with a product beside its weights, in place."""
    layer.__class__ = LoraLinear
    assert isinstance(layer, LoraLinear)
    a = torch.empty(rank, layer.in_features, device="cpu")
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
    layer.lora_a = nn.Parameter(a.to(layer.weight))
    layer.lora_b = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
    layer.lora_scale = scale


def merged(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as plain timm has it: W + (alpha / r) B A in the place of W, A and B.

    Args:
        network: Whose state it is; without LoRA nothing changes.
        state: Whole tensors, on one device.
    """
    plain = dict(state)
    for name, layer in _lora_layers(network):
        a, b = plain.pop(f"{name}.lora_a"), plain.pop(f"{name}.lora_b")
        weight = plain[f"{name}.weight"]
        product = layer.lora_scale * (b.double() @ a.double())
        plain[f"{name}.weight"] = (weight.double() + product).to(weight.dtype)
    return plain


def _lora_layers(network: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, LoraLinear))
