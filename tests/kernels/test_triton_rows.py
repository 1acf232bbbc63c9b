"""The Triton kernels over rows of logits against eager PyTorch in the same type, measured against fp64."""

import os

import pytest
import torch

pytest.importorskip("triton")

from fastsemi.kernels import pseudo_label as triton_pseudo_label
from fastsemi.kernels import soft_ce as triton_soft_ce
from fastsemi.kernels.reference import pseudo_label as eager_pseudo_label
from fastsemi.kernels.reference import soft_ce as eager_soft_ce

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a CUDA GPU or TRITON_INTERPRET=1"
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 2), (3, 1), (5, 10), (3, 1000), (2, 4097), (2, 21841)]


def assert_no_worse(got, eager, exact, atol):
    """The kernel is at most twice as far from the truth as eager PyTorch is, plus `atol`."""
    error, rounding = (got.double() - exact).abs().max(), (eager.double() - exact).abs().max()
    if INTERPRETED and got.dtype == torch.bfloat16:
        # Triton's interpreter cuts to bf16 where GPUs round; a cut is at most twice the worst rounding.
        rounding = torch.maximum(rounding, exact.abs().max() * 2**-8)
    assert error <= 2 * rounding + atol, f"{error:.3g} > 2 * {rounding:.3g} + {atol}"


def example(batch, classes, dtype):
    g = torch.Generator().manual_seed(classes)
    logits = (torch.randn(batch, classes, generator=g) * 4).to(dtype)
    a, b = torch.randint(classes, (2, batch), generator=g)
    lam, weight = torch.rand(batch, generator=g), torch.rand(batch, generator=g) + 0.5
    lam[0], lam[-1] = 1.0, 0.0
    return [t.to(DEVICE) for t in (logits, a, b, lam, weight)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_pseudo_label(shape, dtype):
    logits = example(*shape, dtype)[0]
    label, confidence = triton_pseudo_label.pseudo_label(logits)
    eager_label, eager_confidence = eager_pseudo_label.pseudo_label(logits)
    assert label.dtype == torch.int64 and confidence.dtype == torch.float32
    assert torch.equal(label, eager_label)
    exact = logits.double().softmax(dim=1).amax(dim=1)
    assert_no_worse(confidence, eager_confidence, exact, 1e-7)


def test_pseudo_label_of_ties_nan_and_strided_rows():
    logits = torch.zeros(4, 9000, device=DEVICE)
    logits[0, [7, 8000]] = 3.0  # a tie across two blocks of columns
    logits[1, [4095, 4096]] = 3.0
    logits[2, 5000] = float("nan")
    label, confidence = triton_pseudo_label.pseudo_label(logits)
    assert label[[0, 1, 3]].tolist() == [7, 4095, 0]
    assert confidence.isnan().tolist() == [False, False, True, False] and 0 <= label[2] < 9000
    wide = torch.randn(6, 40, device=DEVICE)
    for view in (wide[:, 3:24], wide.t(), wide[::2]):
        got, expected = triton_pseudo_label.pseudo_label(view), eager_pseudo_label.pseudo_label(view)
        assert torch.equal(got[0], expected[0]) and torch.allclose(got[1], expected[1])


def exact_loss(logits, a, b, lam, smoothing, weight):
    """The dense target in fp64."""
    one_hot = torch.nn.functional.one_hot
    classes = logits.shape[1]
    lam = lam.double()[:, None]
    target = lam * one_hot(a, classes) + (1 - lam) * one_hot(b, classes)
    target = (1 - smoothing) * target + smoothing / classes
    return -(target * logits.log_softmax(dim=1)).sum(dim=1) * weight.double()


def with_gradient(loss, logits, *args):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, *args)
    # A different gradient for every row, as the mean over other losses would give.
    (gradient,) = torch.autograd.grad(value, leaf, torch.linspace(0.5, 2, len(value)).to(value))
    return value.detach(), gradient


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_soft_ce_forward_and_backward(shape, dtype, smoothing):
    logits, a, b, lam, weight = example(*shape, dtype)

    def by(module):
        return lambda x: module.two_label_cross_entropy(x, a, b, lam, smoothing=smoothing, weight=weight)

    got = with_gradient(by(triton_soft_ce), logits)
    eager = with_gradient(by(eager_soft_ce), logits)
    exact = with_gradient(lambda x: exact_loss(x, a, b, lam, smoothing, weight), logits.double())
    assert got[0].dtype == torch.float32 and got[1].dtype == dtype
    assert_no_worse(got[0], eager[0], exact[0], 2e-6)
    # One rounding of a subnormal half is all that the tolerance has to cover.
    assert_no_worse(got[1], eager[1], exact[1], 2e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_masked_row_is_zero_whatever_its_logits_and_gradient(bad):
    logits, a, b, lam, _ = example(3, 5000, torch.float32)
    logits[1] = bad
    weight = torch.tensor([1.0, 0.0, 2.0], device=DEVICE)
    leaf = logits.requires_grad_()
    loss = triton_soft_ce.two_label_cross_entropy(leaf, a, b, lam, smoothing=0.1, weight=weight)
    loss.backward(torch.tensor([1.0, bad, 1.0], device=DEVICE))
    assert loss[1].item() == 0 and torch.equal(leaf.grad[1], torch.zeros_like(leaf.grad[1]))
    assert (loss[[0, 2]] > 0).all() and leaf.grad[[0, 2]].isfinite().all() and leaf.grad[[0, 2]].any()


def test_nan_in_a_kept_row_and_switched_off_classes():
    logits, a, b, lam, _ = example(3, 5000, torch.float32)
    logits[0, 4999] = float("nan")
    logits[1:, 100:4700] = -float("inf")
    a[1:], b[1:] = 7, 4900
    got = triton_soft_ce.two_label_cross_entropy(logits, a, b, lam)
    expected = eager_soft_ce.two_label_cross_entropy(logits, a, b, lam)
    assert got[0].isnan()
    assert torch.allclose(got[1:], expected[1:]) and got[1:].isfinite().all()


def test_soft_ce_of_logits_with_a_common_offset_and_strided_rows():
    logits, a, b, lam, _ = example(4, 6000, torch.float32)
    expected = triton_soft_ce.two_label_cross_entropy(logits, a, b, lam, smoothing=0.1)
    shifted = triton_soft_ce.two_label_cross_entropy(logits + 4096, a, b, lam, smoothing=0.1)
    assert torch.allclose(shifted, expected, atol=2e-3)  # 4096 + x rounds x to 2^-12
    wide = torch.randn(4, 40, device=DEVICE)
    for view in (wide[:, 3:24], wide.t()[:4], wide[:, ::2]):
        labels = a[: len(view)] % view.shape[1], b[: len(view)] % view.shape[1]
        leaf, other = view.detach().requires_grad_(), view.detach().clone().requires_grad_()
        got = triton_soft_ce.two_label_cross_entropy(leaf, *labels, lam)
        eager = eager_soft_ce.two_label_cross_entropy(other, *labels, lam)
        got.sum().backward(), eager.sum().backward()
        assert torch.allclose(got, eager, atol=1e-6) and torch.allclose(leaf.grad, other.grad, atol=1e-6)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs no compiled graph")
def test_operators_pass_the_checks_of_pytorch():
    logits, a, b, lam, weight = example(3, 10, torch.float32)
    torch.library.opcheck(torch.ops.fastsemi.pseudo_label.default, (logits,))
    args = (logits.requires_grad_(), a, b, lam, weight, 0.1)
    torch.library.opcheck(torch.ops.fastsemi.soft_ce.default, args)
