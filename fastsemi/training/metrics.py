"""Metrics: summed on the device, read on log steps only, written as JSON lines and TensorBoard events."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastsemi.common.files import replacing
from fastsemi.parallel import processes
from fastsemi.stages.base import Ratio

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Accumulator:
    """Adds up ratios without waiting for the device.

    Args:
        device: Where the metrics are computed.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._sums: dict[str, Tensor] = {}  # name -> [2] or [2, C] total, count

    def add(self, metrics: dict[str, Ratio]) -> None:
        """Add the metrics of a micro-batch."""
        for name, ratio in metrics.items():
            pair = torch.stack([self._sum(ratio.total), self._sum(ratio.count)])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def _sum(self, value: Tensor | int) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(self._device, torch.float32)
        # A fill: to copy a number of the host's to a GPU waits for all that was launched before.
        return torch.full((), value, dtype=torch.float32, device=self._device)

    def state(self) -> list[dict[str, Any]]:
        """Sums since the last read by process and name, in rank 0; all processes must ask for it."""
        return processes.to_main(dict(self._listed(self._joined())))

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go on from what `state` gave, to the same bits where there are as many processes as there were."""
        rank, alike = processes.rank(), len(state) == processes.world()
        # of other processes: the sums of all become the first one's, zeros those of the rest
        whose = state[rank : rank + 1] if alike else state if rank == 0 else []
        for name, first in state[0].items():
            parts = [sums[name] for sums in whose] or [torch.zeros_like(torch.tensor(first)).tolist()]
            self._sums[name] = torch.tensor(parts, device=self._device).sum(0)

    def read(self) -> dict[str, Any]:
        """Ratios since the last read over all processes, in one transfer; NaN where nothing was counted."""
        if not self._sums:
            return {}
        table = dict(self._listed(processes.add_up(self._joined())))
        self._sums = {}
        return {name: _ratio(total, count) for name, (total, count) in table.items()}

    def _joined(self) -> Tensor:
        """All sums one after the other: what is read at once is waited for once."""
        sums = [pair.flatten() for pair in self._sums.values()]
        return torch.cat(sums) if sums else torch.zeros(0, device=self._device)

    def _listed(self, joined: Tensor) -> Iterator[tuple[str, Any]]:
        """What `_joined` gave as nested lists by name."""
        parts = joined.cpu().split([pair.numel() for pair in self._sums.values()])
        for (name, pair), part in zip(self._sums.items(), parts, strict=True):
            yield name, part.view(pair.shape).tolist()


class MetricLog:
    """Writes rows of metrics as JSON lines and as TensorBoard events; silent in all processes but one.

    Args:
        path: The rows, JSON lines.
        board: Folder of TensorBoard's events.
    """

    def __init__(self, path: Path, board: Path):
        self._path = path
        self._board: SummaryWriter | None = None
        if not processes.is_main():
            return
        from torch.utils.tensorboard import SummaryWriter  # only a run that logs needs TensorBoard

        self._board = SummaryWriter(str(board))

    def rewind(self, stage: str, step: int) -> None:
        """Forget what a stage wrote after `step`, before it goes on from there."""
        if not self._board or not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
                stale = row["stage"] == stage and row["step"] > step
            except (ValueError, TypeError, KeyError):
                continue  # torn by a crash
            if not stale:
                kept.append(_line(row))
        with replacing(self._path) as file:
            file.writelines(kept)

    def write(self, stage: str, step: int, values: dict[str, Any]) -> None:
        """Append one row; `step` counts the optimizer steps done in the stage."""
        if not self._board:
            return
        with self._path.open("a") as file:
            file.write(_line({"stage": stage, "step": step, **values}))
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._board.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        """Flush."""
        if self._board:
            self._board.close()


def _ratio(total: Any, count: Any) -> Any:
    if isinstance(total, list):
        return [_ratio(*pair) for pair in zip(total, count, strict=True)]
    return total / count if count else math.nan


def _line(row: dict[str, Any]) -> str:
    return json.dumps({name: _finite(value) for name, value in row.items()}) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
