"""Pseudo labels against a transcription sample by sample in fp64."""

import math

import pytest
import torch

from fastsemi.kernels.reference.pseudo_label import pseudo_label


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 2), (5, 10), (3, 1000), (2, 21841)])
def test_label_and_confidence_follow_the_softmax(shape, dtype):
    logits = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    label, confidence = pseudo_label(logits)
    assert label.dtype == torch.int64 and confidence.dtype == torch.float32
    for row, got_label, got in zip(logits.tolist(), label.tolist(), confidence.tolist(), strict=True):
        top = max(row)
        p = [math.exp(x - top) for x in row]
        assert got_label == row.index(top)
        assert got == pytest.approx(max(p) / sum(p), rel=2e-6)


def test_equal_maxima_take_the_first_class():
    label, confidence = pseudo_label(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]))
    assert label.tolist() == [1, 0]
    assert confidence[1].item() == pytest.approx(1 / 3)


def test_logits_far_from_zero_neither_overflow_nor_lose_the_confidence():
    label, confidence = pseudo_label(torch.tensor([[3e4, 3e4 - 1], [-3e4, -3e4 - 1], [0.0, -1e30]]))
    assert label.tolist() == [0, 0, 0]
    expected = 1 / (1 + math.exp(-1))
    assert confidence.tolist() == pytest.approx([expected, expected, 1.0])


def test_nan_is_not_hidden_and_no_gradient_flows():
    logits = torch.tensor([[float("nan"), 1.0], [0.0, 1.0]], requires_grad=True)
    _, confidence = pseudo_label(logits)
    assert confidence[0].isnan() and not confidence[1].isnan()
    assert not confidence.requires_grad
