"""A run: the stages in a row, each from the one before, in a directory that can be resumed."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, Protocol

import timm
import torch

from fastsemi.common.errors import Interrupted, UserError
from fastsemi.common.files import replacing
from fastsemi.common.hardware import hardware
from fastsemi.common.progress import Progress
from fastsemi.common.version import __version__
from fastsemi.models.create import model_args
from fastsemi.parallel import processes
from fastsemi.parallel.stop import Stop, StopVote, stop_signals
from fastsemi.probing.probe import best, to_json
from fastsemi.run.baseline import baselines_digest, judge_baselines, wants_baselines
from fastsemi.run.build import build_stage, build_trainer
from fastsemi.run.calibrate import calibrate
from fastsemi.run.checks import check_folder, check_images, check_nodes, check_stage, stage_fingerprint
from fastsemi.run.config import Config, to_yaml
from fastsemi.run.context import RunContext
from fastsemi.run.data_lines import data_lines
from fastsemi.run.engine import settle_engine
from fastsemi.run.fingerprint import flat
from fastsemi.run.fit_batches import fit_batches
from fastsemi.run.images_of_step import naming_images
from fastsemi.run.leave_model import leave_model
from fastsemi.run.lock import locked
from fastsemi.run.mirror import Mirror
from fastsemi.run.plan_file import record_plan
from fastsemi.run.selected import evaluated_on, held_out_lines, selected_on
from fastsemi.run.summary import read_summary, write_summary
from fastsemi.stages.advice import slow_teacher, unused_label_passes
from fastsemi.stages.finetune import Finetune
from fastsemi.stages.names import STAGES, StageName, has_classifier
from fastsemi.stages.semi import Semi
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.metrics import MetricLog
from fastsemi.training.plain_state import plain_state


class Lengths(Protocol):
    """Chooses how long stages are, once in the life of a run."""

    def kept(self, run: RunContext) -> Config:
        """The run with the lengths that its directory holds already."""

    def choose(self, run: RunContext, todo: Sequence[StageName], stop: Stop) -> Config:
        """The run with lengths for all stages that are to be trained."""

    def chosen(self, run: RunContext) -> None:
        """Called in one process when the lengths are in the directory's configuration."""


