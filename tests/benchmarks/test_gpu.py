"""The GPU suite: one bad part costs no other, what cannot run is named, and all of it works on a CPU."""

import json
import re
import subprocess
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu import lists, suite, winner
from benchmarks.gpu.lists import Part
from benchmarks.gpu.parts import PartialError, SkipError, judge
from benchmarks.harness import photo_sources, photos

ROOT = Path(__file__).parents[2]
SLEEP = ("timeit", "-n", "1", "-r", "1", "import time; time.sleep(250)")
CHECK = "import os; assert os.environ['MINE'] == '1'"


def test_a_part_that_fails_hangs_or_cannot_run_costs_no_other(tmp_path, capsys):
    parts = [
        Part("broken", ("benchmarks.nothing",), 60),
        Part("hangs", SLEEP, 5.2),
        Part("lacks", ("benchmarks.nothing",), 60, needs=("no_such_module",)),
        Part("cards", ("benchmarks.nothing",), 60, gpu=True),
        Part("fine", ("timeit", "-n", "1", "-r", "1", "-s", CHECK, "pass"), 40, variables=(("MINE", "1"),)),
    ]
    out, archive = tmp_path / "out", tmp_path / "all.tar.gz"
    outcomes = suite.run(parts, out, 100, "a title", gpu=False, archive=archive)
    assert [(o.name, o.status) for o in outcomes] == [
        ("broken", "failed"),
        ("hangs", "timeout"),
        ("lacks", "skipped"),
        ("cards", "skipped"),
        ("fine", "ok"),
        ("plots", "ok"),
    ]
    assert "benchmarks.nothing" in outcomes[0].reason and outcomes[0].tail
    assert outcomes[2].reason == "not installed: no_such_module" and outcomes[3].reason == "no CUDA GPU"
    assert [o["status"] for o in json.loads((out / "suite.json").read_text())][1] == "timeout"
    assert re.search(r"\| hangs \| timeout \| \d+ \| stopped after 5 s \|", (out / "README.md").read_text())
    assert "skipped" in capsys.readouterr().out
    suite.run([parts[2]], out, 100, "a title", gpu=False, archive=archive)  # a further call
    with tarfile.open(archive) as tar:
        file = tar.extractfile("out/suite.json")
        assert file and [row["name"] for row in json.load(file)] == [
            *("broken", "hangs", "cards", "fine", "lacks", "plots")
        ]
        assert "out/logs/hangs.log" in tar.getnames()


