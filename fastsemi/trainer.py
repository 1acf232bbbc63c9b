"""The training loop, one for all stages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
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
from fastsemi.meter import Meter, Speed
from fastsemi.metrics import Accumulator, MetricLog, Ratio
from fastsemi.models.create import use_fused_attention
from fastsemi.optim import create_optimizer, set_lr
from fastsemi.precision import Precision
from fastsemi.progress import Progress
from fastsemi.schedule import Duration
from fastsemi.signals import Interrupted
from fastsemi.stages.base import Stage
from fastsemi.update import Updater
from fastsemi.views import DeviceBatch, Views

DEVICE_STREAM = 0xD0  # counter word of the draws that seed the device's generator


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
        stop: Set by a signal; the loop then saves after the step and ends.
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
        stop: threading.Event,
    ):
        self.stage, self.data, self.views, self.precision = stage, data, views, precision
        self.config, self.path, self.log, self.progress = config, path, log, progress
        self.fingerprint = fingerprint
        use_fused_attention(stage.model, precision.fused_attention)
        for model in stage.eval_models().values():
            use_fused_attention(model, precision.fused_attention)
        settings = stage.config
        self.schedule = stage.schedule
        self.total = self.schedule.total_steps
        self.optimizer = create_optimizer(
            stage.model,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
            betas=settings.betas,
        )
        self.updater = Updater(stage.model, self.optimizer, precision, settings.clip_grad)
        self.metrics = Accumulator(views.device)
        self.step = 0
        self.seconds = 0.0
        self.scores: dict[str, float] = {}
        self._stop = stop

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
        self.log.rewind(self.stage.name, self.step)
        with self._batches() as batches:
            self.progress.start(self.stage.name, self.step, self.total)
            try:
                self._loop(batches)
            finally:
                self.progress.stop()
        images = self.total * self.stage.main_stream.batch
        return {
            **self.scores,
            "images_per_s": images / max(self.seconds, 1e-9),
            "seconds": self.seconds,
            "steps": self.total,
        }

    def _loop(self, batches: Iterator[dict[str, DeviceBatch]]) -> None:
        meter, before = Meter(self.step), self.seconds
        while self.step < self.total:
            lr = self.schedule.lr(self.step)
            set_lr(self.optimizer, lr)
            self._update(batches)
            self.step += 1
            last = self.step == self.total
            if last or self.step % self.config.log_every == 0:
                self.updater.check()
                speed = meter.read(self.step, sum(loader.waited for loader in self._loaders))
                self.seconds = before + meter.total
                self._report(self._row(lr, speed))
            if self._due(self.stage.config.eval_every):
                with meter.paused():
                    self._evaluate()
            if self._due(self.stage.config.checkpoint_every) or self._stop.is_set():
                with meter.paused():
                    self.seconds = before + meter.total
                    self._save()
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
        self.updater.check()  # nothing that is not finite is ever saved
        state = {
            "stage": self.stage.name,
            "step": self.step,
            "seconds": self.seconds,
            "fingerprint": self.fingerprint,
            "scores": self.scores,
            "bad": sorted(self.data.bad.paths),
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
            self.step, self.seconds, self.scores = state["step"], state["seconds"], state["scores"]
            self.data.bad.paths.update(state["bad"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"checkpoint {self.path} does not fit this configuration ({str(error).splitlines()[0]}); "
                "use another --output or delete it"
            ) from error
        if self.updater.scaler.is_enabled() and state["scaler"]:
            self.updater.scaler.load_state_dict(state["scaler"])