class Run:
    """The stages of a configuration in its run directory.

    Args:
        config: The run.
        progress: What the user sees.
        by_hand: Keys of batches that stay as they are, as of `fit_batches`; by default all.
    """

    def __init__(self, config: Config, progress: Progress, by_hand: Set[str] | None = None):
        self.config, self.progress, self._by_hand = config, progress, by_hand
        self._said: set[str] = set()
        self._mirror: Mirror | None = None
        self.context = RunContext(config, self._say)
        self.folder = self.context.folder

    def train(self, stages: Sequence[StageName], lengths: Lengths | None = None) -> dict[str, Any]:
        """Run stages that are not finished yet; the last one's network ends up under `model/`.

        What can be wrong with the configuration and the data of any of them is found before the first.

        Args:
            stages: Which stages.
            lengths: Chooses how long they are, in place of the configuration.

        Returns:
            The content of `summary.json`.

        Raises:
            Interrupted: A signal asked to stop; the run can be resumed.
        """
        stop = Stop()
        with stop_signals(stop, self.config.train.grace_s):
            try:
                with locked(self.folder), self._mirrored():
                    return self._run(stages, stop, lengths)
            finally:
                self.context.close()

    @contextmanager
    def _mirrored(self) -> Iterator[None]:
        """Go on from the copy in a bucket where there is nothing here, and keep it within the block."""
        url, error = self.config.train.mirror, None
        if url and processes.is_main():
            self._mirror = Mirror(url, self.folder)
            try:
                if count := self._mirror.fetch():
                    self._say(f"{count} files of the run came from {url}; a new run needs another mirror")
            except UserError as refused:
                error = refused
        if error := processes.from_main(error):
            raise error
        try:
            yield
        finally:
            if self._mirror:
                self._mirror.update()
                self._mirror.close()

    def _save_copy(self) -> None:
        if self._mirror:
            self._mirror.update()

    def _run(self, stages: Sequence[StageName], stop: Stop, lengths: Lengths | None) -> dict[str, Any]:
        read_summary(self.folder.summary)  # which the end of each stage adds to
        model_args(self.config.model, self.config.data.image_size)  # refuses an unknown network
        with processes.one_per_node_first():  # which indexes the images
            context = self.context
            self._configure(fit_batches(self.config, context.data, stages, self._by_hand, context.say))
        if lengths:
            self._configure(lengths.kept(self.context))
        todo = processes.from_main([s for s in stages if not self.folder.result(s).exists()])
        self._check(stages, todo)
        if todo:
            settle_engine(self.context)
            for line in data_lines(self.config, self.context.data, todo):
                self._say(line)
        if lengths:
            self._judge_baselines(stages)
            self._configure(lengths.choose(self.context, todo, stop))
        if processes.is_main():
            with replacing(self.folder.config) as file:
                file.write(to_yaml(self.config))
            if lengths:
                lengths.chosen(self.context)
        if any(has_classifier(name) for name in todo):
            for line in held_out_lines(self.config, self.context.data):
                self._say(line)
        for name in stages:
            if name not in todo:
                self._say(f"{name}: already finished in {self.folder.path}")
        self._judge_baselines(stages)
        self._train(todo, stop)
        if processes.is_main():
            leave_model(self.context)
        processes.barrier()  # all read the model
        with stop.held(), stop.waiting():  # nothing is half done, but processes must end together
            calibrate(self.context)
        return read_summary(self.folder.summary)

    def _check(self, stages: Sequence[StageName], todo: Sequence[StageName]) -> None:
        """Refuse what would fail later."""
        with processes.one_per_node_first():  # which indexes the images
            for name in todo:
                check_stage(self.context, name)
            check_images(self.context, todo)
        check_nodes(self.context, todo)
        for name in STAGES:
            check_folder(self.context, name, stages)

    def _configure(self, config: Config) -> None:
        """Go on with other batches or lengths of stages; nothing that is open depends on them."""
        self.config = self.context.config = config

    def _judge_baselines(self, stages: Sequence[StageName]) -> None:
        """What the labels are worth without training, found once for the same labels and images."""
        summary = read_summary(self.folder.summary)
        supervised = any(has_classifier(name) for name in stages)
        if not supervised or not wants_baselines(self.context):
            return
        of = baselines_digest(self.context.data)
        if "baselines" in summary and summary.get("baselines_of", of) == of:
            return
        found = judge_baselines(self.context)
        write_summary(self.folder.summary, {**summary, "baselines": to_json(found), "baselines_of": of})
        top = best(found)
        self._say(f"without training: {top.classifier} on {top.features} {top.top1:.1f} %")

    def _train(self, todo: Sequence[StageName], stop: Stop) -> None:
        shown = flat(self.config)
        log = MetricLog(self.folder.metrics, self.folder.board, self.config.train.loggers, shown)
        try:
            for name in todo:
                if number := StopVote(stop).now():
                    raise Interrupted(f"stopped before {name}", number)
                self._stage(name, log, stop)
        finally:
            log.close()

    def _stage(self, name: StageName, log: MetricLog, stop: Stop) -> None:
        run = self.context
        stage, fingerprint = build_stage(run, name), stage_fingerprint(run, name)
        if isinstance(stage, Semi):
            steps = stage.schedule.total_steps
            for text in (
                slow_teacher(stage.config, steps),
                unused_label_passes(stage.config, steps, stage.steps_per_epoch),
            ):
                if text:
                    self._say(f"{name}: {text}")
        if self.config.plan.record:
            record_plan(self.config, name, stage, run.device)
        trainer = build_trainer(
            run,
            stage,
            name,
            log,
            self.progress,
            fingerprint=fingerprint,
            stop=stop,
            saved=self._save_copy,
        )
        with stop.held():
            with naming_images(run, stage):
                entry = trainer.run()
            state = {"model": trainer.result(), "fingerprint": fingerprint}
            if isinstance(stage, Finetune) and stage.config.ema and self._starts_from_weights:
                state["weights"] = plain_state(stage.model)  # of which the result is the average
            if processes.is_main():
                write_summary(self.folder.summary, self._summary(name, entry))
                checkpoint_file.save(state, self.folder.result(name))
                leave_model(run)
                self._save_copy()
            processes.barrier()  # the next stage reads what was written

    @property
    def _starts_from_weights(self) -> bool:
        """Whether the semi stage is to start from the last weights, of which the result is the average."""
        return self.config.semi.student_start == "weights" and self.config.train.select == "last"

    def _summary(self, name: StageName, entry: dict[str, Any]) -> dict[str, Any]:
        """The figures of the run with those of a stage that has just finished."""
        data, summary = self.context.data, read_summary(self.folder.summary)
        summary["stages"][name] = entry
        summary |= {
            "seed": self.config.seed,
            "classes": len(data.classes),
            "skipped_images": sorted({*summary.get("skipped_images", []), *data.bad.paths}),
            "versions": {
                "fastsemi": __version__,
                "torch": torch.__version__,
                "timm": timm.__version__,
                "python": platform.python_version(),
            },
            "hardware": hardware(),
            "device": str(self.context.device),
            "precision": self.context.precision.label,
            "processes": processes.world(),
            "threads": torch.get_num_threads(),
        }
        if has_classifier(name):
            summary |= {"labelled": len(data.labelled.ids), "evaluation": len(data.val.ids)}
            summary |= {"held_out": len(data.held_out.ids), "evaluated_on": evaluated_on(self.config)}
            summary |= {"selected_on": selected_on(self.config)}
        else:
            summary["pretraining"] = len(data.pretraining.ids)
        if name == "semi":
            summary["unlabelled"] = len(data.unlabelled.ids)
        return summary

    def _say(self, text: str) -> None:
        """Tell the user something, once: what is built to be measured is built again."""
        if text in self._said:
            return
        self._said.add(text)
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
