"""A run: the stages in a row, each from the one before, in a directory that can be resumed."""

from __future__ import annotations

import fcntl
import json
import platform
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import timm
import torch
from torch import nn

from fastsemi import __version__, checkpoint, distributed
from fastsemi.config import Config, StageName, to_yaml
from fastsemi.data import Data
from fastsemi.errors import UserError
from fastsemi.files import replacing
from fastsemi.fingerprint import fingerprint, node_settings, refuse_changes, refuse_differences
from fastsemi.hardware import hardware
from fastsemi.kernels.dispatch import select as select_kernels
from fastsemi.metrics import MetricLog
from fastsemi.models.create import checkpoint_activations, create_model, export_timm, scale_head
from fastsemi.models.weights import load_backbone, read_weights
from fastsemi.precision import Precision, select_device
from fastsemi.progress import Progress
from fastsemi.rendezvous import require_split, wait_briefly
from fastsemi.sharded_checkpoint import Checkpoints, read_info
from fastsemi.sharding import whole_state
from fastsemi.signals import Interrupted, StopVote, stop_signals
from fastsemi.stages.base import Stage, make_schedule
from fastsemi.stages.finetune import Finetune
from fastsemi.stages.pretrain import Pretrain
from fastsemi.stages.semi import Semi
from fastsemi.strategy import Strategy, choose_strategy
from fastsemi.summary import read_summary
from fastsemi.trainer import LoopConfig, Trainer
from fastsemi.views import Views

STAGES: tuple[StageName, ...] = ("pretrain", "finetune", "semi")
STAGE_CLASSES: dict[StageName, type[Stage]] = {"pretrain": Pretrain, "finetune": Finetune, "semi": Semi}


