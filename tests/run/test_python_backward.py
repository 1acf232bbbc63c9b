"""The backward pass in Python computes what PyTorch's engine does, and frees what that frees."""

import weakref

import pytest
import torch

from fastsemi.kernels.reference.soft_ce import two_label_cross_entropy
from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig
from fastsemi.run.python_backward import python_backward

VIT = ModelConfig("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2})


def gradients(network):
    """Of two micro-batches, which add up."""
    network.zero_grad()
    torch.manual_seed(0)
    images, lam = torch.randn(4, 3, 32, 32), torch.rand(4)
    for labels in torch.randint(5, (2, 4)):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images)
            two_label_cross_entropy(logits, labels, labels.flip(0), lam).mean().backward()
    return [parameter.grad for parameter in network.parameters()]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_engines_to_the_bit(checkpointing):
    network = create_model(VIT, num_classes=5, image_size=32, drop_path=0.3).train()
    network.set_grad_checkpointing(checkpointing)
    expected = gradients(network)
    with python_backward():
        found = gradients(network)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_gradients_that_are_asked_for_are_the_engines_and_are_left_nowhere():
    weight, x = torch.randn(3, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    unused = torch.ones(2, requires_grad=True)

    def gradients():
        _, rest = (x @ weight).tanh().split([1, 2], dim=1)  # the second result of a node
        y = rest.exp()
        return torch.autograd.grad(
            [y, rest], [x, unused, weight], [y.detach(), y.detach()], allow_unused=True
        )

    expected = gradients()
    with python_backward():
        found = gradients()
    assert found[1] is expected[1] is None and weight.grad is x.grad is None
    assert all(torch.equal(found[i], expected[i]) for i in (0, 2))


def test_what_a_node_saved_is_freed_when_it_has_run():
    x = torch.ones(3, requires_grad=True)
    alive = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.view_as(value)

        @staticmethod
        def backward(ctx, grad):
            alive.append(saved() is not None)
            return grad

    with python_backward():
        factor = torch.full((3,), 2.0)
        saved = weakref.ref(factor.untyped_storage())
        loss = (Look.apply(Look.apply(x) * 1.0) * factor).sum()
        del factor
        alive.append(saved() is not None)
        loss.backward()
    assert alive == [True, False, False]
    assert x.grad.tolist() == [2, 2, 2]


def test_only_a_plain_backward_pass_is_taken():
    x = torch.ones(3, requires_grad=True)
    with python_backward(), pytest.raises(NotImplementedError):
        torch.autograd.grad(x.sum(), x, create_graph=True)


class Cut(torch.autograd.Function):
    """Both arguments' sum, which says nothing to the first of them."""

    @staticmethod
    def forward(ctx, cut, kept):
        return cut + kept

    @staticmethod
    def backward(ctx, grad):
        return None, grad


def test_a_branch_without_a_gradient_holds_nobody_up():
    x = torch.ones(3, requires_grad=True)
    with python_backward():
        shared = x * 2
        Cut.apply(shared.exp(), shared * 3).sum().backward()
    assert x.grad.tolist() == [6, 6, 6]
