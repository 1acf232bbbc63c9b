"""What profiling costs: steps are recorded in turn, and spans that cost too much are noticed."""

import json
import time

import pytest
import torch

from benchmarks.harness import result_tables
from benchmarks.step import profile_overhead
from fastsemi.common.spans import record, recording


def _steps(recorder, seconds):
    with recording(recorder):
        while True:
            with record("step"):
                before = len(recorder._marks)
                with record("student"):
                    pass
                if len(recorder._marks) > before:  # it is being recorded
                    time.sleep(seconds)
                time.sleep(0.002)


def test_blocks_are_recorded_in_pairs_and_a_cost_is_found():
    recorder = profile_overhead.Alternating(torch.device("cpu"), pairs=20, steps=2, warmup=3)
    _steps(recorder, 0.01)
    blocks = recorder.blocks
    assert len(blocks) == 40
    assert all({a[0], b[0]} == {True, False} for a, b in zip(blocks[::2], blocks[1::2], strict=True))
    assert recorder.spans_per_step() == 2
    on, off = (sorted(b[1] for b in blocks if b[0] is kind) for kind in (True, False))
    assert on[10] > off[10] + 0.015  # two steps of 10 ms more


def test_the_middle_lies_in_its_interval():
    values = [float(x) for x in range(100)]
    found = profile_overhead.middle(values)
    assert found == {"median": 49.5, "low": 40.0, "high": 60.0}
    assert profile_overhead.middle([1.0] * 5) == {"median": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.slow
def test_the_cost_of_a_profile_is_below_two_percent(tmp_path, capsys):
    out = tmp_path / "rows.json"
    options = ["--model", "tiny", "--count", "48", "--pairs", "5", "--steps", "2", "--json", str(out)]
    rows = profile_overhead.run(options)
    assert json.loads(out.read_text()) == json.loads(json.dumps(rows))
    assert [row["n"] for row in rows] == [5] * 4
    for row in rows[2:]:
        assert row["overhead"]["low"] <= row["overhead"]["median"] <= row["overhead"]["high"]
    assert 10 < rows[2]["spans"] < 100
    assert 0 < rows[2]["counted"] < profile_overhead.LIMIT  # of the smallest step there is
    assert result_tables.profile_overhead(rows) in capsys.readouterr().out


def test_wrong_options(capsys):
    with pytest.raises(profile_overhead.UserError, match="--pairs 5 or more"):
        profile_overhead.run(["--pairs", "2"])
