"""Whether torchrun started this process, found from the environment alone: nothing here needs PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastsemi.common.errors import UserError

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether torchrun started this process."""
    return all(name in os.environ for name in _ENVIRONMENT)


def speaks() -> bool:
    """Whether this is the process that prints, also before the processes are connected and afterwards."""
    return not launched() or os.environ["RANK"] == "0"


@contextmanager
def one_report() -> Iterator[None]:
    """What fails in the block fails in all processes alike: one of them reports it, the others end."""
    try:
        yield
    except UserError:
        if not speaks():
            raise SystemExit(2) from None
        raise
