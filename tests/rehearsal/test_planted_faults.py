"""A rehearsal finds what would be slow or wrong on a GPU alone: each fault is planted, and fails it."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from fastsemi.loaders.data import Data
from fastsemi.stages.semi import Semi
from fastsemi.training.update import Updater


@pytest.fixture
def semi(tiny, rehearse):
    """The function `semi()`: a step of a small semi stage."""
    config = tiny("--semi.micro_batches", "1")
    return lambda: rehearse(config, "semi", Data(config.data, config.loader), torch.bfloat16)


@pytest.fixture
def stated(semi, sound):
    """The function `stated(found)`: a step is as one without faults."""
    right = semi()
    expected = {name: dict(getattr(right, name)) for name in ("waits", "uploads")}
    expected |= {"operations": len(right.operations), "flops": right.flops, "peak": right.peak}
    assert expected["waits"] == {"compaction.py:select": 1}
    sound(right, **expected)
    return lambda found: sound(found, **expected)


def plant(monkeypatch, owner, name, fault):
    """Let `fault` happen before a method runs: a function of the method's arguments, and of what it returns."""
    method = getattr(owner, name)

    def faulty(self, *args, **kwargs):
        result = method(self, *args, **kwargs)
        return fault(self, result) or result

    monkeypatch.setattr(owner, name, faulty)


def test_a_number_read_in_the_step(semi, monkeypatch):
    plant(monkeypatch, Semi, "loss", lambda stage, output: output.loss.item() and None)
    with pytest.raises(DataDependentOutputException):
        semi()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda step, norm: int((norm > 0).sum()) * 0, "waits in .*test_planted_faults|waits in .*elsewhere"),
        (lambda step, norm: norm.cpu() * 0 and None, "waits in"),
        (lambda step, norm: torch.tensor([1.0], device=norm.device).add(1)[:0].sum() * 0 + norm, "waits in"),
    ],
    ids=["count", "copy_to_the_host", "copy_to_the_device"],
)
def test_what_makes_the_host_wait(semi, stated, monkeypatch, fault, message):
    plant(monkeypatch, Updater, "step", lambda step, norm: (fault(step, norm), None)[1])
    with pytest.raises(AssertionError, match=message):
        stated(semi())


def test_an_index_of_the_hosts(semi, stated, monkeypatch):
    plant(monkeypatch, Semi, "after_update", lambda stage, _: None)
    plant(monkeypatch, Updater, "step", lambda step, norm: norm.expand(3)[torch.tensor([0, 2])].max())
    with pytest.raises(AssertionError, match="tensors of the host's in .*aten::index"):
        stated(semi())


def test_an_upload_more(semi, stated, monkeypatch):
    def upload(step, norm):
        return norm + torch.zeros(3).to(norm.device, non_blocking=True).sum()

    plant(monkeypatch, Updater, "step", upload)
    with pytest.raises(AssertionError, match="uploads in"):
        stated(semi())


def test_an_activation_kept_twice(semi, stated, monkeypatch):
    """A copy of what each block returns, which something holds until the next one."""

    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tokens):
            ctx.save_for_backward(tokens.clone())
            return tokens.view_as(tokens)

        @staticmethod
        def backward(ctx, grad):
            return grad + 0 * ctx.saved_tensors[0]

    from timm.models.vision_transformer import Attention

    forward = Attention.forward
    monkeypatch.setattr(Attention, "forward", lambda self, x, *args, **kw: forward(self, Kept.apply(x), *args, **kw))
    monkeypatch.setattr("pytest.approx", lambda value, rel: _Any())  # operations and FLOPs change too
    with pytest.raises(AssertionError, match="a peak of"):
        stated(semi())


def test_an_operation_on_every_weight(semi, stated, monkeypatch):
    plant(monkeypatch, Updater, "backward", lambda up, _: [p.grad.mul_(1) for p in up._parameters.values()] and None)
    with pytest.raises(AssertionError, match="operations"):
        stated(semi())


def test_a_product_computed_twice(semi, stated, monkeypatch):
    plant(monkeypatch, Semi, "pseudo_label", lambda stage, _: None)
    teach = Semi._teach
    monkeypatch.setattr(Semi, "_teach", lambda self, batch: (teach(self, batch), teach(self, batch))[1])
    with pytest.raises(AssertionError, match="operations|FLOPs|uploads"):
        stated(semi())
