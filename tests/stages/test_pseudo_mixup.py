"""Pairs of pseudo mixup against section 3 of the paper, one sample at a time."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastsemi.common.errors import UserError
from fastsemi.stages.pseudo_mixup import pair
from fastsemi.stages.thresholds.base import PseudoLabels
from fastsemi.stages.thresholds.fixed import Fixed

MODES = ["none", "pseudo", "pseudo_plus", "prob"]


def slow_pairs(mode, confidence, threshold, partner, lam):
    """Rows of (partner, weight in the mix, kept)."""
    clean = [p for p in partner if confidence[p] >= threshold]
    rows = []
    for i, o in enumerate(confidence):
        j, ratio, keep = partner[i], lam[i], o >= threshold
        if mode == "none":
            j, ratio = i, 1.0
        elif mode == "pseudo_plus":
            j = clean[(clean.index(i) + 1) % len(clean)] if i in clean else i
        elif mode == "prob":
            ratio = o / (o + confidence[j])
            keep = max(o, confidence[j]) >= threshold
        rows.append((j, ratio, keep))
    return rows


def example(batch, seed=0):
    """Confidences, drawn partners, drawn weights."""
    g = torch.Generator().manual_seed(seed)
    confidence = torch.rand(batch, generator=g) * 0.9 + 0.05
    return confidence, torch.randperm(batch, generator=g), torch.rand(batch, generator=g)


def by_threshold(confidence, threshold):
    """The weights of the paper's rule."""
    return Fixed(threshold).weights(
        PseudoLabels(torch.zeros(len(confidence)), confidence, confidence, confidence)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
@pytest.mark.parametrize("batch", [1, 2, 9, 64])
def test_pairs_follow_the_equations(mode, threshold, batch):
    confidence, partner, lam = example(batch, seed=batch)
    confidence[batch // 2] = threshold or confidence[batch // 2]  # exactly the threshold
    got = pair(mode, confidence, by_threshold(confidence, threshold), partner, lam)
    slow = slow_pairs(mode, confidence.tolist(), float(np.float32(threshold)), partner.tolist(), lam.tolist())
    others, ratios, keep = zip(*slow, strict=True)
    assert got.partner.tolist() == list(others)
    assert got.lam.tolist() == pytest.approx(ratios, abs=1e-7)
    assert got.weight.tolist() == list(map(float, keep))
    assert (got.partner.dtype, got.lam.dtype, got.weight.dtype) == (
        torch.int64,
        torch.float32,
        torch.float32,
    )


def test_equal_confidences_mix_half_and_half():
    confidence, partner = torch.full((4,), 0.3), torch.tensor([1, 2, 3, 0])
    got = pair("prob", confidence, by_threshold(confidence, 0.3), partner, torch.rand(4))
    assert got.lam.tolist() == [0.5] * 4 and (got.weight == 1).all()


def test_in_prob_the_more_confident_one_decides():
    confidence, partner, lam = example(32)
    confidence[3] = confidence[partner[3]]
    trusted = torch.rand(32)
    got = pair("prob", confidence, trusted, partner, lam)
    for i, j in enumerate(partner.tolist()):
        assert got.weight[i] == trusted[i if confidence[i] >= confidence[j] else j]
    for mode in ("none", "pseudo", "pseudo_plus"):
        assert torch.equal(pair(mode, confidence, trusted, partner, lam).weight, trusted)


def test_pseudo_plus_never_touches_a_noisy_sample_and_leaves_a_lone_clean_one():
    confidence, partner, lam = example(40, seed=5)
    clean = confidence >= 0.5
    got = pair("pseudo_plus", confidence, by_threshold(confidence, 0.5), partner, lam)
    assert torch.equal(got.weight > 0, clean) and clean[got.partner[clean]].all()
    assert torch.equal(got.partner[~clean], torch.arange(40)[~clean])
    assert sorted(got.partner.tolist()) == list(range(40))
    confidence = torch.full((40,), 0.1)
    confidence[7] = 0.9
    got = pair("pseudo_plus", confidence, by_threshold(confidence, 0.5), partner, lam)
    assert got.partner.tolist() == list(range(40))
    assert got.weight.nonzero().flatten().tolist() == [7]


def test_clean_are_the_samples_that_a_rule_gives_any_weight():
    confidence, partner, lam = example(12)
    trusted = torch.tensor([0.0, 0.01, 1.0] * 4)
    got = pair("pseudo_plus", confidence, trusted, partner, lam)
    assert torch.equal(got.partner != torch.arange(12), trusted > 0)


@pytest.mark.parametrize("mode", ["none", "pseudo", "pseudo_plus"])
def test_a_confidence_of_nan_is_never_kept(mode):
    confidence, partner, lam = example(6, seed=3)
    confidence[2] = float("nan")
    assert pair(mode, confidence, by_threshold(confidence, 0.1), partner, lam).weight[2] == 0


def test_unknown_mode_names_the_known_ones():
    confidence, partner, lam = example(2)
    with pytest.raises(UserError, match=r"'probb'.*none, pseudo, pseudo_plus, prob"):
        pair("probb", confidence, confidence, partner, lam)


class HostReads(TorchDispatchMode):
    """Notes what copies a number to the host or sizes a result by data: there the host waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masked = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masked or name in ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique"):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_read_by_the_host(mode):
    confidence, partner, lam = example(8)
    with HostReads() as reads:
        pair(mode, confidence, by_threshold(confidence, 0.4), partner, lam)
    assert not reads.found


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_nothing_waits_for_the_device_and_a_gpu_computes_the_same_bits(mode):
    confidence, partner, lam = example(640)
    expected = pair(mode, confidence, by_threshold(confidence, 0.4), partner, lam)
    args = [value.cuda() for value in (confidence, by_threshold(confidence, 0.4), partner, lam)]
    pair(mode, *args)  # the first pass may load kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = pair(mode, *args)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.cpu(), other)
