import itertools
import math

import pytest

from fastsemi.common.schedule import CosineSchedule, Duration


def test_warm_up_is_linear_and_ends_at_the_peak():
    schedule = CosineSchedule(1.0, 0.1, 10, 100)
    lrs = [schedule.lr(step) for step in range(100)]
    assert lrs[:10] == pytest.approx([0.1 + 0.09 * (step + 1) for step in range(10)])
    assert max(lrs) == lrs[9] == lrs[10] == pytest.approx(1.0)
    assert lrs[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(lrs[10:]))


def test_cosine_shape():
    schedule = CosineSchedule(2.0, 0.0, 0, 101)
    assert schedule.lr(50) == pytest.approx(1.0)
    assert schedule.lr(25) == pytest.approx(1 + math.cos(math.pi / 4))


def test_one_step_without_warm_up():
    assert CosineSchedule(1.0, 0.0, 0, 1).lr(0) == 1.0


@pytest.mark.parametrize("text", ["2500000 steps", "0.123456789 epochs", "1 epochs"])
def test_a_duration_reads_what_it_writes(text):
    assert str(Duration(text)) == text and Duration(str(Duration(text))).value == Duration(text).value


def test_rates_due_at_the_start_of_steps():
    """k / W of the peak from 0 on, then half a cosine over all steps that are left."""
    schedule = CosineSchedule(2e-3, 1e-6, 8, 80, at_start=True)
    assert [schedule.lr(k) for k in (0, 1, 4)] == [0.0, 2.5e-4, 1e-3]
    assert schedule.lr(8) == 2e-3 and schedule.lr(32) == pytest.approx(1e-6 + 1.999e-3 * 0.75)
    assert 1e-6 < schedule.lr(79) < 2e-6 and schedule.lr(80) == 1e-6
    assert CosineSchedule(1.0, 0.1, 0, 1, at_start=True).lr(0) == 1.0
