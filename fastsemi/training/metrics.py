"""Metrics: summed on the device, read on log steps only, written as JSON lines, and shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsemi.common.files import replacing
from fastsemi.parallel import processes
from fastsemi.stages.base import Ratio
from fastsemi.training.loggers import Logger, create_loggers
from fastsemi.training.settings import LoggerName


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
    """Writes rows of metrics as JSON lines and shows them; silent in all processes but one.

    Args:
        path: The rows, JSON lines.
        board: Folder of TensorBoard's events.
        loggers: Where they are shown.
        config: What services show beside them, by dotted key.
    """

    def __init__(
        self,
        path: Path,
        board: Path,
        loggers: Sequence[LoggerName] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ):
        self._path, self._board, self._names, self._config = path, board, loggers, config or {}
        self._loggers: list[Logger] | None = None

    def rewind(self, stage: str, step: int) -> None:
        """Forget what a stage wrote after `step`, before it goes on from there.

        Raises:
            UserError: A service that shows the rows cannot be reached.
        """
        if not processes.is_main():
            return
        rows = self._rows()
        kept = [row for row in rows if row["stage"] != stage or row["step"] <= step]
        if self._path.exists():
            with replacing(self._path) as file:
                file.writelines(map(_line, kept))
        if self._loggers is None or len(kept) < len(rows):
            self._show(kept, rows)

    def _rows(self) -> list[dict[str, Any]]:
        found = []
        for line in self._path.read_text(errors="replace").splitlines() if self._path.exists() else ():
            with suppress(ValueError, TypeError, KeyError):  # torn by a crash
                row = json.loads(line)
                if isinstance(row["stage"], str) and row["step"] >= 0:
                    found.append(row)
        return found

    def _show(self, kept: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]]) -> None:
        """Start the loggers, with the rows that are kept of those that there were."""
        self.close()
        shown: dict[str, int] = {}
        for row in before:
            shown[row["stage"]] = max(row["step"], shown.get(row["stage"], 0))
        folder = self._path.parent
        self._loggers = create_loggers(self._names, folder, self._board, self._config, kept, shown)

    def write(self, stage: str, step: int, values: dict[str, Any]) -> None:
        """Append one row; `step` counts the optimizer steps done in the stage."""
        if not processes.is_main():
            return
        if self._loggers is None:
            self._show([], [])
        row = {"stage": stage, "step": step, **values}
        with self._path.open("a") as file:
            file.write(_line(row))
        for logger in self._loggers or ():
            logger.write(row)

    def close(self) -> None:
        """Flush."""
        for logger in self._loggers or ():
            logger.close()
        self._loggers = None


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
