"""The time that a run may take: what its stages cost is measured, their lengths are chosen once."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace

from fastsemi.common.errors import UserError
from fastsemi.common.seconds import duration, read_seconds
from fastsemi.parallel import processes
from fastsemi.parallel.stop import Stop
from fastsemi.run.config import Config, load
from fastsemi.run.context import RunContext
from fastsemi.run.fingerprint import fingerprint
from fastsemi.run.folder import RunFolder
from fastsemi.run.order import earlier, settings
from fastsemi.run.summary import read_summary, write_summary
from fastsemi.stages.advice import cheaper_steps
from fastsemi.stages.names import STAGES, StageName
from fastsemi.tools.budget.lengths import MOST, choose, intervals, least
from fastsemi.tools.budget.measure import measure
from fastsemi.training.checkpoint.folder import Checkpoints

USED = 0.9  # of the time that is left when the lengths are chosen; the rest is for what slows a machine down
REPORT = 5.0  # seconds for the page at the end, which cannot be written before, and for leaving
_SHARE, _LEAST, _LONGEST = 0.02, 0.5, 20.0  # each stage's steps are measured for this part of it; seconds
_ROUND = 5  # seconds, of times that are proposed


class Budget:
    """Makes the stages of a run as long as its time allows (`fastsemi.run.run.Lengths`).

    Args:
        text: As given, such as `10 minutes`.
        begun: `time.monotonic` when the command began.

    Raises:
        UserError: The text is no time.
    """

    def __init__(self, text: str, begun: float):
        self.text, self.seconds = text, read_seconds(text)
        self._begun = begun
        self._held: list[StageName] = []
        self._free: list[StageName] = []
        self._trains = False

    def kept(self, run: RunContext) -> Config:
        """The run with the lengths that its directory has chosen before, or has begun a stage with."""
        begun = [
            name
            for name in STAGES
            if processes.from_main(run.folder.result(name).exists())
            or Checkpoints(run.folder.checkpoints, name).latest() is not None
        ]
        found = _held(run, begun) if processes.is_main() else ([], run.config)
        self._held, config = processes.from_main(found)
        return config

    def choose(self, run: RunContext, todo: Sequence[StageName], stop: Stop) -> Config:
        """The run with the lengths that its time allows; the same in all processes.

        Raises:
            Interrupted: A signal asked to stop.
            UserError: The time is too short; the line says what would do.
        """
        held = [name for name in todo if name in self._held]
        if held:
            run.say(
                f"--budget {self.text}: the lengths in {run.folder.config} stay: {_said(run.config, held)}; "
                "another --output may have others"
            )
        self._trains = bool(todo)
        self._free = [name for name in todo if name not in self._held]
        if not self._free:
            return run.config
        try:
            return self._choose(run, todo, stop)
        except BaseException:
            self._clean(run)
            raise

    def _choose(self, run: RunContext, todo: Sequence[StageName], stop: Stop) -> Config:
        self._clean(run)
        run.say(f"--budget {self.text}: measuring what a step costs")
        seconds = min(_LONGEST, max(_LEAST, _SHARE * self.seconds))
        costs = {}
        for name in todo:
            fresh = any(before in todo for before in earlier(run.config, name))
            costs[name] = measure(run, name, stop, seconds=seconds, fresh=fresh)

        spent = processes.from_main(self._spent())
        left = USED * (self.seconds - spent) - REPORT
        shortest, chosen = choose(run.config, costs, self._free, left)
        if shortest.seconds > left:
            steps = max(least(settings(run.config, name)) for name in self._free)
            enough = spent + (shortest.seconds + REPORT) / USED
            raise UserError(
                f"--budget {self.text} is too short for {steps} steps of each stage; give at least "
                f"{duration(_ROUND * math.ceil(enough / _ROUND))}"
            )
        for name in self._free:
            if text := cheaper_steps(settings(run.config, name)):
                run.say(f"--budget {self.text}: {text}")
        self.planned = spent + chosen.seconds + REPORT
        most = f" ({MOST:g} times the configured lengths, the most)" if chosen.factor == MOST else ""
        run.say(
            f"--budget {self.text}: {_said(chosen.config, self._free)}{most}; planned to end after "
            f"{duration(self.planned)}"
        )
        return chosen.config

    def chosen(self, run: RunContext) -> None:
        """Note which stages have their lengths, in one process, when these are in the run's configuration."""
        if not self._free:
            return
        summary = read_summary(run.folder.summary)
        before = summary.get("budget", {"stages": []})["stages"]
        summary["budget"] = {
            "seconds": self.seconds,
            "planned": self.planned,
            "spent": 0.0,
            "stages": [name for name in STAGES if name in (*before, *self._free)],
        }
        write_summary(run.folder.summary, summary)
        found = RunFolder(run.folder.trial / "finetune").spread_labels  # what the run would find again
        if found.exists():
            run.folder.spread_labels.parent.mkdir(parents=True, exist_ok=True)
            found.replace(run.folder.spread_labels)
        self._clean(run)

    def _clean(self, run: RunContext) -> None:
        if processes.is_main():
            shutil.rmtree(run.folder.trial, ignore_errors=True)

    def end(self, folder: RunFolder) -> str:
        """Add the time of this command to that of the run, in one process; how it compares, in one line."""
        spent, summary = self._spent(), read_summary(folder.summary)
        if "budget" not in summary or not self._trains:
            return f"took {duration(spent)}"
        record = summary["budget"]
        record["spent"] += spent
        write_summary(folder.summary, summary)
        return f"took {duration(record['spent'])} of the {duration(record['seconds'])} it was given"

    def _spent(self) -> float:
        return time.monotonic() - self._begun


def _held(run: RunContext, begun: Sequence[StageName]) -> tuple[list[StageName], Config]:
    """The stages whose lengths are settled, and the run with those."""
    if not run.folder.config.is_file():
        return list(begun), run.config
    stored = load([run.folder.config], [])
    noted = read_summary(run.folder.summary).get("budget", {"stages": []})["stages"]
    all_taken = _take(run.config, stored, [*begun, *noted])
    held = [name for name in STAGES if name in begun or (name in noted and _same(all_taken, stored, name))]
    return held, _take(run.config, stored, held)


def _take(config: Config, stored: Config, stages: Sequence[StageName]) -> Config:
    """The configuration with the lengths of another one."""
    changed = {}
    for name in stages:
        mine, other = settings(config, name), settings(stored, name)
        changed[name] = replace(mine, **{key: getattr(other, key) for key in intervals(mine)})
    return replace(config, **changed)


def _same(config: Config, other: Config, name: StageName) -> bool:
    """Whether a stage would be trained alike."""
    mine, theirs = (fingerprint(one, name, earlier(one, name)) for one in (config, other))
    return mine == theirs


def _said(config: Config, stages: Sequence[StageName]) -> str:
    return ", ".join(f"{name} {settings(config, name).length}" for name in stages)
