"""Rounds, ratios, rows and the comparison of result files."""

import json
import time

import pytest
import torch

from benchmarks.harness import harness
from benchmarks.harness.compare import changes
from fastsemi.common.errors import UserError


def _cases(durations, order=None):
    """Cases whose timer answers from a list instead of the clock, after dropping one warm-up round."""

    def case(name, seconds):
        left = iter([99.0, *seconds])

        def timer(run):
            run()
            return next(left)

        return harness.Case(name, lambda: order.append(name) if order is not None else None, 10, timer)

    return [case(name, seconds) for name, seconds in durations.items()]


def _rows(durations, unit="images_per_s"):
    measured = harness.measure(_cases(durations), rounds=len(next(iter(durations.values()))))
    return harness.rows(measured, unit=unit, threads=2, configuration={"batch": 8})


def test_every_round_runs_every_case_once_in_changing_order_and_the_warm_up_is_dropped():
    order = []
    cases = _cases({name: [1, 2, 3, 4, 5, 6] for name in "abc"}, order)
    measured = harness.measure(cases, rounds=6)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert len(rounds) == 7
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 1
    assert [m.seconds for m in measured] == [(1, 2, 3, 4, 5, 6)] * 3


def test_rows_hold_what_a_reader_needs():
    (row,) = _rows({"a": [1.0, 2.0, 4.0, 5.0, 10.0]})
    assert row["name"] == "a"
    assert row["median"] == row["images_per_s"] == 2.5
    assert row["p20"] == pytest.approx(1.8)  # between 10/10 and 10/5 images/s, four fifths of the way
    assert row["p80"] == pytest.approx(6.0)
    assert row["n"] == 5 and row["threads"] == 2 and row["configuration"] == {"batch": 8}
    assert row["versions"]["torch"] == torch.__version__.split("+")[0]
    assert row["hardware"]["cores"] >= 1 and row["hardware"]["cpu"]
    assert "git" in row


def test_ratios_are_formed_inside_a_round():
    # A slow minute hits rounds 2 and 3 of both: the ratio of each round is 2, the medians' ratio is not.
    fast, slow = _rows({"fast": [1, 8, 9, 1, 1], "slow": [2, 16, 18, 2, 2]})
    assert harness.ratio(fast, slow) == {"median": 2, "p20": 2, "p80": 2}
    assert harness.ratio(slow, fast)["median"] == 0.5
    fast, slow = _rows({"fast": [1, 8, 9, 1, 1], "slow": [2, 16, 18, 2, 2]}, "ms")
    assert harness.ratio(fast, slow)["median"] == 2


def test_ratios_of_different_runs_are_refused():
    durations = {"a": [1, 1, 1, 1, 1]}
    with pytest.raises(UserError, match="same rounds"):
        harness.ratio(_rows(durations)[0], _rows(durations)[0])


def test_too_few_rounds_and_equal_names_are_refused():
    with pytest.raises(UserError, match="--rounds 5"):
        harness.measure(_cases({"a": [1]}), rounds=4)
    with pytest.raises(UserError, match="same name"):
        harness.measure(_cases({"a": [1]}) + _cases({"a": [1]}), rounds=5)


@pytest.mark.parametrize("unit", ["images_per_s", "ms"])
def test_compare_tells_slower_from_noise(unit, tmp_path):
    steady, wild = [1.0, 1.01, 1.02, 1.03, 1.04], [0.5, 0.6, 1.3, 1.4, 1.5]
    old = _rows({"slow": steady, "fast": steady, "same": steady, "noise": steady, "gone": steady}, unit)
    twice, half = [2 * s for s in steady], [s / 2 for s in steady]
    new = _rows({"slow": twice, "fast": half, "same": steady, "noise": wild, "new": steady}, unit)
    harness.write(tmp_path / "old.json", old)
    harness.write(tmp_path / "new.json", new)
    found = changes(harness.read(tmp_path / "old.json"), harness.read(tmp_path / "new.json"))
    assert {c["name"]: c["verdict"] for c in found} == {
        name: name + ("er" if name in ("slow", "fast") else "") for name in ("slow", "fast", "same", "noise")
    }
    assert found[0]["change"] == pytest.approx(-0.5)
    assert changes(old, new, threshold=2)[0]["verdict"] == "same"


def test_results_that_cannot_be_compared_are_refused_in_one_line(tmp_path):
    (row,) = _rows({"a": [1, 1, 1, 1, 1]})
    elsewhere = {**row, "hardware": {**row["hardware"], "name": "other"}}
    with pytest.raises(UserError, match="different hardware"):
        changes([row], [elsewhere])
    for other in ({**row, "name": "b"}, {**row, "configuration": {**row["configuration"], "batch": 3}}):
        with pytest.raises(UserError, match="no case of the same settings in common"):
            changes([row], [other])
    measured = {**row, "configuration": {**row["configuration"], "peak_tflops": {"median": 1.5}}}
    assert changes([row], [measured])[0]["verdict"] == "same"
    for text in ("no json", json.dumps({"a": 1}), json.dumps([{"a": 1}])):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match="--json"):
            harness.read(tmp_path / "bad.json")


@pytest.mark.gpu
def test_the_device_timer_measures_the_device():
    small, large = (torch.randn(n, n, device="cuda") for n in (256, 8192))
    timer = harness.DeviceTimer(repeats=5, flush_bytes=1 << 20)
    timer(lambda: large @ large)
    assert timer(lambda: large @ large) > 10 * timer(lambda: small @ small)

    def slow_host():
        time.sleep(0.003)  # before the launch, longer than the first sleep of the device
        small @ small

    assert timer(slow_host) < 0.001


def test_rounds_end_with_the_time_and_what_there_is_is_kept():
    kept = []
    cases = [harness.Case(name, lambda: time.sleep(0.01)) for name in "ab"]
    (first, _) = harness.measure(
        cases, rounds=1000, seconds=0.2, keep=lambda m: kept.append(len(m[0].seconds))
    )
    assert kept == list(range(1, len(first.seconds) + 1)) and 1 <= kept[-1] < 1000
    (first, _) = harness.measure(cases, rounds=5, seconds=1e-9)
    assert len(first.seconds) == 1, "one round in any case"
