"""Gradients are multiplied where their norm is to be bounded, and not touched where it is not."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastsemi.common.precision import Precision
from fastsemi.training.update import Updater


class Names(TorchDispatchMode):
    """The operations."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def step(clip):
    """The weights after a step, its norm and its operations."""
    torch.manual_seed(0)
    network = nn.Linear(5, 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
    updater = Updater(network, optimizer, Precision(torch.device("cpu"), torch.float32), clip)
    updater.backward(network(torch.randn(4, 5)).square().sum())
    with Names() as names:
        norm = updater.step(0)
    return [p.detach() for p in network.parameters()], norm, names.found


def test_without_clipping_nothing_is_multiplied():
    weights, norm, names = step(None)
    assert "aten::_foreach_mul_.Tensor" not in names and "aten::_foreach_mul_" not in names
    multiplied, same, all_names = step(1e30)  # by one
    assert "aten::_foreach_mul_" in all_names
    assert all(torch.equal(a, b) for a, b in zip(weights, multiplied, strict=True)) and norm == same


def test_a_bound_that_is_passed_shrinks_the_step_of_sgd():
    torch.manual_seed(0)
    network = nn.Linear(5, 3)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    updater = Updater(network, optimizer, Precision(torch.device("cpu"), torch.float32), 0.5)
    updater.backward(network(torch.randn(4, 5)).square().sum())
    assert updater.step(0) > 0.5
    moved = torch.cat([(p - b).flatten() for p, b in zip(network.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-5)
