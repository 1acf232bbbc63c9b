"""A run: the stages in a row, each from the one before, in a directory that can be resumed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastsemi import __version__, checkpoint
from fastsemi.config import Config, StageName, to_yaml
from fastsemi.data import Data
from fastsemi.errors import UserError
from fastsemi.fingerprint import fingerprint, refuse_changes
from fastsemi.kernels.dispatch import select as select_kernels
from fastsemi.metrics import MetricLog
from fastsemi.models.create import create_model, export_timm, scale_head
from fastsemi.models.weights import load_backbone, read_weights
from fastsemi.precision import Precision, select_device
from fastsemi.progress import Progress
from fastsemi.stages.base import Stage
from fastsemi.stages.finetune import Finetune
from fastsemi.stages.pretrain import Pretrain
from fastsemi.stages.semi import Semi
from fastsemi.trainer import LoopConfig, Trainer
from fastsemi.views import Views

STAGES: tuple[StageName, ...] = ("pretrain", "finetune", "semi")


class Run:
    """The stages of a configuration in its run directory.

    Args:
        config: The run.
        progress: What the user sees.
    """

    def __init__(self, config: Config, progress: Progress):
        self.config, self.progress, self.console = config, progress, progress.console
        self.folder = config.output
        self.device = select_device(config.device)
        self.precision = Precision.select(config.precision, self.device)
        self.data = Data(config.data, config.loader, pin=self.device.type == "cuda")
        kernels = select_kernels(config.kernels, self.device)
        self.views = Views(config.data, self.device, kernels, self.precision.dtype)

    def train(self, stages: Sequence[StageName]) -> dict[str, Any]:
        """Run stages that are not finished yet, then save the last one's network under `model/`.

        Returns:
            The content of `summary.json`.
        """
        try:
            with self._locked():
                (self.folder / "config.yaml").write_text(to_yaml(self.config))
                log = MetricLog(self.folder)
                try:
                    for name in stages:
                        self._stage(name, log)
                finally:
                    log.close()
                return self.summary()
        finally:
            self.data.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep a second process out of the run directory."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"cannot write run directory {self.folder}: {error.strerror}; change --output"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"another process trains in {self.folder}; wait for it or give another --output"
                ) from None
            yield

    def _stage(self, name: StageName, log: MetricLog) -> None:
        result = self.result_path(name)
        if result.exists():
            self._check_fingerprint(name, checkpoint.load(result))
            self.console.print(f"{name}: already finished in {self.folder}", highlight=False)
            return
        partial = self.folder / "checkpoints" / f"{name}.pt"
        if partial.exists():
            self._check_fingerprint(name, checkpoint.load(partial))
        stage = self.build_stage(name)
        trainer = Trainer(
            stage,
            self.data,
            self.views,
            self.precision,
            LoopConfig(self.config.seed, self.config.log_every, self.config.eval_batch),
            partial,
            log,
            self.progress,
            fingerprint=self.fingerprint(name),
        )
        entry = trainer.run()
        if name != "pretrain":
            self._export(stage.result())
        self._write_summary(name, entry)
        checkpoint.save({"model": stage.result().state_dict(), "fingerprint": self.fingerprint(name)}, result)

    def build_stage(self, name: StageName, *, fresh: bool = False) -> Stage:
        """A stage with its networks, which start as `checkpoint` says, or random where `fresh`."""
        config, seed = self.config, self.config.seed
        torch.manual_seed(seed)
        if name == "pretrain":
            encoder = create_model(
                config.model, num_classes=len(self.data.classes), image_size=config.data.image_size
            )
            if config.model.weights:
                self._load_weights(encoder, config.model.weights)
            return Pretrain(config.pretrain, encoder, self.data, self.views, seed=seed)
        settings = config.finetune if name == "finetune" else config.semi
        model = create_model(
            config.model,
            num_classes=len(self.data.classes),
            image_size=config.data.image_size,
            drop_path=settings.drop_path,
        )
        if not fresh:
            self._start(model, self._before(name))
        if name == "finetune":
            return Finetune(config.finetune, model, self.data, self.views, seed=seed)
        return Semi(config.semi, model, self.data, self.views, seed=seed)

    def _start(self, model: nn.Module, before: StageName | None) -> None:
        if before == "finetune":
            model.load_state_dict(checkpoint.load(self.result_path(before))["model"])
            return
        if before:
            path = self.result_path(before)
            load_backbone(model, checkpoint.load(path)["model"], where=str(path))
        elif self.config.model.weights:
            if self._load_weights(model, self.config.model.weights):
                return
        scale_head(model, self.config.model.head_init_scale)

    def _load_weights(self, model: nn.Module, path: Path) -> bool:
        """Start from `model.weights`; returns whether a trained head came with them."""
        keep = self.config.model.keep_head
        report = load_backbone(model, read_weights(path), where=str(path), keep_head=keep)
        self.console.print(f"{path}: {report.summary()}", highlight=False, soft_wrap=True)
        return keep

    def _before(self, name: StageName) -> StageName | None:
        """The stage that `name` starts from, None for none."""
        earlier = self._earlier(name)
        if not earlier:
            return None
        if not self.result_path(earlier[-1]).exists():
            raise UserError(
                f"stage {name} starts from {earlier[-1]}, which has not finished in {self.folder}; run "
                f"`fastsemi train`, or take {earlier[-1]} out of stages"
            )
        return earlier[-1]

    def _earlier(self, name: StageName) -> list[StageName]:
        return [s for s in self.config.stages if STAGES.index(s) < STAGES.index(name)]

    def result_path(self, name: StageName) -> Path:
        """Where a finished stage keeps its network."""
        return self.folder / "checkpoints" / f"{name}_result.pt"

    def fingerprint(self, name: StageName) -> dict[str, Any]:
        """All settings that the weights of a stage depend on."""
        return fingerprint(self.config, name, self._earlier(name))

    def _check_fingerprint(self, name: StageName, state: dict[str, Any]) -> None:
        refuse_changes(state["fingerprint"], self.fingerprint(name), name, self.folder)

    def _export(self, model: nn.Module) -> None:
        data = self.config.data
        export_timm(
            model,
            self.folder / "model",
            class_names=self.data.classes,
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            crop=data.eval_crop,
        )

    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {"stages": {}}

    def _write_summary(self, name: StageName, entry: dict[str, Any]) -> None:
        summary = self.summary()
        summary["stages"][name] = entry
        summary |= {
            "seed": self.config.seed,
            "classes": len(self.data.classes),
            "labelled": len(self.data.labelled.ids),
            "skipped_images": sorted(self.data.bad.paths),
            "versions": {"fastsemi": __version__, "torch": torch.__version__},
            "device": str(self.device),
            "threads": os.cpu_count(),
        }
        path = self.folder / "summary.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        temporary.replace(path)
