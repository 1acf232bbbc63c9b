"""A CUDA device that is not there: enough of one for fake tensors to go through a training step."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.cuda.amp.common
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import functional as F

from fastsemi.loaders.plan import packing
from fastsemi.run.python_backward import python_backward
from fastsemi.run.trace import Watch

DEVICE = torch.device("cuda", 0)
_LAUNCHING = ("augment.operator", "mix.operator", "pseudo_label", "soft_ce")  # of fastsemi.kernels


class PretendedCuda:
    """What a pretended device is asked for.

    Attributes:
        watch: Told of launches and of waits; None for none.
    """

    def __init__(self) -> None:
        self.watch: Watch | None = None

    def launchable(self, kernel: Any) -> Any:
        """In place of a Triton kernel: `launchable(kernel)[grid](...)` checks and notes what it is given."""
        cuda = self

        class Launch:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                assert all(number > 0 for number in grid), f"{kernel} on a grid of {grid}"
                return self.run

            def run(self, *args: Any, **kwargs: Any) -> None:
                tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
                name = getattr(kernel, "__name__", None) or kernel.fn.__name__
                assert all(t.device == DEVICE for t in tensors), f"{name} takes a tensor of the host's"
                if cuda.watch:
                    cuda.watch.launch(name, tensors)

        return Launch()

    def event(self, *_: Any, **__: Any) -> Any:
        """In place of `torch.cuda.Event`."""
        cuda = self

        class Event:
            def record(self, *_: Any) -> None:
                pass

            def synchronize(self) -> None:
                if cuda.watch:
                    cuda.watch.wait()

        return Event()


@contextmanager
def pretended_cuda() -> Iterator[PretendedCuda]:
    """Within, fake tensors on `DEVICE` are computed with as on a GPU, whether there is one or not.

    What cannot run is replaced: launches of Triton kernels, events, pinned memory, PyTorch's choice of a
    fused attention (its flash kernel in half precision without a mask, else the memory-efficient one) and its
    autograd engine (`python_backward`). Everything else is PyTorch's and the project's own.
    """
    cuda = PretendedCuda()
    with ExitStack() as stack:
        for where, name, instead in (
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda, "Event", cuda.event),
            (F, "scaled_dot_product_attention", _attention),
            (packing, "pack", _pack(packing.pack)),
            *((_kernels(name), "launchable", cuda.launchable) for name in _LAUNCHING if _kernels(name)),
        ):
            stack.enter_context(patch.object(where, name, instead))
        stack.enter_context(python_backward())
        yield cuda


def _kernels(name: str) -> Any:
    try:
        return importlib.import_module(f"fastsemi.kernels.{name}")
    except ImportError:  # no Triton
        return None


def _pack(pack: Any) -> Any:
    def into_pageable(arrays: Mapping[str, NDArray], allocate: Any) -> Any:
        with unset_fake_temporarily():
            return pack(arrays, lambda size: torch.empty(size, dtype=torch.uint8))

    return into_pageable


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """`scaled_dot_product_attention` as CUDA computes it under autocast; a mask is added to the scores."""
    autocast = torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if autocast else query.dtype
    with torch.autocast("cuda", enabled=False):
        heads = [tensor.to(dtype) for tensor in (query, key, value)]
        if dtype == torch.float32 or attn_mask is not None:
            saves, shape = torch.is_grad_enabled(), (*query.shape[:-1], key.shape[-2])
            bias = None if attn_mask is None else attn_mask.to(dtype).expand(shape)
            result = torch.ops.aten._scaled_dot_product_efficient_attention(
                *heads, bias, saves, dropout_p, is_causal, scale=scale
            )
        else:
            result = torch.ops.aten._scaled_dot_product_flash_attention(
                *heads, dropout_p, is_causal, scale=scale
            )
    output: Tensor = result[0]
    return output
