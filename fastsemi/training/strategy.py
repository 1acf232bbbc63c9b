"""How the processes of a run share its networks: DDP holds them whole everywhere, FSDP2 in shards."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastsemi.common.precision import Precision
from fastsemi.parallel import processes
from fastsemi.parallel.settings import Strategy, StrategyName
from fastsemi.parallel.shards import blocks, shard
from fastsemi.stages.base import Stage

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

# Of a device's memory, what is left to the allocator, NCCL and the batches under way.
_SPARE = 0.1


def choose_strategy(name: StrategyName, bytes_needed: int, bytes_available: int) -> Strategy:
    """Resolve `auto`: ddp where a whole copy fits into a device's memory, which is faster, else fsdp.

    Args:
        name: As configured.
        bytes_needed: By one process under ddp.
        bytes_available: Of its device.
    """
    if name != "auto":
        return name
    return "ddp" if bytes_needed <= (1 - _SPARE) * bytes_available else "fsdp"


def _leave_buffers() -> dict[str, Any]:
    """DDP's option to leave buffers alone: of those that a step changes, `RunningStatistics` takes care."""
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # PyTorch 2.14
    return {"forward_sync_buffers" if new else "broadcast_buffers": False}


class Parallel:
    """A stage's networks, made ready for the processes of the run. The stage's `network` is replaced.

    Create it before the optimizer, whose parameters may become shards.

    Args:
        stage: Whose networks.
        strategy: ddp or fsdp; without effect in a single process.
        precision: Number format of gathered weights.
    """

    def __init__(self, stage: Stage, strategy: Strategy, precision: Precision):
        self._ddp: DistributedDataParallel | None = None
        self._fsdp: FSDPModule | None = None
        self._steps = 0
        if processes.world() == 1:
            return
        if strategy == "fsdp":
            shard([stage.model, *stage.followers()], precision)
            self._fsdp = cast("FSDPModule", stage.model)
        else:
            # Gradients meet in the buckets that they are computed in. A skipped sample changes shapes, not
            # the graph.
            self._ddp = DistributedDataParallel(
                stage.model,
                device_ids=[precision.device] if precision.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                static_graph=True,
                **_leave_buffers(),
            )
            stage.network = self._ddp

    def micro_step(self, *, last: bool) -> AbstractContextManager[None]:
        """The context of a forward and backward pass; gradients are exchanged in the `last` of a step.

        DDP learns a static graph from an exchange, so in the first step each pass has one; the mean of sums
        is the sum of means.
        """
        if self._fsdp:
            self._fsdp.set_requires_gradient_sync(last)
        if self._ddp is None or last or self._steps == 0:
            self._steps += last
            return nullcontext()
        return self._ddp.no_sync()

    def units(self, networks: list[nn.Module]) -> list[nn.Module]:
        """What to compile: whole networks; of sharded ones the blocks, which are gathered one by one."""
        if self._fsdp is None:
            return networks
        return [block for network in networks for block in blocks(network)]
