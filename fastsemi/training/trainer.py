"""The training loop, one for all stages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastsemi.common.errors import Interrupted, UserError
from fastsemi.common.precision import Precision
from fastsemi.common.schedule import Duration
from fastsemi.common.spans import record
from fastsemi.loaders.data import Data
from fastsemi.models.cpu_layers import use_cpu_layers
from fastsemi.models.create import use_fused_attention
from fastsemi.parallel import processes
from fastsemi.parallel.settings import Strategy
from fastsemi.parallel.stop import Stop, StopVote
from fastsemi.stages.advice import AcceptanceAlarm
from fastsemi.stages.base import Stage
from fastsemi.stages.inputs import Views
from fastsemi.training.batch_norm import RunningStatistics
from fastsemi.training.broken import share_broken
from fastsemi.training.checkpoint.folder import Checkpoints, read_info, read_tensors, shapes
from fastsemi.training.checkpoint.state import TrainingState
from fastsemi.training.compiled import compile_networks, mark_step
from fastsemi.training.deal import micro_batches, seed_device
from fastsemi.training.judge import Judge
from fastsemi.training.meter import Meter, Speed
from fastsemi.training.metrics import Accumulator, MetricLog, Ratio
from fastsemi.training.optim import create_optimizer, set_lr
from fastsemi.training.selection import EVALUATED, Selection
from fastsemi.training.settings import CompileConfig, OptimizerBackend
from fastsemi.training.stage_batches import Load, StageBatches, stage_batches
from fastsemi.training.strategy import Parallel
from fastsemi.training.update import Updater
from fastsemi.training.watchdog import Watchdog

if TYPE_CHECKING:
    from fastsemi.common.progress import Progress


@dataclass(frozen=True)
class LoopConfig:
    """What the loop needs besides the stage."""

    seed: int
    log_every: int
    eval_batch: int
    optimizer: OptimizerBackend
    compile: CompileConfig
    strategy: Strategy = "ddp"
    select_best: bool = False
    judge_start: bool = False
    """Whether the networks that a stage starts with may be the best ones."""
    keep: int = 1
    """Checkpoints that stay."""


class Trainer:
    """Runs a stage from its checkpoint, or from the start, to its end.

    Args:
        stage: What to train.
        data: The run's data.
        views: Brings batches to the device.
        precision: Number format.
        config: Seed and intervals.
        folder: Where checkpoints go.
        log: Where metrics go.
        progress: What the user sees.
        fingerprint: Settings that the weights depend on, kept in the checkpoint.
        stop: Set by a signal; the loop then saves between two steps and ends.
        watchdog: Told of each step.
        before_step: Called with the steps done before each.
        saved: As of `Checkpoints`.
    """

    def __init__(
        self,
        stage: Stage,
        data: Data,
        views: Views,
        precision: Precision,
        config: LoopConfig,
        folder: Path,
        log: MetricLog,
        progress: Progress,
        *,
        fingerprint: dict[str, Any],
        stop: Stop,
        watchdog: Watchdog,
        before_step: Callable[[int], None] | None = None,
        saved: Callable[[], None] = lambda: None,
    ):
        self.stage, self.data, self.views, self.precision = stage, data, views, precision
        self.config, self.log, self.progress = config, log, progress
        self.fingerprint = fingerprint
        networks = [stage.model, *stage.followers()]
        for network in networks:
            use_fused_attention(network, precision.fused_attention)
            if precision.device.type == "cpu":
                use_cpu_layers(network)
        self.parallel = Parallel(stage, config.strategy, precision)
        self.statistics = RunningStatistics(stage.model)
        compile_networks(self.parallel.units(networks), config.compile, views.device)
        self.checkpoints = Checkpoints(folder, stage.name, config.keep, saved)
        selection = Selection(folder, stage.name) if config.select_best else None
        self._judge = Judge(
            *(stage, data, views, precision, config.eval_batch, selection), self._after_pass, stop.waiting
        )
        settings = stage.config
        self.schedule = stage.schedule
        self.total = self.schedule.total_steps
        self.optimizer = create_optimizer(
            stage.model,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
            betas=settings.betas,
            backend=config.optimizer,
        )
        self.updater = Updater(
            stage.model,
            self.optimizer,
            precision,
            settings.clip_grad,
            replayed=config.compile.cuda_graphs and len(micro_batches(stage.config.micro_batches)) > 1,
        )
        self.metrics = Accumulator(views.device)
        self.step = 0
        self.seconds = 0.0
        self._signals, self._stop = stop, StopVote(stop)
        self._watchdog = watchdog
        self.before_step = before_step
        self._alarm = AcceptanceAlarm()

    def run(self, load: Load | None = None) -> dict[str, Any]:
        """Train to the end.

        Args:
            load: Gives batches in place of the run's data: `Data.load`, or what is called like it.

        Returns:
            The stage's entry in `summary.json`.

        Raises:
            Interrupted: A signal asked to stop.
        """
        self._resume()
        self.stage.model.train()
        self.log.rewind(self.stage.name, self.step)
        with self._watchdog, self.batches(load or self.data.load) as batches:
            self.progress.start(self.stage.name, self.step, self.total)
            try:
                if self.step == 0 and self.config.judge_start and self.config.select_best:
                    self._evaluate(log=False)
                if self._judge.owes:
                    self._evaluate()
                self._loop(batches)
            finally:
                self.progress.stop()
                self.checkpoints.finish()
        images = self.total * self.stage.main_stream.batch
        chosen = self._judge.choice
        return {
            **self._judge.scores,
            **({"chosen": asdict(chosen)} if chosen else {}),
            "images_per_s": images / max(self.seconds, 1e-9),
            "seconds": self.seconds,
            "steps": self.total,
        }

    def result(self) -> dict[str, Tensor]:
        """The state dict of the network that the stage leaves; all processes must ask for it."""
        return self._judge.result(self.step)

    def batches(self, load: Load) -> AbstractContextManager[StageBatches]:
        """What the steps that are left see."""
        return stage_batches(self.stage, self.views, load, range(self.step, self.total))

    def update(self, batches: StageBatches) -> None:
        """One update of the stage's networks, from its next micro batches."""
        mine = micro_batches(self.stage.config.micro_batches)
        for micro in mine:
            first = micro == mine[0]
            with record("wait"), self._signals.waiting() if first else nullcontext():
                batch = next(batches)
            if first:
                self.statistics.start_step()
            mark_step(self.config.compile)
            seed_device(self.config.seed, self.step, micro)
            with self.parallel.micro_step(last=micro == mine[-1]):
                with record("loss"), self.precision.autocast():
                    output = self.stage.loss(batch)
                with record("backward"):
                    self.updater.backward(output.loss / len(mine), output.losses())
            self.statistics.after_micro_batch()
            self.metrics.add(output.metrics)
        self.statistics.end_step(self.stage.config.micro_batches)
        with record("optimizer"):
            norm = self.updater.step(self.step)
        skipped = self.updater.skipped
        self.metrics.add(_update_metrics(norm.detach(), skipped))
        with record("ema"):
            self.stage.after_update(skipped)

    def _loop(self, batches: StageBatches) -> None:
        meter, before = Meter(self.step), self.seconds
        while self.step < self.total:
            lr = self.schedule.lr(self.step)
            set_lr(self.optimizer, lr)
            if self.before_step:
                self.before_step(self.step)
            try:
                with record("step"):
                    self.update(batches)
            except Interrupted as stopped:  # before the step has changed anything
                with meter.paused():
                    self.seconds = before + meter.total
                    if self.step:
                        self._save()
                raise self._stopped(stopped.number) from None
            self.step += 1
            self._watchdog.beat()
            last = self.step == self.total
            if last or self.step % self.config.log_every == 0:
                self.updater.check()
                share_broken(self.data.bad)
                waited = processes.largest(batches.waited)
                speed = meter.read(self.step, waited)
                self.seconds = before + meter.total
                self._report(self._row(lr, speed))
            stop = 0
            if self._due(self.stage.config.eval_every):
                with meter.paused():
                    try:
                        self._evaluate()
                    except Interrupted as stopped:
                        stop = stopped.number
            stop = stop or self._stop.after_step()
            if stop or self._due(self.stage.config.checkpoint_every):
                with meter.paused():
                    self.seconds = before + meter.total
                    self._save()
            if stop and (self._judge.owes or not last):
                raise self._stopped(stop)

    def _stopped(self, number: int) -> Interrupted:
        return Interrupted(f"stopped at step {self.step} of {self.total} of {self.stage.name}", number)

    def _after_pass(self) -> None:
        self._watchdog.beat()
        if number := self._stop.after_step():
            raise Interrupted("stopped while evaluating", number)

    def _due(self, interval: Duration) -> bool:
        every = max(1, interval.steps(self.stage.steps_per_epoch))
        return self.step == self.total or self.step % every == 0

    def _row(self, lr: float, speed: Speed) -> dict[str, float]:
        return {
            "epoch": self.step / self.stage.steps_per_epoch,
            "lr": lr,
            **self.metrics.read(),
            "images_per_s": speed.steps_per_s * self.stage.main_stream.batch,
            "loader_wait": speed.waited,
            "seconds": self.seconds,
        }

    def _report(self, row: dict[str, float]) -> None:
        self.log.write(self.stage.name, self.step, row)
        self.progress.update(self.step, row)
        if alarm := self._alarm(row.get("acceptance")):
            self.progress.note(alarm)

    def _evaluate(self, *, log: bool = True) -> None:
        scores = self._judge.judge(self.step, final=self.step == self.total)
        if scores and log:
            self.log.write(self.stage.name, self.step, scores)
        if scores:
            self.progress.scores(self.step, scores)

    def _state(self) -> TrainingState:
        return TrainingState(self.stage.model, self.stage.extra_state(), self.optimizer)

    def _save(self) -> None:
        self.updater.check()  # nothing that is not finite is ever saved
        share_broken(self.data.bad)
        state = self._state()
        info = {
            "stage": self.stage.name,
            "step": self.step,
            "seconds": self.seconds,
            "fingerprint": self.fingerprint,
            "bad": sorted(self.data.bad.paths),
            "scaler": self.updater.scaler.state_dict(),
            "metrics": self.metrics.state(),
            **self._judge.state(),
            **state.values(),
        }
        self.checkpoints.save(self.step, info, state.tensors())

    def _resume(self) -> None:
        folder = self.checkpoints.latest()
        if folder is None:
            return
        info, state = read_info(folder), self._state()
        if info["step"] > self.total:
            raise UserError(
                f"{folder} is at step {info['step']}, and {self.stage.name} now ends at step {self.total}; "
                "give it more steps, or another --output"
            )
        try:
            state.prepare(shapes(folder))
            read_tensors(folder, state.tensors())
            self.stage.load_extra_state(state.restore(info))
            self.step, self.seconds = info["step"], info["seconds"]
            self.data.bad.paths.update(info["bad"])
            if info.get("metrics"):  # since the last row
                self.metrics.restore(info["metrics"])
            here = self.fingerprint.get(EVALUATED)
            self._judge.restore(info, same_images=info["fingerprint"].get(EVALUATED, here) == here)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"checkpoint {folder} does not fit this configuration ({str(error).splitlines()[0]}); "
                "use another --output or delete it"
            ) from error
        if self.updater.scaler.is_enabled() and info["scaler"]:
            self.updater.scaler.load_state_dict(info["scaler"])


def _update_metrics(norm: Tensor, skipped: Tensor | None) -> dict[str, Ratio]:
    """The gradient norm, of the steps that loss scaling did not refuse, and how many it did.

    All processes have the same, and one counts it, so that a step weighs as much with any number of them.
    """
    found = {"grad_norm": Ratio(norm, 1)}
    if skipped is not None:
        found = {
            "grad_norm": Ratio(torch.where(skipped, 0.0, norm), (~skipped).sum()),
            "skipped_steps": Ratio(skipped.sum(), 1),
        }
    return found if processes.is_main() else {name: Ratio(torch.zeros_like(norm), 0) for name in found}
