"""What the parts of a stage cost here: some of its steps, run by the trainer, and one of all else."""

from __future__ import annotations

import copy
import gc
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

import torch
from rich.console import Console

from fastsemi.common.errors import Interrupted
from fastsemi.common.progress import Progress
from fastsemi.common.spans import Recorder, recording
from fastsemi.parallel import processes
from fastsemi.parallel.shards import whole_state
from fastsemi.parallel.stop import Stop
from fastsemi.run.build import build_stage, build_trainer, starts_from_probe
from fastsemi.run.context import RunContext
from fastsemi.run.folder import RunFolder
from fastsemi.run.order import earlier, settings
from fastsemi.run.spread_prior import spread_before_step
from fastsemi.run.trial import TrialFolder, endless
from fastsemi.stages.base import Stage
from fastsemi.stages.label_prior import LabelPrior
from fastsemi.stages.names import StageName
from fastsemi.stages.semi import Semi
from fastsemi.tools.budget.lengths import StageCost
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.evaluate import evaluate
from fastsemi.training.metrics import MetricLog
from fastsemi.training.trainer import Trainer

T = TypeVar("T")

_WARMUP, _FIRST = 2, 2  # steps that tell how many to measure
_FEWEST, _MOST = 3, 200  # steps that are measured
_EVALUATED = 4  # batches of evaluation images of each process that tell the time of all
_COPIES = 4  # of the weights in a checkpoint: the model's, two momenta, the teacher's
_WRITTEN = 3  # times that a stage's weights are written at its end, with a margin


def measure(run: RunContext, name: StageName, stop: Stop, *, seconds: float, fresh: bool) -> StageCost:
    """Run some steps of a stage as the run will, evaluate and write its networks; nothing of it is kept.

    Every pseudo label is accepted, so that a step is the dearest that it can be. Labels that are spread for
    fine-tuning stay in the trial's folder, unless `fresh`: the run would find them again. All processes must
    take part.

    Args:
        run: The run.
        name: The stage.
        stop: Set by a signal.
        seconds: How long to measure steps, about.
        fresh: Whether the stage before has yet to be trained.

    Raises:
        Interrupted: A signal asked to stop.
        UserError: What the stage itself would raise.
    """
    apart = RunFolder(run.folder.trial / name)
    trial, bad = _trial(run, name, apart, fresh), set(run.data.bad.paths)
    try:
        with stop.held(), closing(MetricLog(apart.metrics, apart.board)) as log:
            return _measure(run, trial, name, log, apart, stop, seconds)
    except Interrupted as stopped:
        where = f"stopped while the steps of {name} were measured"
        raise Interrupted(where, stopped.number) from None
    finally:
        run.data.bad.paths.intersection_update(bad)  # the run itself finds and tells the others
        _free(run)
        if fresh and processes.is_main():
            shutil.rmtree(apart.path, ignore_errors=True)


def _trial(run: RunContext, name: StageName, apart: RunFolder, fresh: bool) -> RunContext:
    """The run with a stage that does not end, and with other places to write to."""
    trial, config = copy.copy(run), endless(run.config, name, accept_all=True)
    if not fresh:
        trial.config, trial.folder = config, TrialFolder(run.folder, apart)
        return trial
    stage = settings(config, name)
    if "finetune" in earlier(config, name):  # whose classifier it will start from
        stage = replace(stage, head="random")
    model = replace(config.model, keep_head=False)
    trial.config = replace(config, stages=(name,), model=model, **{name: stage})
    trial.folder, trial.say = apart, lambda text: None
    return trial


def _measure(
    run: RunContext,
    trial: RunContext,
    name: StageName,
    log: MetricLog,
    apart: RunFolder,
    stop: Stop,
    seconds: float,
) -> StageCost:
    """Of the processes the slowest counts."""
    stage, built = _timed(lambda: build_stage(trial, name))
    if trial.folder is not apart and processes.from_main(apart.spread_labels.exists()):
        stage, built = _timed(
            lambda: build_stage(trial, name)
        )  # as the run will, which has these labels then
    quiet = Progress(Console(quiet=True))
    trainer, made = _timed(
        lambda: build_trainer(trial, stage, name, log, quiet, stop=stop, checkpoints=apart.checkpoints)
    )
    trainer.step = 1  # before the first step labels may be spread
    step, first = _timed(lambda: _steps(trainer, _FIRST, _WARMUP, run.device))
    once = built + made + max(0.0, first - (_WARMUP + _FIRST) * step)
    trainer.before_step = None  # spreading is timed apart
    count = min(_MOST, max(_FEWEST, round(processes.largest(seconds / step))))
    step = _steps(trainer, count, run.data.loader.prefetch + 1, run.device)

    spread = 0.0
    if isinstance(stage, Semi) and isinstance(stage.prior, LabelPrior):
        spread = _spread(trial, stage, stage.prior)
    written = _written(stage, apart)
    once += _WRITTEN * written
    evaluation = _evaluation(run, stage)
    if evaluation and run.config.train.select == "best":
        evaluation += written
        once += evaluation * (name == "semi" or starts_from_probe(run.config, name))
    if run.config.train.calibrate and name == run.config.stages[-1]:
        once += evaluation  # its images once more, by one network
    return StageCost(stage.steps_per_epoch, once, step, evaluation, _COPIES * written, spread)


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and the seconds that it takes in the slowest process."""
    processes.barrier()
    begun = time.perf_counter()
    result = call()
    return result, processes.largest(time.perf_counter() - begun)


def _steps(trainer: Trainer, steps: int, warmup: int, device: torch.device) -> float:
    """Seconds of a step, from the files on, as the mean of some."""
    recorder = Recorder(device, steps, warmup)
    with recording(recorder):
        trainer.run()
    trainer.step += 1  # the one that the recorder left
    return processes.largest(recorder.seconds / steps)


def _spread(trial: RunContext, stage: Semi, prior: LabelPrior) -> float:
    """Seconds to spread labels over the teacher's features once."""
    before_step = spread_before_step(trial, stage)
    assert before_step is not None
    return _timed(lambda: before_step(prior.every))[1]


def _written(stage: Stage, apart: RunFolder) -> float:
    """Seconds to write the weights once."""

    def write() -> None:
        state = whole_state(stage.result())
        if processes.is_main():
            checkpoint_file.save({"model": state}, apart.result(stage.name))

    return _timed(write)[1]


def _evaluation(run: RunContext, stage: Stage) -> float:
    """Seconds of an evaluation, from a part of the images; 0 for a stage without a classifier."""
    models = stage.eval_models()
    if not models or not run.config.data.evaluates:
        return 0.0
    data, batch = run.data, run.config.eval_batch
    count = len(data.val.ids)
    if run.config.train.select == "best" and data.selection is not data.val:
        count += len(data.selection.ids)
    part = replace(data.val, ids=data.val.ids[: _EVALUATED * batch * processes.world()])

    def look() -> None:
        evaluate(models, data, run.views, run.precision, batch=batch, images=part)

    look()  # its first batches take longer
    return _timed(look)[1] * count / len(part.ids)


def _free(run: RunContext) -> None:
    """Give back what the trial's networks took."""
    gc.collect()
    if run.config.compile.enabled:
        torch.compiler.reset()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
