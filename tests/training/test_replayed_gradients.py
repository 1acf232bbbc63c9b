"""Gradients of several micro-batches add up also where each backward pass returns the same memory.

CUDA graphs do: their outputs are the tensors of the recording, which PyTorch knows as cached ones.
"""

import pytest
import torch
from torch import nn

from fastsemi.common.precision import Precision
from fastsemi.training.update import Updater


class Replayed(torch.autograd.Function):
    """weight * factor, whose gradient lies in one buffer."""

    @staticmethod
    def forward(ctx, weight, factor, buffer):
        ctx.factor, ctx.buffer = factor, buffer
        return (weight * factor).sum()

    @staticmethod
    def backward(ctx, grad):
        return ctx.buffer.fill_(ctx.factor), None, None


@pytest.fixture
def buffer():
    tensor = torch.zeros(3)
    torch._C._set_cached_tensors_enabled(True)
    torch._C._add_cached_tensor(tensor)
    yield tensor
    torch._C._remove_cached_tensor(tensor)
    torch._C._set_cached_tensors_enabled(False)


def gradients(updater, weight, buffer):
    """Of micro-batches with gradients 1, 2 and 4, in two steps."""
    found = []
    for _ in range(2):
        for factor in (1.0, 2.0, 4.0):
            loss = Replayed.apply(weight, factor, buffer)
            updater.backward(loss, {"the loss": loss.detach()})
        found.append(weight.grad.tolist())
        updater.step(0)
    return found


@pytest.mark.parametrize("replayed", [True, False])
def test_a_replay_does_not_overwrite_the_gradient_before(buffer, replayed):
    network = nn.ParameterDict({"weight": nn.Parameter(torch.ones(3))})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    precision = Precision(torch.device("cpu"), torch.float32)
    updater = Updater(network, optimizer, precision, None, replayed=replayed)
    right = gradients(updater, network["weight"], buffer) == 2 * [[7.0] * 3]
    assert right == replayed  # without care the second overwrites the first: the memory is the same


def test_losses_are_kept_where_a_replay_overwrites_them():
    network = nn.ParameterDict({"weight": nn.Parameter(torch.ones(3))})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    updater = Updater(network, optimizer, Precision(torch.device("cpu"), torch.float32), None, replayed=True)
    output = torch.tensor(float("nan"))
    updater.backward(network["weight"].sum() * float("nan"), {"the first loss": output})
    output.fill_(1.0)
    updater.backward(network["weight"].sum(), {"the second loss": output})
    with pytest.raises(Exception, match="the first loss is not finite at step 5"):
        updater.step(5)
