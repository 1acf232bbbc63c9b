"""Bytes that a training step allocates, found by running it on tensors that have shapes but no memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fastsemi.models.create import use_fused_attention


@dataclass(frozen=True)
class StepTrace:
    """Bytes besides weights, gradients and optimizer states when one micro-batch needs most."""

    weight_casts: int
    """Copies of weights in half precision, which autocast keeps from forward to backward."""
    activations: int
    """The rest: inputs, what is saved for backward, temporary tensors."""
    without_casts: int
    """The most of the rest, at whatever moment that is; FSDP gathers weights in half precision instead."""
    saved: int
    """What is alive between forward and backward, casts and all."""


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that are alive, those of weights and of their gradients left out."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.casts = self.rest = self.peak_rest = 0
        self.peak = (0, 0)  # casts and rest at the moment when their sum is largest
        self._bytes: dict[int, tuple[int, bool]] = {}
        self._weights = {_key(tensor) for tensor in (*network.parameters(), *network.buffers())}
        self._gradients: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        is_cast = func is torch.ops.aten._to_copy.default and _key(args[0]) in self._weights
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._add(tensor, is_cast)
        return result

    def _add(self, tensor: Tensor, is_cast: bool) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self._bytes or key in self._weights or key in self._gradients:
            return
        self._bytes[key] = storage.nbytes(), is_cast
        self._count(storage.nbytes(), is_cast)
        weakref.finalize(storage, self._drop, key)

    def _count(self, amount: int, is_cast: bool) -> None:
        if is_cast:
            self.casts += amount
        else:
            self.rest += amount
        self.peak_rest = max(self.peak_rest, self.rest)
        self.peak = max(self.peak, (self.casts, self.rest), key=sum)

    def _drop(self, key: int) -> None:
        self._gradients.discard(key)
        amount, is_cast = self._bytes.pop(key, (0, False))
        self._count(-amount, is_cast)

    def leave_out(self, gradient: Tensor) -> None:
        """Count a tensor no more: it has become the gradient of a weight."""
        self._drop(_key(gradient))
        self._gradients.add(_key(gradient))


def trace_step(
    networks: tuple[nn.Module, ...],
    step: Callable[..., Tensor],
    *,
    dtype: torch.dtype,
    cuda_rules: bool,
    fused_attention: bool,
) -> StepTrace:
    """Run forward and backward of one micro-batch on fake tensors.

    It is exact for what PyTorch allocates for tensors; workspaces of libraries and the allocator's rounding
    come on top. The gradients of the weights are taken to exist before, as they do from the second
    micro-batch on.

    Args:
        networks: Networks on the meta device, the trained one first.
        step: Called as `step(*networks)`; builds its input and returns the loss.
        dtype: Autocast's type; float32 for none.
        cuda_rules: Whether norms run in fp32 under autocast, as on CUDA, or in the type of their input.
        fused_attention: Whether attention keeps its [N, N] weights out of memory.
    """
    half = dtype != torch.float32
    with FakeTensorMode():
        for network in networks:
            _materialise(network)
            use_fused_attention(network, fused_attention)
            if cuda_rules and half and next(network.parameters()).dtype == torch.float32:
                _feed_norms_fp32(network)
        live = _LiveBytes(nn.ModuleList(networks))
        for parameter in networks[0].parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: live.leave_out(p.grad))
        with live:
            with torch.autocast("cpu", dtype, enabled=half):
                loss = step(*networks)
            saved = live.casts + live.rest
            loss.backward()
    return StepTrace(*live.peak, live.peak_rest, saved)


def _materialise(network: nn.Module) -> None:
    """Turn meta tensors into fake CPU ones, which are computed with as on a real device."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _feed_norms_fp32(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
