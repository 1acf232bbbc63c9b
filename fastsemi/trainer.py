"""The training loop, one for all stages."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from fastsemi import checkpoint
from fastsemi.data import Data
from fastsemi.errors import UserError
from fastsemi.evaluate import evaluate
from fastsemi.loaders.batch import PlannedBatch
from fastsemi.loaders.philox import words
from fastsemi.loaders.prefetch import Prefetcher
from fastsemi.loaders.stream import Stream
from fastsemi.metrics import Accumulator, MetricLog, Ratio
from fastsemi.models.create import use_fused_attention
from fastsemi.optim import create_optimizer, set_lr
from fastsemi.precision import Precision
from fastsemi.progress import Progress
from fastsemi.schedule import CosineSchedule, Duration
from fastsemi.stages.base import Stage
from fastsemi.update import Updater
from fastsemi.views import DeviceBatch, Views

DEVICE_STREAM = 0xD0  # counter word of the draws that seed the device's generator


class Interrupted(Exception):
    """The run was asked to stop (SIGINT or SIGTERM) and has saved a checkpoint."""


@dataclass(frozen=True)
class LoopConfig:
    """What the loop needs besides the stage."""

    seed: int
    log_every: int
    eval_batch: int


class Trainer:
    """Runs a stage from its checkpoint, or from the start, to its end.

    Args:
        stage: What to train.
        data: The run's data.
        views: Brings batches to the device.
        precision: Number format.
        config: Seed and intervals.
        path: The stage's checkpoint.
        log: Where metrics go.
        progress: What the user sees.
        fingerprint: Settings that the weights depend on, kept in the checkpoint.
    """

    def __init__(
        self,
        stage: Stage,
        data: Data,
        views: Views,
        precision: Precision,
        config: LoopConfig,
        path: Path,
        log: MetricLog,
        progress: Progress,
        *,
        fingerprint: dict[str, Any],
    ):
        self.stage, self.data, self.views, self.precision = stage, data, views, precision
        self.config, self.path, self.log, self.progress = config, path, log, progress
        self.fingerprint = fingerprint
        use_fused_attention(stage.model, precision.fused_attention)
        for model in stage.eval_models().values():
            use_fused_attention(model, precision.fused_attention)
        settings = stage.config
        self.total = stage.total_steps
        self.optimizer = create_optimizer(
            stage.model,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
            betas=settings.betas,
        )
        self.updater = Updater(stage.model, self.optimizer, precision, settings.clip_grad)
        warmup = settings.warmup.steps(stage.steps_per_epoch)
        self.schedule = CosineSchedule(settings.peak_lr, settings.min_lr, warmup, self.total)
        self.metrics = Accumulator(views.device)
        self.step = 0
        self.seconds = 0.0
        self.scores: dict[str, float] = {}
        self._stop = threading.Event()

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            The stage's entry in `summary.json`.

        Raises:
            Interrupted: A signal asked to stop.
        """
        if self.path.exists():
            self._resume()
        self.stage.model.train()
        with self._signals(), self._batches() as batches:
            self.progress.start(self.stage.name, self.step, self.total)
            try:
                self._loop(batches)
            finally:
                self.progress.stop()
        summary = dict(self.scores)
        trained = max(self.total * next(iter(self.stage.roles.values())).stream.batch, 1)
        summary.update(images_per_s=trained / max(self.seconds, 1e-9), seconds=self.seconds, steps=self.total)
        return summary

    def _loop(self, batches: Iterator[dict[str, DeviceBatch]]) -> None:
        meter = _Meter(self)
        while self.step < self.total:
            lr = self.schedule.lr(self.step)
            set_lr(self.optimizer, lr)
            self._update(batches)
            self.step += 1
            last = self.step == self.total
            if last or self.step % self.config.log_every == 0:
                self.updater.check()
                self._report(meter.read(lr))
            if self._due(self.stage.config.eval_every):
                meter.pause()
                self._evaluate()
                meter.resume()
            if self._due(self.stage.config.checkpoint_every) or self._stop.is_set():
                meter.pause()
                self._save()
                meter.resume()
            if self._stop.is_set() and not last:
                raise Interrupted(f"stopped at step {self.step} of {self.total} of {self.stage.name}")

    def _update(self, batches: Iterator[dict[str, DeviceBatch]]) -> None:
        count = self.stage.config.micro_batches
        for micro in range(count):
            batch = next(batches)
            # Masks and drop path depend on the step and the micro-batch alone, not on what ran before.
            word = words(self.config.seed, self.step, [micro], DEVICE_STREAM, 2)[0]
            torch.manual_seed(int(word[0]) << 31 | int(word[1]) >> 1)
            with self.precision.autocast():
                output = self.stage.loss(batch)
            self.updater.backward(output.loss / count)
            self.metrics.add(output.metrics)
        norm = self.updater.step(self.step)
        self.metrics.add({"grad_norm": Ratio(norm.detach(), 1)})
        self.stage.after_update()

    def _due(self, interval: Duration) -> bool:
        every = max(1, interval.steps(self.stage.steps_per_epoch))
        return self.step == self.total or self.step % every == 0

    def _report(self, row: dict[str, float]) -> None:
        self.log.write(self.stage.name, self.step, row)
        self.progress.update(self.step, row)

    def _evaluate(self) -> None:
        models = self.stage.eval_models()
        if not models:
            return
        scores = evaluate(models, self.data, self.views, self.precision, batch=self.config.eval_batch)
        self.scores = {}
        for name, accuracy in scores.items():
            prefix = "" if name == "model" else f"{name}_"
            self.scores.update({f"{prefix}top1": accuracy.top1, f"{prefix}top5": accuracy.top5})
        self.log.write(self.stage.name, self.step, self.scores)
        self.progress.scores(self.step, self.scores)

    @contextmanager
    def _batches(self) -> Iterator[Iterator[dict[str, DeviceBatch]]]:
        with ExitStack() as stack:
            loaders = {
                name: stack.enter_context(self.data.load(role.images, self._plans(role.stream)))
                for name, role in self.stage.roles.items()
            }
            self._loaders: list[Prefetcher] = list(loaders.values())
            yield (
                {name: self.views.to_device(batch) for name, batch in zip(loaders, loaded, strict=True)}
                for loaded in zip(*loaders.values(), strict=True)
            )

    def _plans(self, stream: Stream) -> Iterator[PlannedBatch]:
        for step in range(self.step, self.total):
            for micro in range(stream.micro_batches):
                yield stream.plan(step, micro)

    def _save(self) -> None:
        state = {
            "stage": self.stage.name,
            "step": self.step,
            "seconds": self.seconds,
            "fingerprint": self.fingerprint,
            "scores": self.scores,
            "model": self.stage.model.state_dict(),
            "extra": self.stage.extra_state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.updater.scaler.state_dict(),
        }
        checkpoint.save(state, self.path)

    def _resume(self) -> None:
        state = checkpoint.load(self.path)
        try:
            self.stage.model.load_state_dict(state["model"])
            self.stage.load_extra_state(state["extra"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"checkpoint {self.path} does not fit this configuration ({str(error).splitlines()[0]}); "
                "use another --output or delete it"
            ) from error
        if self.updater.scaler.is_enabled() and state["scaler"]:
            self.updater.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds, self.scores = state["step"], state["seconds"], state["scores"]
        self.log.rewind(self.stage.name, self.step)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Finish the step and save on SIGINT and SIGTERM; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self._stop.set()

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Meter:
    """Speed and loader wait between two log steps; time spent evaluating does not count."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._started = time.perf_counter()
        self._step, self._waited, self._seconds = trainer.step, 0.0, 0.0

    def pause(self) -> None:
        now = time.perf_counter()
        self._seconds += now - self._started
        self._trainer.seconds += now - self._started
        self._started = now

    def resume(self) -> None:
        self._started = time.perf_counter()

    def read(self, lr: float) -> dict[str, float]:
        """The row of `metrics.jsonl` since the last one."""
        trainer = self._trainer
        self.pause()
        metrics = trainer.metrics.read()
        waited = sum(loader.waited for loader in trainer._loaders)
        images = (trainer.step - self._step) * next(iter(trainer.stage.roles.values())).stream.batch
        row = {
            "epoch": trainer.step / trainer.stage.steps_per_epoch,
            "lr": lr,
            **metrics,
            "images_per_s": images / max(self._seconds, 1e-9),
            "loader_wait": (waited - self._waited) / max(self._seconds, 1e-9),
            "seconds": trainer.seconds,
        }
        self._step, self._waited, self._seconds = trainer.step, waited, 0.0
        return row
