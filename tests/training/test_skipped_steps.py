"""fp16: a step whose gradient overflows is skipped, and nothing but the loss scale moves."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision
from fastsemi.common.progress import Progress
from fastsemi.run.build import build_stage, build_trainer
from fastsemi.run.context import RunContext
from fastsemi.training.metrics import MetricLog
from fastsemi.training.optim import set_lr

BAD_STEP = 1


@pytest.fixture
def trainer(tiny):
    """The semi stage in fp16 on a CPU, whose loss overflows at step 1."""
    run = RunContext(tiny("--stages", "[semi]", "--semi.micro_batches", "2"))
    run.precision = Precision(torch.device("cpu"), torch.float16)
    stage = build_stage(run, "semi", fresh=True)
    log = MetricLog(run.folder.metrics, run.folder.board)
    trainer = build_trainer(run, stage, "semi", log, Progress(Console(quiet=True)))
    trainer.updater.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)  # other steps do not overflow
    loss = stage.loss

    def overflowing(batch):
        output = loss(batch)
        factor = float("inf") if trainer.step == BAD_STEP else 1.0
        return replace(output, loss=output.loss * factor)

    stage.loss = overflowing
    yield trainer
    log.close()
    run.close()


def state(trainer):
    stage = trainer.stage
    tensors = {f"student.{k}": v for k, v in stage.model.state_dict().items()}
    tensors |= {f"teacher.{k}": v for k, v in stage.teacher.model.state_dict().items()}
    for i, moments in enumerate(trainer.optimizer.state.values()):
        tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_a_step_that_overflows_changes_neither_weights_nor_teacher_nor_schedule(trainer):
    rates = []
    with trainer.batches(trainer.data.load) as batches:
        for step in range(4):
            rates.append(trainer.schedule.lr(step))
            set_lr(trainer.optimizer, rates[-1])
            before, scale = state(trainer), trainer.updater.scaler.get_scale()
            trainer.update(batches)
            trainer.step += 1
            after = state(trainer)
            same = {name: torch.equal(before[name], after[name]) for name in before}
            if step == BAD_STEP:
                assert all(same.values()), [name for name, equal in same.items() if not equal]
                assert trainer.updater.scaler.get_scale() == scale / 2
            else:
                assert not same["student.head.weight"] and not same["teacher.head.weight"]
                assert trainer.updater.scaler.get_scale() == scale
    assert all(float(moments["step"]) == 3 for moments in trainer.optimizer.state.values())
    assert rates == [trainer.stage.schedule.lr(step) for step in range(4)]
    metrics = trainer.metrics.read()
    assert metrics["skipped_steps"] == 0.25
    assert 0 < metrics["grad_norm"] < 1e6
    trainer.updater.check()


def test_a_loss_that_overflows_at_any_scale_stops_the_run(trainer):
    trainer.updater.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-20)
    with pytest.raises(UserError, match="not finite in fp16 at any loss scale"):
        trainer.updater.check()
