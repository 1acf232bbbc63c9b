"""Builds the stages of a run: networks with the weights they start from, and the loop that trains them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.common.progress import Progress
from fastsemi.loaders.data import ImageSet
from fastsemi.models.create import (
    scale_head,
    use_fused_attention,
)
from fastsemi.models.projected import classifier_of
from fastsemi.models.trainable import set_head
from fastsemi.models.weights import load_backbone
from fastsemi.parallel import processes
from fastsemi.parallel.settings import Strategy
from fastsemi.parallel.stop import Stop
from fastsemi.probing.spread_labels import spread_labels
from fastsemi.run.config import Config
from fastsemi.run.context import RunContext
from fastsemi.run.memory import measure_stage
from fastsemi.run.new_stage import new_model, new_stage
from fastsemi.run.order import earlier, settings
from fastsemi.run.plan_file import replayed
from fastsemi.run.spread_prior import spread_before_step
from fastsemi.run.start_weights import doubts, start_weights, summary
from fastsemi.stages.base import Stage
from fastsemi.stages.finetune_config import FinetuneConfig
from fastsemi.stages.names import StageName
from fastsemi.stages.semi import Semi
from fastsemi.stages.semi_config import SemiConfig
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.checkpoint.folder import Checkpoints
from fastsemi.training.metrics import MetricLog
from fastsemi.training.strategy import choose_strategy
from fastsemi.training.trainer import LoopConfig, Trainer
from fastsemi.training.watchdog import Watchdog


def build_stage(run: RunContext, name: StageName, *, fresh: bool = False) -> Stage:
    """A stage with its networks, which start as `training.checkpoint.file` says, or random where `fresh`.

    Raises:
        UserError: Settings that no network has, weights that do not fit, or the stage before is missing.
    """
    config = run.config
    torch.manual_seed(config.seed)
    model = new_model(config, name, len(run.data.classes))
    spread = before = None
    if name == "pretrain":
        load_weights(run, model, fresh_norm=False)
    elif not fresh:
        before = _before(run, name)
        _start(run, model, before)
        if before != "finetune" and starts_from_probe(config, name):
            if config.model.keep_head and before is None:
                raise UserError(
                    f"model.keep_head keeps the classifier of the weights, {name}.head probe replaces it; "
                    "set one of them"
                )
            if Checkpoints(run.folder.checkpoints, name).latest() is None:  # else it is in the checkpoint
                _start_head(run, model, name)
    if name == "finetune" and config.finetune.spread_ratio:
        spread = _spread(run, model)
    stage = new_stage(config, name, model, run.data, run.views, spread)
    if name == "semi" and before == "finetune" and config.finetune.ema:
        _start_student(run, stage)
    stage.roles = replayed(config, name, stage.roles, stage.schedule.total_steps)
    return stage


def _start_student(run: RunContext, stage: Stage) -> None:
    """Start the student from the weights that fine-tuning ended with, if not from their average."""
    if run.config.semi.student_start == "average":
        return
    path = run.folder.result("finetune")
    state = checkpoint_file.load(path)
    if "weights" not in state:
        raise UserError(
            f"{path} has the average of the weights alone, as without semi.student_start weights; "
            "delete it to fine-tune again, or set semi.student_start to average"
        )
    classifier_of(stage.model).load_state_dict(state["weights"])


def _start(run: RunContext, model: nn.Module, before: StageName | None) -> None:
    """Weights of the stage before, else of `model.weights` or `model.pretrained`, else random ones."""
    if before == "finetune":
        model.load_state_dict(checkpoint_file.load(run.folder.result(before))["model"])
        return
    if before:
        path = run.folder.result(before)
        tensors = checkpoint_file.load(path)["model"]
        if run.config.model.fc_norm == "fresh":  # pretraining has the encoder's last norm under this name
            tensors = {name: t for name, t in tensors.items() if not name.startswith("fc_norm.")}
        load_backbone(model, tensors, where=str(path))
    elif load_weights(run, model):
        return
    scale_head(model, run.config.model.head_init_scale)


def starts_from_probe(config: Config, name: StageName) -> bool:
    """Whether a stage's classifier is to start from logistic regression where it inherits none."""
    return getattr(settings(config, name), "head", "random") == "probe"


def _start_head(run: RunContext, model: nn.Module, name: StageName) -> None:
    """Start the classifier from self-training on the frozen features, the same in all processes."""
    stage = settings(run.config, name)
    assert isinstance(stage, FinetuneConfig | SemiConfig)
    model.to(run.device)
    use_fused_attention(model, run.precision.fused_attention)
    found = None
    if processes.is_main():
        found = run.prober.head(model, views=stage.head_views, flip=stage.augment.flip, seed=run.config.seed)
    found = processes.from_main(found)
    assert found is not None
    head, views = found
    set_head(model, torch.from_numpy(head.weight), torch.from_numpy(head.bias))
    of = f", {views + 1} views of each image" if views else ""
    run.say(f"{name}: the classifier starts from self-training on the frozen features{of}")


