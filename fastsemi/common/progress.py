"""What the user sees while a run trains: bars on a terminal, plain lines on a pipe."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from fastsemi.common.printable import printable
from fastsemi.common.telling import is_quiet

LABELS = {
    "loss": "loss {:.3f}",
    "images_per_s": "{:,.0f} images/s",
    "loader_wait": "wait {:.0%}",
    "acceptance": "accepted {:.0%}",
    "pseudo_label_accuracy": "of these right {:.0%}",
}


class QuietConsole(Console):
    """Shows names as `printable`, and falls silent when its reader has gone (`fastsemi train | head`)."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Any text that comes as such, also in cells of tables."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)

    def on_broken_pipe(self) -> None:
        """Print nothing from here on: the training goes on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Reports one stage at a time.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console):
        self.console = console
        self._bars: Bars | None = None
        self._scores = ""

    def start(self, stage: str, step: int, total: int) -> None:
        """Begin a stage at `step` of `total`."""
        self._stage, self._total, self._scores = stage, total, ""
        self._started, self._first = time.perf_counter(), step
        if is_quiet():
            return
        if self.console.is_terminal:
            self._bars = Bars(
                TextColumn("[bold]{task.description:>8}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=self.console,
            )
            self._task = self._bars.add_task(stage, total=total, completed=step, values="")
            self._bars.start()
        elif step:
            self.console.print(f"{stage}: resumes at step {step} of {total}", highlight=False)

    def update(self, step: int, row: dict[str, float]) -> None:
        """Show the metrics of a log step."""
        if is_quiet():
            return
        values = ", ".join(
            form.format(row[name])
            for name, form in LABELS.items()
            if name in row and math.isfinite(row[name])
        )
        if self._bars:
            text = f"{values} {self._scores}"
            self._bars.update(self._task, completed=step, values=text)
            return
        done = max(1, step - self._first)
        left = (time.perf_counter() - self._started) / done * (self._total - step)
        self.console.print(
            f"{self._stage}: step {step}/{self._total}, ETA {left:.0f} s, {values}",
            highlight=False,
            soft_wrap=True,
        )

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self.console.print(f"{self._stage}: {text}", highlight=False, markup=False, soft_wrap=True)

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """Show an evaluation."""
        if is_quiet():
            return
        text = ", ".join(
            f"{name.replace('_', ' ')} {value:.1f} %"
            for name, value in scores.items()
            if name.endswith(("top1", "validation"))
        )
        if self._bars:
            self._scores = f"| {text}"
            self._bars.update(self._task, completed=step)
        else:
            text = f"{self._stage}: step {step}/{self._total}, {text}"
            self.console.print(text, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """End the stage."""
        if self._bars:
            self._bars.stop()
            self._bars = None