def test_results_are_written_after_each_part_and_time_is_shared(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(suite, "write", lambda out, outcomes, title: seen.append(len(outcomes)))
    parts = [Part("fine", ("timeit", "-n", "1", "-r", "1", "pass"), 60) for _ in range(2)]
    outcomes = suite.run(parts, tmp_path, 4, "a title", gpu=False)
    assert seen == [1, 2, 3]
    assert [o.reason for o in outcomes[:2]] == ["no time was left"] * 2


def test_a_suite_that_is_stopped_keeps_what_its_part_has_measured(tmp_path, monkeypatch):
    def part(part, out, seconds, gpu):
        (out / f"{part.name}.txt").write_text("a round")
        if part.name == "second":
            raise SystemExit(143)  # as of SIGTERM
        return suite.Outcome(part.name, "ok", "", 1.0)

    monkeypatch.setattr(suite, "run_part", part)
    parts, archive = [Part(name, (), 60) for name in ("first", "second", "third")], tmp_path / "all.tar.gz"
    with pytest.raises(SystemExit):
        suite.run(parts, tmp_path / "out", 100, "a title", gpu=False, archive=archive)
    with tarfile.open(archive) as tar:
        assert {"out/first.txt", "out/second.txt", "out/suite.json"} <= {*tar.getnames()}
    assert [o.name for o in suite._before(tmp_path / "out")] == ["first"]


def test_a_result_that_makes_no_table_is_named(tmp_path):
    (tmp_path / "peaks.json").write_text('[{"samples": [1]}]')
    (tmp_path / "kernels.json").write_text("{")
    suite.write(tmp_path, [], "a title")
    text = (tmp_path / "README.md").read_text()
    assert "peaks.json makes no table" in text and "kernels.json makes no table" in text


def test_the_calls_fit_their_time():
    calls = lists.calls()
    assert sum(call.seconds for call in calls.values()) <= 24 * 60
    rows = re.findall(r"suite (\w+) --out .* \| (\d+) \|", (ROOT / "gpu/README.md").read_text())
    limits = {name: int(limit) for name, limit in rows}
    assert list(limits) == list(calls) and sum(limits.values()) < 27 * 60
    assert all(limits[name] >= call.seconds + 30 for name, call in calls.items())
    assert lists.QUICK_SECONDS < 3 * 60
    for call in (*calls.values(), lists.quick()):
        assert call.seconds <= 590  # `run` stops a part that would pass it
        assert sum(part.seconds for part in call.parts) < 2.5 * call.seconds
    for parts in ([part for call in calls.values() for part in call.parts], lists.quick().parts):
        names = [part.name for part in parts]
        assert len(set(names)) == len(names)
        for part in parts:
            assert (ROOT / (part.command[0].replace(".", "/") + ".py")).exists()


def test_the_winner_is_the_fastest_engine_on_files():
    rows = [
        {"label": "DALI stock, GPU", "median": 9.0},
        {"label": "fastsemi native, raw .beton", "median": 8.0},
        {"label": "fastsemi dali, hw_load 0.35", "median": 5.0},
        {"label": "fastsemi native", "median": 4.0},
    ]
    assert winner.options(rows) == ["--engine", "dali", "--hw_load", "0.35"]
    assert winner.options(rows[3:]) == ["--engine", "native"] and winner.options(rows[:2]) == []


def test_without_a_gpu_the_suite_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(suite, "_where", lambda: ("here", False))
    assert suite.main([]) == 2
    assert "no CUDA GPU; use --tiny" in (text := capsys.readouterr().err) and text.count("\n") == 1
    assert suite.main(["--tiny", "--only", "nothing"]) == 2
    assert "is no part; use" in capsys.readouterr().err
    assert suite.main(["--tiny", "nothing"]) == 2
    assert "is no call; use correctness, steps" in capsys.readouterr().err


def _report(*cases):
    inside = {
        "pass": "",
        "skip": "<skipped message='needs Apex'/>",
        "fail": '<failure message="wrong">E</failure>',
        "lack": "<error message='in setup'>No module named &apos;jsonargparse&apos;</error>",
    }
    text = "".join(f'<testcase classname="m" name="{i}">{inside[c]}</testcase>' for i, c in enumerate(cases))
    return ElementTree.fromstring(f"<testsuites><testsuite>{text}</testsuite></testsuites>")


def test_reports_of_tests_are_judged():
    assert judge(_report("pass", "pass"), {"jsonargparse"}) == "2 tests passed"
    with pytest.raises(
        PartialError, match=r"2 tests passed, left out: m \(no jsonargparse\), m \(needs Apex\)"
    ):
        judge(_report("pass", "lack", "pass", "skip", "skip"), {"jsonargparse"})
    with pytest.raises(RuntimeError, match=r"1 tests failed, 1 passed: m\.1"):
        judge(_report("pass", "fail"), {"jsonargparse"})
    with pytest.raises(RuntimeError, match="failed"):  # it is installed: something else is wrong
        judge(_report("pass", "lack"), set())
    with pytest.raises(SkipError, match="no test could run"):
        judge(_report("skip"), set())


def test_computed_pictures_stand_in_for_photographs(tmp_path, monkeypatch):
    def none():
        raise photos.UserError("no photographs")

    monkeypatch.setattr(photos, "find_photos", none)
    files, what = photos.jpegs(tmp_path, 4)
    assert len(files) == 4 and "computed" in what
    assert photos.jpegs(tmp_path, 4) == (files, what)
    # neither flat nor noise: neighbours are alike
    pixels = np.asarray(photo_sources.computed_picture(200, 150, 0), dtype=float)
    assert pixels.std() > 30
    assert np.abs(np.diff(pixels, axis=0)).mean() < 0.5 * pixels.std()


@pytest.mark.slow
@pytest.mark.timeout(930)
def test_the_whole_suite_runs_on_a_cpu(tmp_path, monkeypatch, fork):
    monkeypatch.setattr(suite, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": fork}))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    code = suite.main(["--tiny", "--out", str(tmp_path / "out")])
    outcomes = json.loads((tmp_path / "out" / "suite.json").read_text())
    assert code == 0, outcomes
    assert [o["name"] for o in outcomes] == [part.name for part in lists.tiny().parts] + ["plots"]
    for o in outcomes:
        assert o["status"] == "ok" or (o["status"] == "skipped" and o["reason"]), o
    ran = {o["name"] for o in outcomes if o["status"] == "ok"}
    assert {"environment", "peaks", "steps tiny", "kernels", "waits", "end to end", "profile overhead"} <= ran
    text = (tmp_path / "out" / "README.md").read_text()
    assert "mix triton" in text and "fastsemi, 35 % rejected" in text and "| copy |" in text
    assert "chosen by loaders.json: --engine " in text or any("native" in o["reason"] for o in outcomes)
    names = ("peaks", "steps", "kernels", "loaders", "end_to_end", "longest_no", "environment")
    for name in (*names, "profile_overhead"):
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text())
