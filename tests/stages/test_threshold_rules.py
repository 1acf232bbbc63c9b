"""Each threshold rule against its paper's equations, written slowly in NumPy, over several steps."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastsemi.common.errors import UserError
from fastsemi.stages.thresholds.base import PseudoLabels
from fastsemi.stages.thresholds.fixed import Fixed
from fastsemi.stages.thresholds.flexmatch import FlexMatch
from fastsemi.stages.thresholds.freematch import FreeMatch
from fastsemi.stages.thresholds.settings import FlexMatchConfig, FreeMatchConfig, SoftMatchConfig, SSTConfig
from fastsemi.stages.thresholds.softmatch import SoftMatch
from fastsemi.stages.thresholds.sst import SST

CLASSES, BATCH, IMAGES, STEPS, MICRO = 4, 12, 40, 6, 3


def _labels(logits, ids):
    logits = torch.as_tensor(logits, dtype=torch.float32)
    confidence, label = torch.softmax(logits, 1).max(1)
    return PseudoLabels(label, confidence, logits, torch.as_tensor(ids))


def _steps(seed=0):
    """Steps of micro-batches of (logits, ids); some images come twice, and confidence grows."""
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        logits = rng.normal(size=(MICRO, BATCH, CLASSES)) * (1 + step) + [1.5, 0.5, 0, -0.5]
        yield list(zip(logits, rng.integers(0, IMAGES, (MICRO, BATCH)), strict=True))


def _softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _run(rule, steps, expected):
    """Weights of all micro-batches, compared with those expected; returns them flat."""
    seen = []
    for step in steps:
        for (logits, ids), slow in zip(step, expected.weights(step), strict=True):
            labels = _labels(logits, ids)
            got = rule.weights(labels)
            assert got.dtype == torch.float32 and got.min() >= 0 and got.max() <= 1
            np.testing.assert_allclose(got.numpy(), slow, rtol=2e-5, atol=1e-7)
            rule.observe(labels)
            seen += got.tolist()
        rule.update()
        expected.learn(step)
    return seen


class SlowFlexMatch:
    def __init__(self, tau, warmup):
        self.tau, self.warmup, self.last = tau, warmup, {}

    def weights(self, step):
        sigma = [sum(c == label for label in self.last.values()) for c in range(CLASSES)]
        unused = IMAGES - len(self.last)
        for logits, _ in step:
            weights = []
            for p in _softmax(logits):
                c = int(p.argmax())
                largest = max(max(sigma), unused) if self.warmup else max(sigma)
                beta = sigma[c] / largest if largest else 0
                weights.append(float(p.max() >= beta / (2 - beta) * self.tau))
            yield weights

    def learn(self, step):
        fresh = {}
        for logits, ids in step:
            for p, i in zip(_softmax(logits), ids, strict=True):
                if p.max() > self.tau:
                    fresh[i] = max(fresh.get(i, -1), int(p.argmax()))
        self.last |= fresh


class SlowFreeMatch:
    def __init__(self, momentum):
        self.m, self.tau = momentum, 1 / CLASSES
        self.p, self.h = np.full(CLASSES, 1 / CLASSES), np.full(CLASSES, 1 / CLASSES)

    def weights(self, step):
        for logits, _ in step:
            q = _softmax(logits)
            yield [float(x.max() >= self.p[x.argmax()] / self.p.max() * self.tau) for x in q]

    def learn(self, step):
        q = np.concatenate([_softmax(logits) for logits, _ in step])
        self.tau = self.m * self.tau + (1 - self.m) * q.max(1).mean()
        self.p = self.m * self.p + (1 - self.m) * q.mean(0)
        self.h = self.m * self.h + (1 - self.m) * np.eye(CLASSES)[q.argmax(1)].mean(0)


class SlowSoftMatch:
    def __init__(self, momentum, sigmas, align):
        self.m, self.sigmas, self.align = momentum, sigmas, align
        self.mu, self.var, self.p = 1 / CLASSES, 1.0, None

    def _confidence(self, logits):
        q = _softmax(logits)
        if self.align and self.p is not None:
            q = q * (1 / CLASSES) / self.p
            q /= q.sum(1, keepdims=True)
        return q.max(1)

    def weights(self, step):
        var = self.var / self.sigmas**2
        for logits, _ in step:
            yield [
                np.exp(-((o - self.mu) ** 2) / (2 * var)) if o < self.mu else 1.0
                for o in self._confidence(logits)
            ]

    def learn(self, step):
        o = np.concatenate([self._confidence(logits) for logits, _ in step])
        q = np.concatenate([_softmax(logits) for logits, _ in step])
        self.mu = self.m * self.mu + (1 - self.m) * o.mean()
        self.var = self.m * self.var + (1 - self.m) * o.var(ddof=1)
        self.p = q.mean(0) if self.p is None else self.m * self.p + (1 - self.m) * q.mean(0)


class SlowSST:
    def __init__(self, tau, cutoff, factor):
        self.cutoff, self.factor, self.levels, self.passed = cutoff, factor, np.full(CLASSES, tau), []

    def weights(self, step):
        for logits, _ in step:
            yield [float(p.max() >= self.levels[p.argmax()]) for p in _softmax(logits)]

    def learn(self, step):
        self.passed += [p for logits, _ in step for p in _softmax(logits)]
        if len(self.passed) < IMAGES:
            return
        for c in range(CLASSES):
            sure = [p.max() for p in self.passed if p.argmax() == c and p.max() > self.cutoff]
            if sure:
                self.levels[c] = self.factor * np.mean(sure)
        self.passed = []


RULES = {
    "flexmatch": (
        lambda: FlexMatch(0.7, FlexMatchConfig(), CLASSES, IMAGES, IMAGES - 1),
        lambda: SlowFlexMatch(0.7, True),
    ),
    "flexmatch, no warm-up": (
        lambda: FlexMatch(0.7, FlexMatchConfig(warmup=False), CLASSES, IMAGES, IMAGES - 1),
        lambda: SlowFlexMatch(0.7, False),
    ),
    "freematch": (lambda: FreeMatch(FreeMatchConfig(momentum=0.6), CLASSES), lambda: SlowFreeMatch(0.6)),
    "softmatch": (
        lambda: SoftMatch(SoftMatchConfig(momentum=0.6), CLASSES),
        lambda: SlowSoftMatch(0.6, 2, True),
    ),
    "softmatch, as the paper's equation, not aligned": (
        lambda: SoftMatch(SoftMatchConfig(momentum=0.6, sigmas=1, align=False), CLASSES),
        lambda: SlowSoftMatch(0.6, 1, False),
    ),
    "sst": (lambda: SST(0.7, SSTConfig(0.5, 0.95), CLASSES, IMAGES), lambda: SlowSST(0.7, 0.5, 0.95)),
}


@pytest.mark.parametrize("name", RULES)
def test_weights_follow_the_equations_over_steps(name):
    rule, slow = (make() for make in RULES[name])
    weights = _run(rule, _steps(), slow)
    assert 0.05 < np.mean(weights) < 0.995 and len(set(np.round(weights, 4))) > 1, "some count, some do not"


@pytest.mark.parametrize("name", RULES)
def test_a_restored_state_goes_on_as_if_never_stopped(name):
    make, make_slow = RULES[name]
    rule, slow = make(), make_slow()
    steps = list(_steps())
    _run(rule, steps[:3], slow)
    restored = make()
    restored.load_state_dict(rule.state_dict())
    _run(restored, steps[3:], slow)
    for step in steps[3:]:
        for logits, ids in step:
            rule.observe(_labels(logits, ids))
        rule.update()
    for key, value in rule.state_dict().items():
        assert torch.equal(value, restored.state_dict()[key]), key


@pytest.mark.parametrize("name", RULES)
def test_a_step_in_one_micro_batch_is_the_same_step(name):
    make, _ = RULES[name]
    split, whole = make(), make()
    for step in _steps():
        for logits, ids in step:
            split.observe(_labels(logits, ids))
        split.update()
        whole.observe(_labels(*(np.concatenate(part) for part in zip(*step, strict=True))))
        whole.update()
    for key, value in split.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[key], rtol=1e-6, atol=0)


def test_a_class_that_no_sure_image_has_keeps_its_threshold():
    rule = SST(0.7, SSTConfig(cutoff=0.6, factor=0.5), CLASSES, 3)
    rule.observe(_labels([[9.0, 0, 0, 0], [9.0, 0, 0, 0], [0.1, 0, 0.2, 0]], [0, 1, 2]))
    rule.update()
    assert rule.thresholds().tolist() == pytest.approx([0.5, 0.7, 0.7, 0.7], abs=1e-3)
    assert not rule.found.any(), "another pass begins"


def test_the_fixed_rule_has_no_state():
    rule = Fixed(0.5)
    labels = _labels([[0.0, 0, 0, 0], [9.0, 0, 0, 0]], [0, 1])
    assert rule.weights(labels).tolist() == [0.0, 1.0]
    rule.observe(labels)
    rule.update()
    assert not rule.state_dict() and rule.loss(labels.logits, torch.ones(2, dtype=torch.bool)) is None


def test_freematch_s_fairness_follows_the_equations():
    rule, slow = FreeMatch(FreeMatchConfig(momentum=0.6, fairness=0.3), CLASSES), SlowFreeMatch(0.6)
    _run(rule, _steps(), slow)
    rng = np.random.default_rng(1)
    logits, keep = rng.normal(size=(9, CLASSES)) * 2, rng.random(9) > 0.3
    logits[:, 3] = -5  # a class that nobody predicts
    student = torch.tensor(logits, requires_grad=True)
    loss = rule.loss(student, torch.tensor(keep))

    def slow_loss(logits):
        q = _softmax(logits)
        p_bar = sum(q[b] for b in range(9) if keep[b]) / 9  # equation 9
        h_bar = sum(np.eye(CLASSES)[q[b].argmax()] for b in range(9) if keep[b]) / 9  # equation 10
        present = h_bar > 0
        strong = np.where(present, p_bar / np.where(present, h_bar, 1), 0)
        weak = slow.p / slow.h
        weak, strong = weak / weak.sum(), strong / strong.sum()
        # equation 12, minus the cross-entropy
        return 0.3 * sum(w * np.log(s) for w, s in zip(weak, strong, strict=True) if s > 0)

    assert float(loss.detach()) == pytest.approx(slow_loss(logits), rel=1e-5)
    loss.backward()
    step = 1e-5
    for b, c in ((0, 0), (1, 2), (4, 1), (7, 3)):
        nudge = np.zeros_like(logits)
        nudge[b, c] = step
        slope = (slow_loss(logits + nudge) - slow_loss(logits - nudge)) / (2 * step)
        assert float(student.grad[b, c]) == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_freematch_s_fairness_of_nothing_has_no_gradient():
    rule = FreeMatch(FreeMatchConfig(), CLASSES)
    student = torch.randn(5, CLASSES, requires_grad=True)
    rule.loss(student, torch.zeros(5, dtype=torch.bool)).backward()
    assert student.grad.abs().max() == 0
    assert FreeMatch(FreeMatchConfig(fairness=0.0), CLASSES).loss(student, torch.ones(5) > 0) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FreeMatchConfig(momentum=1.0), "semi.freematch.momentum"),
        (lambda: FreeMatchConfig(fairness=-1.0), "semi.freematch.fairness"),
        (lambda: SoftMatchConfig(momentum=-0.1), "semi.softmatch.momentum"),
        (lambda: SoftMatchConfig(sigmas=0.0), "semi.softmatch.sigmas"),
        (lambda: SSTConfig(cutoff=1.0), "semi.sst.cutoff"),
        (lambda: SSTConfig(factor=0.0), "semi.sst.factor"),
    ],
)
def test_impossible_options_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


class _HostReads(TorchDispatchMode):
    """Notes what copies a number to the host or sizes a result by data: there the host waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique"):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", RULES)
def test_no_rule_waits_for_the_device(name):
    rule = RULES[name][0]()
    labels = _labels(np.random.default_rng(0).normal(size=(BATCH, CLASSES)), np.arange(BATCH))
    with _HostReads() as reads:
        keep = rule.weights(labels) > 0
        rule.observe(labels)
        rule.loss(labels.logits, keep)
        rule.update()
    assert not reads.found
