"""How the processes of a run meet, and how its micro-batches are split over them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import torch.distributed as dist

from fastsemi.common.errors import UserError


def fresh_store(store: dist.Store, this: int, count: int, timeout_s: float) -> dist.Store:
    """A part of torchrun's store that only the processes of this start know.

    torchrun keeps its store when it starts processes again, with the addresses of the lost ones in it: of
    PyTorch 2.14's own groups some then connect to nobody. So rank 0 draws a name and hands it to each process
    that shows, by a number of its own, that it is not a former one.

    Raises:
        UserError: The others did not come in time.
    """
    name, mine = secrets.token_hex(8), secrets.token_hex(8)
    waiting = set(range(1, count))
    if this:
        store.set(f"hello/{this}", mine)

    def read(key: str) -> str:
        return store.get(key).decode() if store.check([key]) else ""

    def met() -> bool:
        nonlocal name
        if this == 0:
            for other in waiting:
                store.set(f"answer/{other}", f"{read(f'hello/{other}')}:{name}")
            waiting.difference_update([other for other in waiting if read(f"thanks/{other}") == name])
            return not waiting
        number, _, given = read(f"answer/{this}").partition(":")
        if number == mine:
            name = given
            store.set(f"thanks/{this}", name)
        return number == mine

    if not wait_briefly(met, timeout_s):
        raise UserError(
            f"the {count} processes of the run did not find each other within {timeout_s:g} s; check that "
            "all nodes reach the first one, or raise distributed.timeout_s"
        )
    return dist.PrefixStore(f"fastsemi/{name}", store)


def require_split(section: str, micro_batches: int, batch: int, processes: int) -> None:
    """Refuse micro-batches that the processes cannot share evenly.

    A run's micro-batches never depend on the number of processes: mixing partners are drawn inside them.

    Raises:
        UserError: Names the nearest possible numbers of processes and of micro-batches.
    """
    if micro_batches % processes == 0:
        return
    divisors = [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]
    splits = [n for n in range(processes, batch + 1, processes) if batch % n == 0]
    counts = " or ".join(str(n) for n in _around(processes, divisors))
    cure = f"start {counts} {'process' if counts == '1' else 'processes'}"
    if splits:
        near = " or ".join(str(n) for n in _around(micro_batches, splits))
        cure += f", or set {section}.micro_batches to {near} (which changes what is mixed with what)"
    else:
        cure += f" (no multiple of {processes} divides the batch of {batch} into micro-batches)"
    raise UserError(
        f"{section}.micro_batches is {micro_batches}, which {processes} processes cannot share evenly; {cure}"
    )


def _around(value: int, possible: list[int]) -> list[int]:
    """The nearest possible values below and above."""
    below, above = [n for n in possible if n < value], [n for n in possible if n > value]
    return ([max(below)] if below else []) + ([min(above)] if above else [])


def wait_briefly(ready: Callable[[], bool], seconds: float) -> bool:
    """Ask `ready()` until it is true or the time is up; whether it became true."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
