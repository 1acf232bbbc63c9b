"""torch.compile of a stage's networks, and CUDA graphs of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.models.drop_path import share_drop_path
from fastsemi.training.settings import CompileConfig


def compile_networks(networks: Iterable[nn.Module], config: CompileConfig, device: torch.device) -> None:
    """Compile networks in place: names of parameters, checkpoints and averages do not change.

    Random numbers stay those of the uncompiled network, so drop path keeps its seed per step and micro-batch.
    Rejected samples give the student up to nine batch sizes (`Compaction`); the second one that PyTorch meets
    makes it compile for any size.

    Blocks that are compiled one by one share their graphs: one for any number of images, and one each for a
    first number and for a pass without gradient, whatever the depth.

    Args:
        networks: What to compile, networks or blocks; one that occurs twice is compiled once.
        config: Whether, and how.
        device: Where they run.

    Raises:
        UserError: CUDA graphs without a CUDA GPU.
    """
    if not config.enabled:
        return
    if config.cuda_graphs and device.type != "cuda":
        raise UserError(f"compile.cuda_graphs needs a CUDA GPU, not {device.type}; set it to false")
    import torch._inductor.config as inductor

    inductor.fallback_random = True
    mode = "reduce-overhead" if config.cuda_graphs else None
    networks = list(dict.fromkeys(networks))
    share_drop_path(networks)
    for network in networks:
        network.compile(mode=mode)


def mark_step(config: CompileConfig) -> None:
    """Tell CUDA graphs that a micro-batch begins: what the one before it returned may be overwritten."""
    if config.cuda_graphs:
        torch.compiler.cudagraph_mark_step_begin()