def _spread(run: RunContext, model: nn.Module) -> ImageSet:
    """Unlabelled images with the labels of label spreading, found once in the life of a run."""
    path = run.folder.spread_labels
    if processes.is_main() and not path.exists():
        kinds = [run.prober.spread("pixels", None)]
        pretrained = earlier(run.config, "finetune")
        if pretrained or run.config.model.has_weights:
            model.to(run.device)
            name = "pretrained features" if pretrained else "frozen features"
            kinds.append(run.prober.spread(name, model))
        found = spread_labels(kinds, run.config.finetune.spread_keep)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            np.savez(file, ids=found.ids, labels=found.labels)
        run.say(
            f"finetune: {len(found.ids)} unlabelled images get labels by label spreading on "
            f"{found.features}, which is {found.score:.0%} right in cross-validation on the labels"
        )
    processes.barrier()
    with np.load(path, allow_pickle=False) as stored:
        ids, found_labels = stored["ids"], stored["labels"]
    images = run.data.unlabelled
    labels = np.full(len(images.index.labels), -1, dtype=images.index.labels.dtype)
    labels[ids] = found_labels
    return replace(images, index=replace(images.index, labels=labels), ids=ids)


def load_weights(
    run: RunContext, model: nn.Module, *, quiet: bool = False, fresh_norm: bool | None = None
) -> bool:
    """Start from given or published weights, if any; returns whether a trained head came with them.

    `fresh_norm` stands in for `model.fc_norm`: pretraining needs the encoder's last norm in any case.
    """
    config = run.config.model
    start = start_weights(config)
    if start is None:
        return False
    where, weights = start
    fresh = config.fc_norm == "fresh" if fresh_norm is None else fresh_norm
    report = load_backbone(model, weights, where=where, keep_head=config.keep_head, fresh_norm=fresh)
    if not quiet:
        run.say(f"{where}: {summary(run.config, report)}")
        for text in doubts(run.config, report.format):
            run.say(f"{where}: {text}")
    return config.keep_head


def _before(run: RunContext, name: StageName) -> StageName | None:
    """The stage that `name` starts from, None for none."""
    stages = earlier(run.config, name)
    if not stages:
        return None
    if not run.folder.result(stages[-1]).exists():
        raise UserError(
            f"stage {name} starts from {stages[-1]}, which has not finished in {run.folder.path}; run "
            f"`fastsemi train`, or take {stages[-1]} out of stages"
        )
    return stages[-1]


def build_trainer(
    run: RunContext,
    stage: Stage,
    name: StageName,
    log: MetricLog,
    progress: Progress,
    *,
    fingerprint: dict[str, Any] | None = None,
    stop: Stop | None = None,
    checkpoints: Path | None = None,
    saved: Callable[[], None] = lambda: None,
) -> Trainer:
    """The training loop of a stage, before its first step.

    Args:
        run: What the stages share.
        stage: From `build_stage`.
        name: Its name.
        log: Where metrics go.
        progress: What the user sees.
        fingerprint: Settings that the weights depend on, kept in checkpoints.
        stop: Asks for an end after the step.
        checkpoints: Where they go, if not into the run's own folder.
        saved: Called when one is whole, as of `Checkpoints`.
    """
    config, strategy = run.config, _strategy(run, name)
    whole = config.semi.contrast or config.semi.spread_weight
    if name == "semi" and strategy == "fsdp" and whole and processes.world() > 1:
        raise UserError(
            "semi.contrast and semi.spread_weight need the whole network in each process; set "
            "distributed.strategy to ddp, or both to 0"
        )
    return Trainer(
        stage,
        run.data,
        run.views,
        run.precision,
        LoopConfig(
            config.seed,
            config.log_every,
            config.eval_batch,
            config.optimizer,
            config.compile,
            strategy,
            config.train.select == "best",
            name == "semi" or starts_from_probe(config, name),
            config.train.keep,
        ),
        checkpoints or run.folder.checkpoints,
        log,
        progress,
        fingerprint=fingerprint or {},
        stop=stop or Stop(),
        watchdog=Watchdog(config.train.watchdog_s, run.folder.stuck(processes.rank())),
        before_step=spread_before_step(run, stage) if isinstance(stage, Semi) else None,
        saved=saved,
    )


def _strategy(run: RunContext, name: StageName) -> Strategy:
    """How the processes share the networks of a stage; says what `auto` goes by."""
    wanted = run.config.distributed.strategy
    if run.config.compile.cuda_graphs:
        return "ddp"  # graphs replay fixed addresses
    if processes.world() == 1 or wanted != "auto" or run.device.type != "cuda":
        return "fsdp" if wanted == "fsdp" else "ddp"
    available = torch.cuda.get_device_properties(run.device).total_memory
    needed = 0
    if processes.is_main():
        dtype, fused = run.precision.dtype, run.precision.fused_attention
        needs = measure_stage(run.config, name, run.data, dtype=dtype, fused_attention=fused)
        needed = needs.memory("ddp", processes.world()).total
    strategy = processes.from_main(choose_strategy(wanted, needed, available))
    run.say(
        f"{name}: {strategy}, as ddp is estimated to need {needed / 2**30:.1f} GiB of the "
        f"{available / 2**30:.1f} GiB of each GPU"
    )
    return strategy
