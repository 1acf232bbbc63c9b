"""NaN and Inf stop a run before they reach the weights; the error names the step and what was not finite."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision
from fastsemi.common.progress import Progress
from fastsemi.run.build import build_stage, build_trainer
from fastsemi.run.context import RunContext
from fastsemi.stages.base import Ratio
from fastsemi.training.metrics import MetricLog
from fastsemi.training.update import Updater

BAD_STEP = 2


@pytest.fixture(params=["the host checks each step", "the device skips the step"])
def trainer(tiny, request):
    """The semi stage in fp32; also as on a GPU, where the optimizer looks at `found_inf` by itself."""
    run = RunContext(tiny("--stages", "[semi]", "--semi.micro_batches", "2"))
    log = MetricLog(run.folder.metrics, run.folder.board)
    trainer = build_trainer(
        run, build_stage(run, "semi", fresh=True), "semi", log, Progress(Console(quiet=True))
    )
    trainer.updater._host_checks = request.param.startswith("the host")
    yield trainer
    log.close()
    run.close()


def weights(trainer):
    state = {f"student.{k}": v.clone() for k, v in trainer.stage.model.state_dict().items()}
    for i, moments in enumerate(trainer.optimizer.state.values()):
        state |= {f"optimizer.{i}.{k}": v.clone() for k, v in moments.items()}
    return state


def stopped(trainer):
    """The error of a run of four steps, which leaves the weights of before the bad step."""
    with trainer.batches(trainer.data.load) as batches:
        for _ in range(BAD_STEP):
            trainer.update(batches)
            trainer.step += 1
        before = weights(trainer)
        with pytest.raises(UserError) as error:
            trainer.update(batches)
            after = weights(trainer)
            assert all(torch.equal(before[name], after[name]) for name in before)
            trainer.step += 1
            trainer.update(batches)  # finite again: the first bad step is the one to name
            trainer.updater.check()
        if trainer.updater._host_checks:
            after = weights(trainer)
            assert all(torch.equal(before[name], after[name]) for name in before)
    return str(error.value)


def test_a_gradient_is_named_by_its_parameter(trainer):
    weight = trainer.stage.model.head.weight
    weight.register_hook(lambda grad: grad * (float("nan") if trainer.step == BAD_STEP else 1.0))
    message = stopped(trainer)
    assert message.startswith(f"the gradient of head.weight is not finite at step {BAD_STEP},")
    assert "\n" not in message and "base_lr" in message


@pytest.mark.parametrize("part", ["loss_labelled", "loss_unlabelled", "the loss"])
def test_a_loss_is_named_before_the_gradients_that_it_spoils(trainer, part):
    loss = trainer.stage.loss

    def spoiled(batch):
        output = loss(batch)
        if trainer.step != BAD_STEP:
            return output
        metrics = dict(output.metrics)
        if part in metrics:
            metrics[part] = Ratio(torch.tensor(float("inf")), 1)
        return replace(output, loss=output.loss * float("nan"), metrics=metrics)

    trainer.stage.loss = spoiled
    assert stopped(trainer).startswith(f"{part} is not finite at step {BAD_STEP},")


def test_a_norm_that_overflows_though_its_parts_are_finite_is_named():
    """As are the parts of a process whose shards are finite while those of another one are not."""
    network = torch.nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    optimizer = torch.optim.SGD(network.parameters())
    updater = Updater(network, optimizer, Precision(torch.device("cpu"), torch.float32), None)
    loss = 3e38 * (network[0] + network[1]).sum()
    updater.backward(loss, {"the loss": loss.detach()})
    with pytest.raises(UserError, match="the gradient's norm is not finite at step 3"):
        updater.step(3)
