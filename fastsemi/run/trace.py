"""What a training step allocates and computes, found by running it on tensors that have no memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten
# PyTorch's formulas; attention on a CPU, which is where tensors without memory are, has none of its own.
_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}


@dataclass(frozen=True)
class StepTrace:
    """One micro-batch: bytes besides weights, gradients and optimizer states when it needs most, and work."""

    weight_casts: int
    """Copies of weights in half precision, which autocast keeps from forward to backward."""
    activations: int
    """The rest: inputs, what is saved for backward, temporary tensors."""
    without_casts: int
    """The most of the rest, at whatever moment that is; FSDP gathers weights in half precision instead."""
    saved: int
    """What is alive between forward and backward, casts and all."""
    flops: int
    """Floating-point operations of matrix products, attention and convolutions, a multiply-add counted as
    two; what activation checkpointing and fused attention compute again is counted again. The rest is below
    a percent for the networks here."""


class _Watch(TorchDispatchMode):
    """Adds up operations, and the storages that are alive of those made while it watches.

    A number that the host reads is not known here. Of a count (the sum of a boolean tensor) the largest is
    taken: the number of samples that are kept is that of all.
    """

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.flops = self.casts = self.rest = self.peak_rest = 0
        self.peak = (0, 0)  # casts and rest at the moment when their sum is largest
        self._bytes: dict[int, tuple[int, bool]] = {}
        self._weights = {_key(parameter) for network in networks for parameter in network.parameters()}
        self._most = WeakTensorKeyDictionary()  # of counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0] in self._most:
            return self._most[args[0]]
        result = func(*args, **kwargs)
        if func is aten.sum.default and args[0].dtype == torch.bool:
            self._most[result] = args[0].numel()
        if formula := _FLOPS.get(getattr(func, "_overloadpacket", None)):
            self.flops += formula(*args, **kwargs, out_val=result)
        given = {_key(tensor) for tensor in tree_iter((args, kwargs)) if isinstance(tensor, Tensor)}
        is_cast = func is aten._to_copy.default and _key(args[0]) in self._weights
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and _key(tensor) not in given:
                self._add(tensor, is_cast)
        return result

    def _add(self, tensor: Tensor, is_cast: bool) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key not in self._bytes:
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
        amount, is_cast = self._bytes.pop(key, (0, False))
        self._count(-amount, is_cast)

    def leave_out(self, gradient: Tensor) -> None:
        """Count a tensor no more: it has become the gradient of a weight."""
        self._drop(_key(gradient))


def trace_step(step: Callable[[], Tensor], networks: Sequence[nn.Module], *, dtype: torch.dtype) -> StepTrace:
    """Run forward and backward of one micro-batch, inside of a `FakeTensorMode`.

    It is exact for what PyTorch allocates for tensors; workspaces of libraries and the allocator's rounding
    come on top. The gradients of the weights are taken to exist before, as they do from the second
    micro-batch on. What exists before the call is not counted.

    Args:
        step: Returns the loss.
        networks: Whose weights autocast may copy; of those that require a gradient one is taken.
        dtype: Autocast's type; float32 for none.
    """
    watch = _Watch(networks)
    for network in networks:
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: watch.leave_out(p.grad))
    with watch:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = step()
        saved = watch.casts + watch.rest
        loss.backward()
    return StepTrace(*watch.peak, watch.peak_rest, saved, watch.flops)


def materialise(network: nn.Module) -> None:
    """Turn meta tensors into fake CPU ones of the current mode, which are computed with as on a device.

    Tensors that modules share, a teacher's frozen ones, go on being shared; all keep their strides.
    """
    made: dict[Tensor, Tensor] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in made:
                    fake = _empty_like(parameter)
                    made[parameter] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[parameter]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _empty_like(buffer)


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


def feed_norms_fp32(network: nn.Module) -> None:
    """Let norms run in fp32 under autocast, as on CUDA; on a CPU they take the type of their input."""
    for module in network.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