class Run:
    """The stages of a configuration in its run directory.

    Args:
        config: The run.
        progress: What the user sees.
    """

    def __init__(self, config: Config, progress: Progress):
        self.config, self.progress, self.console = config, progress, progress.console
        self.folder = config.output
        self.device = select_device(distributed.local_device(config.device))
        self.precision = Precision.select(config.precision, self.device)
        self.precision.apply()
        self.data = Data(config.data, config.loader, device=self.device)
        kernels = select_kernels(config.kernels, self.device)
        self.views = Views(config.data, self.device, kernels, self.precision.dtype)

    def train(self, stages: Sequence[StageName]) -> dict[str, Any]:
        """Run stages that are not finished yet; the last one's network ends up under `model/`.

        What can be wrong with the configuration and the data of any of them is found before the first.

        Returns:
            The content of `summary.json`.

        Raises:
            Interrupted: A signal asked to stop; the run can be resumed.
        """
        stop = threading.Event()
        try:
            with self._locked(), stop_signals(stop):
                todo = distributed.from_main([s for s in stages if not self.result_path(s).exists()])
                with distributed.one_per_node_first():  # which indexes the images
                    for name in todo:
                        self._check(name)
                self._refuse_differences(todo)
                for name in STAGES:
                    self._refuse_changes(name, stages)
                if distributed.is_main():
                    with replacing(self.folder / "config.yaml") as file:
                        file.write(to_yaml(self.config))
                for name in stages:
                    if name not in todo:
                        self._say(f"{name}: already finished in {self.folder}")
                log = MetricLog(self.folder)
                try:
                    for name in todo:
                        if StopVote(stop).now():
                            raise Interrupted(f"stopped before {name}")
                        self._stage(name, log, stop)
                finally:
                    log.close()
                if distributed.is_main():
                    self._export()
                return self.summary()
        finally:
            self.data.close()

    def _check(self, name: StageName) -> None:
        """Find what is wrong with the data and the settings of a stage without building its networks."""
        config = getattr(self.config, name)
        roles = STAGE_CLASSES[name].build_roles(config, self.data, self.config.seed)
        make_schedule(config, next(iter(roles.values())).stream)
        require_split(name, config.micro_batches, config.batch, distributed.world())
        if name != "pretrain" and not len(self.data.val.ids):
            raise UserError(f"{self.data.val.index.root} holds no images to evaluate on; add some")

    def _refuse_differences(self, stages: Sequence[StageName]) -> None:
        """Refuse processes that would train on other images or with other settings than the first one."""
        if distributed.world() == 1:
            return
        mine: dict[str, Any] = {**node_settings(self.config), "precision": self.precision.label}
        for name in stages:
            mine[f"the list of images of {name}"] = self.data.digest(name)
            if name != "pretrain":
                mine["the number of evaluation images"] = len(self.data.val.ids)
        refuse_differences(distributed.from_main(mine), mine)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep a second run out of the run directory."""
        if not distributed.is_main():
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"cannot write run directory {self.folder}: {error.strerror}; change --output"
            ) from None
        with lock:
            # Started again after a loss, the processes of the first start may take a moment to end.
            patience = 30.0 if distributed.world() > 1 else 0.0
            if not wait_briefly(lambda: _try_lock(lock), patience):
                raise UserError(
                    f"another process trains in {self.folder}; wait for it or give another --output"
                )
            yield

    def _stage(self, name: StageName, log: MetricLog, stop: threading.Event) -> None:
        stage = self.build_stage(name)
        entry = self.trainer(stage, name, log, stop).run()
        state = {"model": whole_state(stage.result()), "fingerprint": self.fingerprint(name)}
        if distributed.is_main():
            self._write_summary(name, entry)
            checkpoint.save(state, self.result_path(name))
            self._export()
        distributed.barrier()  # the next stage reads what was written

    def trainer(self, stage: Stage, name: StageName, log: MetricLog, stop: threading.Event) -> Trainer:
        """The training loop of a stage, before its first step."""
        config = self.config
        if config.model.activation_checkpointing:  # the teacher is a copy made before, and needs none
            checkpoint_activations(stage.model, config.model.name)
        return Trainer(
            stage,
            self.data,
            self.views,
            self.precision,
            LoopConfig(
                config.seed,
                config.log_every,
                config.eval_batch,
                config.optimizer,
                config.compile,
                self._strategy(name),
            ),
            self.folder / "checkpoints",
            log,
            self.progress,
            fingerprint=self.fingerprint(name),
            stop=stop,
        )

    def _strategy(self, name: StageName) -> Strategy:
        """How the processes share the networks of a stage; says what `auto` goes by."""
        wanted = self.config.distributed.strategy
        if self.config.compile.cuda_graphs:
            return "ddp"  # graphs replay fixed addresses
        if distributed.world() == 1 or wanted != "auto" or self.device.type != "cuda":
            return "fsdp" if wanted == "fsdp" else "ddp"
        from fastsemi.cost.memory import estimate

        available = torch.cuda.get_device_properties(self.device).total_memory
        needed = 0
        if distributed.is_main():
            needed = estimate(
                self.config,
                name,
                classes=len(self.data.classes),
                strategy="ddp",
                world=distributed.world(),
                dtype=self.precision.dtype,
                fused_attention=self.precision.fused_attention,
            ).total
        strategy = distributed.from_main(choose_strategy(wanted, needed, available))
        self._say(
            f"{name}: {strategy}, as ddp is estimated to need {needed / 2**30:.1f} GiB of the "
            f"{available / 2**30:.1f} GiB of each GPU"
        )
        return strategy

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
        self._say(f"{path}: {report.summary()}")
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
        """All that the weights of a stage depend on."""
        settings = fingerprint(self.config, name, self._earlier(name))
        return {**settings, "precision": self.precision.label, "images": self.data.digest(name)}

    def _refuse_changes(self, name: StageName, wanted: Sequence[StageName]) -> None:
        """Refuse a directory that holds the stage with other settings, before anything is written to it.

        A stage that this call does not run is compared too: its settings in `config.yaml` would be lost.
        """
        unfinished = Checkpoints(self.folder / "checkpoints", name).latest()
        for path in (self.result_path(name), unfinished):
            if path and path.exists() and (name in wanted or name in self.config.stages):
                state = read_info(path) if path.is_dir() else checkpoint.load(path, mmap=True)
                if "fingerprint" not in state:
                    raise UserError(
                        f"{path} is no checkpoint of a run; move it away or give another --output"
                    )
                return refuse_changes(state["fingerprint"], self.fingerprint(name), name, self.folder)

    def _export(self) -> None:
        """Bring `model/` up to date with the last finished stage that has a classifier."""
        done = [name for name in STAGES[1:] if self.result_path(name).exists()]
        folder, summary = self.folder / "model", self.summary()
        if not done or (summary.get("model") == done[-1] and (folder / "model.safetensors").exists()):
            return
        data = self.config.data
        model = create_model(
            self.config.model, num_classes=len(self.data.classes), image_size=data.image_size
        )
        model.load_state_dict(checkpoint.load(self.result_path(done[-1]))["model"])
        fresh = self.folder / ".model.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        export_timm(
            model,
            fresh,
            class_names=self.data.classes,
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            crop=data.eval_crop,
        )
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
        self._save_summary({**summary, "model": done[-1]})

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`.

        Raises:
            UserError: The file is damaged.
        """
        return read_summary(self.folder)

    def _write_summary(self, name: StageName, entry: dict[str, Any]) -> None:
        summary = self.summary()
        summary["stages"][name] = entry
        summary |= {
            "seed": self.config.seed,
            "classes": len(self.data.classes),
            "skipped_images": sorted({*summary.get("skipped_images", []), *self.data.bad.paths}),
            "versions": {
                "fastsemi": __version__,
                "torch": torch.__version__,
                "timm": timm.__version__,
                "python": platform.python_version(),
            },
            "hardware": hardware(),
            "device": str(self.device),
            "precision": self.precision.label,
            "processes": distributed.world(),
            "threads": torch.get_num_threads(),
        }
        if name == "pretrain":
            summary["pretraining"] = len(self.data.pretraining.ids)
        else:
            summary |= {"labelled": len(self.data.labelled.ids), "evaluation": len(self.data.val.ids)}
        if name == "semi":
            summary["unlabelled"] = len(self.data.unlabelled.ids)
        self._save_summary(summary)

    def _save_summary(self, summary: dict[str, Any]) -> None:
        with replacing(self.folder / "summary.json") as file:
            file.write(json.dumps(summary, indent=2) + "\n")


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
