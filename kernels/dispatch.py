"""Which implementation of the kernels runs: plain PyTorch, or Triton where it can."""

from __future__ import annotations

import functools
import logging
import os
from typing import Literal, NamedTuple

import torch

from fastsemi.common.errors import UserError
from fastsemi.kernels.augment.cpu import augment_view
from fastsemi.kernels.reference import mix as reference_mix
from fastsemi.kernels.reference import pseudo_label as reference_pseudo_label
from fastsemi.kernels.reference import soft_ce as reference_soft_ce
from fastsemi.kernels.settings import KernelKind

LEAST_CAPABILITY = (7, 0)  # Volta, the oldest GPU that the kernels are compiled for in the tests

_log = logging.getLogger(__name__)


class Kernels:
    """The kernels of one implementation, here the reference: plain PyTorch on any device.

    Every implementation has these functions with the same arguments; the modules they come from document
    them: `kernels.reference.pseudo_label`, `.mix` and `.soft_ce`, and `kernels.augment.cpu` for `augment`,
    which is C++ on a CPU where that was built.
    """

    name: Literal["triton", "torch"] = "torch"
    augment = staticmethod(augment_view)
    pseudo_label = staticmethod(reference_pseudo_label.pseudo_label)
    mix = staticmethod(reference_mix.mix)
    normalise = staticmethod(reference_mix.normalise)
    two_label_cross_entropy = staticmethod(reference_soft_ce.two_label_cross_entropy)


def select(kind: KernelKind, device: torch.device | str) -> Kernels:
    """The kernels to use on a device.

    Args:
        kind: "torch" for the reference; "triton" for Triton or an error; "auto" for Triton where it runs,
            else the reference, with the reason in the log once.
        device: Where the tensors are.

    Raises:
        UserError: `kind` is unknown, or "triton" cannot run on this device.
    """
    if kind not in ("auto", "triton", "torch"):
        raise UserError(f"kernels is {kind!r}; use auto, triton or torch")
    if kind == "torch":
        return Kernels()
    device = torch.device(device)
    obstacle = _obstacle(device)
    if obstacle is None and (kind == "triton" or not _interpreted()):
        return _triton_kernels()
    if kind == "triton":
        assert obstacle is not None
        raise UserError(f"kernels is triton, but {obstacle.reason}; {obstacle.cure}")
    reason = obstacle.reason if obstacle else "TRITON_INTERPRET=1 runs Triton kernels slowly, on the CPU"
    # A CPU has no other choice; on a GPU the reader should know what is lost.
    _log_once(logging.INFO if device.type == "cpu" else logging.WARNING, reason)
    return Kernels()


class _Obstacle(NamedTuple):
    reason: str
    cure: str


@functools.cache
def _log_once(level: int, reason: str) -> None:
    _log.log(level, "kernels run in plain PyTorch: %s", reason)


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _obstacle(device: torch.device) -> _Obstacle | None:
    """Why Triton cannot run on a device, and what to do about it; None where it can."""
    otherwise = "set kernels to auto or torch"
    try:
        import triton  # noqa: F401
    except ImportError:
        return _Obstacle(
            "Triton is not installed", f"install the triton package of this PyTorch, or {otherwise}"
        )
    if device.type == "cpu":
        if _interpreted():
            return None
        cure = f"{otherwise}, or set TRITON_INTERPRET=1 to run them slowly for debugging"
        return _Obstacle("its kernels need a GPU and the device is cpu", cure)
    if device.type != "cuda":
        return _Obstacle(f"its kernels are not tested on a device of type {device.type}", otherwise)
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        name, least = torch.cuda.get_device_name(device), ".".join(map(str, LEAST_CAPABILITY))
        return _Obstacle(f"{name} has a compute capability below {least}", otherwise)
    return _trial(device)


@functools.cache
def _trial(device: torch.device) -> _Obstacle | None:
    """Compile and run the smallest kernel: a missing C compiler, say, shows only here."""
    try:
        _triton_kernels().pseudo_label(torch.zeros(1, 2, device=device))
    except Exception as error:  # whatever a compiler, a linker or a driver may raise
        reason = f"a trial kernel failed on {device} ({type(error).__name__}: {error})"
        return _Obstacle(
            " ".join(reason.split()),
            "repair that (Triton needs a C compiler), or set kernels to auto or torch",
        )
    return None


@functools.cache
def _triton_kernels() -> Kernels:
    from fastsemi.kernels import pseudo_label as triton_pseudo_label
    from fastsemi.kernels import soft_ce as triton_soft_ce
    from fastsemi.kernels.augment import operator as triton_augment
    from fastsemi.kernels.mix import operator as triton_mix

    class TritonKernels(Kernels):
        name = "triton"
        augment = staticmethod(triton_augment.augment)
        pseudo_label = staticmethod(triton_pseudo_label.pseudo_label)
        mix = staticmethod(triton_mix.mix)
        normalise = staticmethod(triton_mix.normalise)
        two_label_cross_entropy = staticmethod(triton_soft_ce.two_label_cross_entropy)

    return TritonKernels()
