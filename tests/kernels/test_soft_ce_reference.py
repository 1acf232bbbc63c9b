"""Two-label cross-entropy against the dense target, sample by sample in fp64."""

import math

import pytest
import torch

from fastsemi.kernels.reference.soft_ce import two_label_cross_entropy


def slow_loss(row, a, b, lam, smoothing):
    """The cross-entropy of one sample against its written-out target, and the gradient of its logits."""
    top = max(row)
    total = math.log(sum(math.exp(x - top) for x in row)) + top
    target = [smoothing / len(row)] * len(row)
    target[a] += (1 - smoothing) * lam
    target[b] += (1 - smoothing) * (1 - lam)
    loss = -sum(t * (x - total) for t, x in zip(target, row, strict=True))
    return loss, [math.exp(x - total) - t for t, x in zip(target, row, strict=True)]


def example(batch, classes, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=g) * 3
    a, b = torch.randint(classes, (2, batch), generator=g)
    return logits, a, b, torch.rand(batch, generator=g), torch.rand(batch, generator=g) + 0.5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 2), (7, 10), (4, 1000), (2, 21841)])
def test_loss_and_gradient_follow_the_dense_target(shape, smoothing):
    logits, a, b, lam, weight = example(*shape)
    lam[0] = 1.0
    lam[-1] = 0.0
    logits.requires_grad_()
    loss = two_label_cross_entropy(logits, a, b, lam, smoothing=smoothing, weight=weight)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    for i in range(shape[0]):
        args = logits[i].tolist(), int(a[i]), int(b[i]), lam[i].item(), smoothing
        expected, gradient = slow_loss(*args)
        factor = weight[i].item()
        assert loss[i].item() == pytest.approx(factor * expected, rel=1e-5)
        assert torch.allclose(logits.grad[i].double(), factor * torch.tensor(gradient).double(), atol=1e-6)


def test_equal_labels_are_the_usual_cross_entropy():
    logits, a, _, lam, _ = example(6, 10)
    got = two_label_cross_entropy(logits, a, a, lam, smoothing=0.1)
    usual = torch.nn.functional.cross_entropy(logits, a, label_smoothing=0.1, reduction="none")
    assert torch.allclose(got, usual, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_masked_row_is_exactly_zero_whatever_its_logits(bad):
    logits, a, b, lam, _ = example(3, 5)
    logits[1, 2] = bad
    logits.requires_grad_()
    weight = torch.tensor([1.0, 0.0, 1.0])
    loss = two_label_cross_entropy(logits, a, b, lam, smoothing=0.1, weight=weight)
    loss.sum().backward()
    assert loss[1].item() == 0 and torch.equal(logits.grad[1], torch.zeros(5))
    assert loss[[0, 2]].isfinite().all() and (loss[[0, 2]] > 0).all()
    assert logits.grad[[0, 2]].isfinite().all() and (logits.grad[[0, 2]] != 0).all()


def test_nan_in_a_kept_row_is_not_hidden():
    logits, a, b, lam, _ = example(2, 5)
    logits[0, 0] = float("nan")
    loss = two_label_cross_entropy(logits, a, b, lam)
    assert loss[0].isnan() and not loss[1].isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_summed_in_float32(dtype):
    logits, a, b, lam, _ = example(4, 1000)
    half = logits.to(dtype).requires_grad_()
    loss = two_label_cross_entropy(half, a, b, lam, smoothing=0.1)
    exact = two_label_cross_entropy(half.detach().float(), a, b, lam, smoothing=0.1)
    assert loss.dtype == torch.float32 and torch.equal(loss.detach(), exact)
    loss.sum().backward()
    assert half.grad.dtype == dtype
