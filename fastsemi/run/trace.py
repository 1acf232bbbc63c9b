"""What a training step allocates and computes, found by running it on tensors that have no memory."""

from __future__ import annotations

import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
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
_ALLOCATIONS = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}
)
_OWN = ("run/trace.py", "run/python_backward.py", "run/pretended_cuda.py")
_OVERWRITES = frozenset({"copy_", "fill_", "zero_", "bernoulli_", "_foreach_copy_"})  # and do not read


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


@dataclass(frozen=True)
class Operation:
    """A launch: what a device computes and moves for it at least."""

    name: str
    """PyTorch's, or a Triton kernel's."""
    flops: int
    read: int
    """Bytes."""
    written: int
    """Bytes."""
    dtype: torch.dtype
    """Of its first tensor: that of a matrix product."""


class Watch(TorchDispatchMode):
    """Adds up operations, the storages that are alive of those made while it watches, and what the host does.

    A number that the host reads is not known here. Of a count (the sum of a boolean tensor) the largest is
    taken: the number of samples that are kept is that of all.

    Args:
        networks: Whose weights autocast may copy.
        device: Whose operations are noted.
        read: What the host gets that reads any other number of a device; None where that is an error.

    Attributes:
        operations: Launches in their order.
        waits: Where the host waits for the device: it reads a number, or copies without `non_blocking`.
        uploads: Where something is copied to the device.
        mixed: Where an operation on the device takes a tensor of the host's, which is copied unseen.
    """

    def __init__(self, networks: Sequence[nn.Module] = (), *, device: torch.device, read: int | None = None):
        super().__init__()
        self.flops = self.casts = self.rest = self.peak_rest = 0
        self.peak = (0, 0)  # casts and rest at the moment when their sum is largest
        self.operations: list[Operation] = []
        self.waits, self.uploads, self.mixed = Counter[str](), Counter[str](), Counter[str]()
        self._device, self._read = device, read
        self._bytes: dict[int, tuple[int, bool]] = {}
        self._weights = {_key(parameter) for network in networks for parameter in network.parameters()}
        self._most = WeakTensorKeyDictionary()  # of counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            if args[0].is_cuda:
                self.wait()
            if args[0] in self._most:
                return self._most[args[0]]
            if self._read is not None:
                return self._read
        result = func(*args, **kwargs)
        if func is aten.sum.default and args[0].dtype == torch.bool:
            self._most[result] = args[0].numel()
        elif func is aten._to_copy.default and args[0] in self._most:
            self._most[result] = self._most[args[0]]
        given = [tensor for tensor in tree_iter((args, kwargs)) if isinstance(tensor, Tensor)]
        keys = {_key(tensor) for tensor in given}
        made = [t for t in tree_iter(result) if isinstance(t, Tensor) and _key(t) not in keys]
        is_cast = func is aten._to_copy.default and _key(args[0]) in self._weights
        for tensor in made:
            self._add(tensor, is_cast)
        self._note_host(func, args, kwargs, given, made)
        self._note(func, args, kwargs, result, given, made)
        return result

    def _note(
        self, func: Any, args: Any, kwargs: Any, result: Any, given: list[Tensor], made: list[Tensor]
    ) -> None:
        """Add an operation, if it is one: not a view, and not memory alone."""
        namespace, _, name = func._schema.name.partition("::")
        changed = [t for t in tree_iter(_written(func, args, kwargs)) if isinstance(t, Tensor)]
        touched = any(tensor.device.type == self._device.type for tensor in (*made, *changed))
        if namespace == "fastsemi" or name in _ALLOCATIONS or not touched:
            return  # of the project's own operators the launches are noted
        formula = _FLOPS.get(getattr(func, "_overloadpacket", None))
        flops = formula(*args, **kwargs, out_val=result) if formula else 0
        self.flops += flops
        read = _size(given) - (_size(changed) if name in _OVERWRITES else 0)
        dtype = (given or made)[0].dtype
        self.operations.append(Operation(name, flops, read, _size((*made, *changed)), dtype))

    def launch(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Note a kernel that PyTorch does not see: what it is given is read or written once, by halves."""
        self.hold(tensors)
        half = _size(tensors) // 2
        self.operations.append(Operation(name, 0, half, half, tensors[0].dtype))

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were made unseen, while they are alive."""
        for tensor in tensors:
            self._add(tensor, False)

    def wait(self) -> None:
        """Note that the host waits for the device."""
        self.waits[_caller()] += 1

    def _note_host(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], made: list[Tensor]) -> None:
        if not any(tensor.is_cuda for tensor in (*given, *made)):
            return
        name, host = func._schema.name, [tensor for tensor in given if tensor.is_cpu]
        if name in ("aten::_to_copy", "aten::copy_"):
            target = made[0] if made else args[0]
            if host and target.is_cuda:
                self.uploads[_caller()] += 1
            waits = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            if not waits and (host or target.is_cpu):
                self.wait()
        elif any(tensor.ndim for tensor in host):  # a number alone travels with the launch
            self.mixed[f"{name} in {_caller()}"] += 1

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


@cache
def _written_arguments(func: Any) -> list[tuple[int, str]]:
    return [
        (i, argument.name)
        for i, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that an operation changes."""
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in _written_arguments(func)]


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors; of what is expanded those that are there."""
    return sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors)


def _caller() -> str:
    """The file and the function of the project that asked for an operation."""
    frames = [f for f in traceback.extract_stack() if "/fastsemi/" in f.filename]
    frames = [f for f in frames if not f.filename.endswith(_OWN)]
    return f"{frames[-1].filename.rsplit('/', 1)[1]}:{frames[-1].name}" if frames else "elsewhere"


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
    watch = Watch(networks, device=torch.device("cpu"))
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


def materialise(network: nn.Module, device: torch.device | str = "cpu") -> None:
    """Turn meta tensors into fake ones of the current mode, which are computed with as on a device.

    Tensors that modules share, a teacher's frozen ones, go on being shared; all keep their strides.
    """
    made: dict[Tensor, Tensor] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in made:
                    fake = _empty_like(parameter, device)
                    made[parameter] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[parameter]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _empty_like(buffer, device)


def _empty_like(tensor: Tensor, device: torch.device | str) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def feed_norms_fp32(network: nn.Module) -> None:
    """Let norms run in fp32 under autocast, as on CUDA; on a CPU they take the type of their input."""
    for module in network.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
