"""Several processes of one run, started by torchrun: who is who, and what they tell each other.

Without torchrun's environment every function here is that of a single process: rank 0 of 1.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from fastsemi.common.errors import Interrupted, UserError
from fastsemi.parallel.launch import launched
from fastsemi.parallel.rendezvous import fresh_store
from fastsemi.parallel.settings import DistributedConfig

T = TypeVar("T")


@dataclass
class _Session:
    """What outlives a single call: process groups on the CPU that never mix their messages."""

    control: dist.ProcessGroup
    saving: dist.ProcessGroup
    store: dist.Store


_session: _Session | None = None


def rank() -> int:
    """This process, from 0."""
    return dist.get_rank() if _session else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _session else 1


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def control_group() -> dist.ProcessGroup | None:
    """Processes on the CPU, for short messages of the training loop."""
    return _session.control if _session else None


def saving_group() -> dist.ProcessGroup | None:
    """Processes on the CPU, for checkpoints alone, which are saved in a thread of their own."""
    return _session.saving if _session else None


def local_device(name: str) -> str:
    """The device of this process where the configuration says `name`: one GPU each.

    Raises:
        UserError: The configuration names one GPU for all, or this machine has too few.
    """
    if not launched() or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return name
    if name not in ("auto", "cuda"):
        raise UserError(f"device is {name}, but torchrun started several processes; use --device cuda or cpu")
    local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local > count:
        raise SystemExit(2)  # its neighbour, the first without a device, reports
    if local == count:
        raise UserError(
            f"torchrun started {os.environ.get('LOCAL_WORLD_SIZE', local + 1)} processes on a machine of "
            f"{count} CUDA devices; use --nproc-per-node={max(1, count)}"
        )
    return f"cuda:{local}"


@contextmanager
def session(config: DistributedConfig, device: str) -> Iterator[None]:
    """Connect the processes of a run within the block; nothing without torchrun.

    A process that fails inside the block says so before it ends. The others, whose next exchange then fails,
    end without a word, so that the user reads one line.

    Args:
        config: Timeout.
        device: Of this process, from `local_device`.
    """
    global _session
    if not launched():
        yield
        return
    on_gpu = device.startswith("cuda")
    timeout = timedelta(seconds=config.timeout_s)
    if on_gpu:
        torch.cuda.set_device(torch.device(device))
    shared, this, count = next(dist.rendezvous("env://", timeout=timeout))
    store = fresh_store(shared, this, count, config.timeout_s)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=this, world_size=count, timeout=timeout
    )
    control, saving = (
        cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout)) for _ in range(2)
    )
    _session = _Session(control, saving, store)
    if not is_main():
        logging.getLogger("fastsemi.loaders").setLevel(logging.WARNING)  # which engine runs is said once
    try:
        yield
        barrier()
        dist.destroy_process_group()
    except BaseException as error:
        _fail(_session, error)
        raise
    finally:
        _session = None


def _fail(here: _Session, error: BaseException) -> None:
    """Let the first process that fails report its error, and end the others.

    The groups are not taken down: that would wait for processes that may never answer.

    Raises:
        SystemExit: Another process has reported already.
        UserError: Another process was lost without a word.
    """
    me = str(dist.get_rank())
    try:
        first = here.store.compare_set("failed", "", me).decode() == me
    except (RuntimeError, dist.DistError):
        first = False  # the store went with the machine that ran it; its torchrun reports
    if isinstance(error, Interrupted):
        return
    if not first:
        raise SystemExit(2) from None
    if _lost_contact(error):
        raise UserError(
            "another process of the run was lost; torchrun starts all again from the last checkpoint if "
            "--max-restarts allows, else run the same command again"
        ) from error


def _lost_contact(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def barrier() -> None:
    """Wait for all processes."""
    if _session:
        dist.barrier(_session.control)


def add_up(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on its device."""
    if _session:
        dist.all_reduce(values)
    return values


def join(values: Tensor) -> Tensor:
    """The columns of all processes' matrices [N, B], in the order of the processes; all have as many."""
    if not _session:
        return values
    parts = [torch.empty_like(values) for _ in range(world())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts, dim=1)


def largest(value: float) -> float:
    """The largest of the processes' values."""
    if not _session:
        return value
    box = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(box, dist.ReduceOp.MAX, _session.control)
    return float(box)


def union(values: set[str]) -> set[str]:
    """What any of the processes has."""
    if not _session:
        return values
    parts: list[set[str]] = [set()] * world()
    dist.all_gather_object(parts, values, _session.control)
    return set().union(*parts)


def to_main(value: T) -> list[T]:
    """The values of all processes, by rank, in rank 0; elsewhere nothing."""
    if not _session:
        return [value]
    parts: list[Any] | None = [None] * world() if is_main() else None
    dist.gather_object(value, parts, 0, _session.control)
    return parts or []


def from_main(value: T) -> T:
    """The value that rank 0 gives; those of others are ignored."""
    if not _session:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, 0, _session.control)
    return box[0]


@contextmanager
def one_per_node_first() -> Iterator[None]:
    """Let one process of each machine through the block before its neighbours: it fills caches for them."""
    first = not _session or os.environ["LOCAL_RANK"] == "0"
    if not first:
        barrier()
    yield
    if first:
        barrier()
