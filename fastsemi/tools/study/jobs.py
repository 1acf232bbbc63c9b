"""The stage runs behind a study: cells with the same settings up to a stage share that stage's run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.run.config import Config, to_yaml
from fastsemi.run.fingerprint import fingerprint
from fastsemi.run.folder import RunFolder
from fastsemi.run.summary import read_summary
from fastsemi.stages.names import STAGES, StageName
from fastsemi.tools.study.study_file import Cell, Study


@dataclass(frozen=True)
class StageRun:
    """One stage in a run directory of its own.

    Attributes:
        stage: The stage.
        config: The settings, with the run directory as `output`.
        before: The job whose result it starts from.
    """

    stage: StageName
    config: Config
    before: StageRun | None

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.config.output

    @property
    def result(self) -> Path:
        """The network of the finished stage."""
        return RunFolder(self.folder).result(self.stage)

    @property
    def log(self) -> Path:
        """What the run printed."""
        return RunFolder(self.folder).log

    @property
    def settings(self) -> Path:
        """The configuration that the run is started with."""
        return self.folder / "cell.yaml"

    def scores(self) -> dict[str, Any] | None:
        """The stage's entry in `summary.json`; None before it has finished.

        Raises:
            UserError: The file is damaged.
        """
        if not self.result.exists():
            return None
        path = RunFolder(self.folder).summary
        try:
            return read_summary(path)["stages"][self.stage]
        except (UserError, KeyError):
            raise UserError(
                f"{path} is missing or damaged; delete {self.folder} to train this stage again"
            ) from None

    def prepare(self) -> None:
        """Make the run directory, with the result of the stage before in it."""
        self.result.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.settings) as file:
            file.write(to_yaml(self.config))
        if self.before:
            target = RunFolder(self.folder).result(self.before.stage)
            if not target.exists():
                _link(self.before.result, target)


@dataclass(frozen=True)
class SeededCell:
    """A cell with a seed, and its stages in order."""

    cell: Cell
    seed: int
    jobs: tuple[StageRun, ...]

    @property
    def finished(self) -> bool:
        """Whether all its stages are."""
        return all(job.result.exists() for job in self.jobs)

    def accuracies(self) -> dict[str, float]:
        """Top-1 of the fine-tuned network, of student and of teacher, as far as the stages have finished."""
        found: dict[str, float] = {}
        for job in self.jobs:
            scores = job.scores() or {}
            if job.stage == "finetune" and scores:
                found["finetune"] = scores.get("ema_top1", scores["top1"])
            if job.stage == "semi" and scores:
                found |= {"student": scores["student_top1"], "teacher": scores["teacher_top1"]}
        return found

    def seconds(self) -> float:
        """Seconds in training of its stages, shared ones included."""
        return sum((job.scores() or {"seconds": 0.0})["seconds"] for job in self.jobs)


@dataclass(frozen=True)
class StudyPlan:
    """What a study has to run."""

    entries: tuple[SeededCell, ...]
    jobs: dict[Path, StageRun] = field(default_factory=dict)  # by run directory, earlier stages first


def plan_study(study: Study, seeds: Sequence[int], folder: Path) -> StudyPlan:
    """Find the stage runs of all cells and seeds.

    Two cells share a run where their fingerprints agree: all settings that the stage's weights depend on.

    Args:
        study: The grid.
        seeds: Seeds, of training and of the choice of labels.
        folder: Where run directories are; studies with the same folder share them.

    Raises:
        UserError: A cell has nothing to evaluate on.
    """
    jobs: dict[Path, StageRun] = {}
    entries = []
    for cell in study.cells:
        for seed in seeds:
            config = cell.with_seed(seed)
            if not config.data.evaluates:
                raise UserError(
                    "a study compares accuracies, and there is nothing to evaluate on (data.val is null, "
                    "data.labels.validation 0); set one of them"
                )
            before: StageRun | None = None
            mine = []
            for number, stage in enumerate(config.stages):
                output = folder / f"{stage}-{_digest(config, stage, config.stages[:number])}"
                job = StageRun(stage, dataclasses.replace(config, output=output), before)
                before = jobs.setdefault(output, job)
                mine.append(before)
            entries.append(SeededCell(cell, seed, tuple(mine)))
    return StudyPlan(tuple(entries), dict(sorted(jobs.items(), key=lambda item: STAGES.index(item[1].stage))))


def _digest(config: Config, stage: StageName, earlier: Sequence[StageName]) -> str:
    settings = {**fingerprint(config, stage, earlier), "precision": config.precision}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)
