"""A rehearsal finds what would be slow or wrong on a GPU alone: each fault is planted, and fails it."""

import pytest
import torch
from timm.models.vision_transformer import Attention
from torch._subclasses.fake_tensor import DataDependentOutputException

from fastsemi.loaders.data import Data
from fastsemi.stages.semi import Semi
from fastsemi.training.update import Updater

pytest.importorskip("triton")


@pytest.fixture
def step(tiny, rehearse):
    """The function `step()`: of a small semi stage."""
    config = tiny()
    return lambda: rehearse(config, "semi", Data(config.data, config.loader), torch.bfloat16)


@pytest.fixture(scope="module")
def known():
    """A step without a fault, kept between tests."""
    return []


@pytest.fixture
def fails(step, sound, known, monkeypatch):
    """The function `fails(match, owner, name, fault)`: a step is not sound with `fault(method)` in place."""

    def check(match, owner, name, fault):
        if not known:
            known.append(step())
        right = known[0]
        stated = {"waits": {"compaction.py:select": 1}, "uploads": {"packing.py:upload": 3}}
        stated |= {"operations": len(right.operations), "flops": right.flops, "peak": right.peak}
        sound(right, **stated)
        monkeypatch.setattr(owner, name, fault(getattr(owner, name)))
        with pytest.raises(AssertionError, match=match):
            sound(step(), **stated)

    return check


def then(fault):
    """A method, and then `fault` of the owner and of what the method returned."""

    def planted(method):
        def faulty(self, *args, **kwargs):
            result = method(self, *args, **kwargs)
            fault(self, result)
            return result

        return faulty

    return planted


def test_a_number_that_the_step_reads(step, monkeypatch):
    monkeypatch.setattr(Semi, "loss", then(lambda stage, output: output.loss.item())(Semi.loss))
    with pytest.raises(DataDependentOutputException):
        step()


@pytest.mark.parametrize(
    "fault",
    [
        lambda updater, norm: int((norm > 0).sum()),
        lambda updater, norm: norm.cpu(),
        lambda updater, norm: torch.tensor(1.0, device=norm.device),
    ],
    ids=["a_count", "a_copy_to_the_host", "a_number_to_the_device"],
)
def test_what_the_host_waits_for(fails, fault):
    fails(r"the host waits in \{.*, '(update|trainer).py:\w+': 1\}", Updater, "step", then(fault))


def test_an_index_of_the_hosts(fails):
    fault = then(lambda updater, norm: norm.expand(3)[torch.tensor([0, 2])])
    fails("tensors of the host's in .*aten::index", Updater, "step", fault)


def test_one_more_upload(fails):
    fault = then(lambda updater, norm: torch.zeros(3).to(norm.device, non_blocking=True))
    fails(r"uploads in \{.*'trainer.py:\w+': 1\}", Updater, "step", fault)


class Kept(torch.autograd.Function):
    """The identity, which keeps a copy of its input for the backward pass."""

    @staticmethod
    def forward(ctx, tokens):
        ctx.save_for_backward(tokens.clone())
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx, grad):
        return grad + 0 * ctx.saved_tensors[0]


def test_an_activation_kept_twice(fails):
    def fault(forward):
        return lambda self, tokens, *args, **kwargs: forward(self, Kept.apply(tokens), *args, **kwargs)

    fails("a peak of", Attention, "forward", fault)


def test_an_operation_on_each_gradient(fails):
    fault = then(lambda updater, _: [p.grad.mul_(1.0) for p in updater._parameters.values()])
    fails("operations", Updater, "backward", fault)


def test_a_teacher_that_runs_twice(fails):
    def fault(teach):
        return lambda self, batch: [teach(self, batch) for _ in range(2)][-1]

    fails("FLOPs", Semi, "_teach", fault)
