"""Spans, and profiles of real jobs whose bottleneck is known."""

import io
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import fastsemi.loaders.data
import fastsemi.tools.profile.profile as profiling
from fastsemi.commands.cli import main
from fastsemi.common import spans
from fastsemi.common.progress import Progress
from fastsemi.common.spans import Recorder, record, recording
from fastsemi.loaders.engines import native_operator
from fastsemi.run.folder import RunFolder
from fastsemi.run.run import Run
from fastsemi.tools.profile.job import ProfiledStage, Timing
from fastsemi.tools.profile.output import show
from fastsemi.tools.profile.profile import Profile, profile, typical
from fastsemi.tools.profile.verdict import Figures, judge


def test_time_counts_for_the_innermost_span_after_warm_up(monkeypatch):
    now = 0.0

    def spend(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(spans, "time", SimpleNamespace(perf_counter=lambda: now))
    recorder = Recorder(torch.device("cpu"), steps=2, warmup=1)
    steps = 0
    with recording(recorder):
        while True:
            with record("step"):
                with record("loss"):
                    spend(0.3 if steps == 0 else 0.02)
                    with record("teacher"):
                        spend(0.05)
                steps += 1
            spend(0.01)
    assert steps == 3  # and the loop was left without a sign of its own
    found = recorder.per_step()
    assert (found["teacher"], found["loss"]) == (pytest.approx(0.05), pytest.approx(0.02))  # not of the first
    assert sum(found.values()) == pytest.approx(recorder.seconds / 2)
    assert found["log"] == pytest.approx(0.01 / 2)  # between the two


def test_spans_of_other_threads_are_apart():
    recorder = Recorder(torch.device("cpu"), steps=1, warmup=0)

    def read():
        with record("read"):
            time.sleep(0.05)

    with recording(recorder), record("step"):
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert recorder.per_step_elsewhere()["read"] >= 0.1
    assert "read" not in recorder.per_step()


def test_without_a_recorder_spans_do_nothing():
    assert record("teacher") is record("student")


class SlowDisk:
    """A source whose every read takes its time."""

    turns = None

    def __init__(self, source, seconds):
        self._source, self._seconds, self.index = source, seconds, source.index

    def __len__(self):
        return len(self._source)

    def expect(self, ids):
        return None

    def read(self, ids):
        return [self.read_one(int(i)) for i in ids]

    def read_one(self, i):
        time.sleep(self._seconds)
        return self._source.read_one(i)

    def name(self, i):
        return self._source.name(i)

    def size(self, i):
        return self._source.size(i)

    @property
    def sizes(self):
        return self._source.sizes

    @property
    def is_raw(self):
        return self._source.is_raw


@pytest.fixture
def short(monkeypatch):
    """Each part is measured in short rounds."""
    monkeypatch.setattr(profiling, "_LEAST", 0.1)
    monkeypatch.setattr(profiling, "_MOST", 0.7)


@pytest.mark.slow
def test_a_slow_disk_is_found(tiny, monkeypatch, short):
    real = fastsemi.loaders.data.open_source
    monkeypatch.setattr(fastsemi.loaders.data, "open_source", lambda *a, **k: SlowDisk(real(*a, **k), 0.08))
    few = ("--finetune.batch", "6", "--loader.prefetch", "2")
    result = profile(tiny(*few), "finetune", steps=6, warmup=1)
    assert result.verdict.bound == "loader"
    assert "because reading gives" in result.verdict.text
    assert "loader.threads" in result.verdict.advice[0].what
    assert result.verdict.advice[0].images_per_s > 1.3 * result.figures.job
    assert result.figures.wait > 0.5
    assert result.job.threads["read"] > 10 * result.job.threads["resize"]


@pytest.mark.slow
def test_without_the_operator_the_threads_that_decode_also_read(tiny, monkeypatch, short):
    monkeypatch.setattr(native_operator, "available", lambda: "the native operator was not built; build it")
    result = profile(tiny(), "finetune", steps=3, warmup=0)
    assert result.engine == "thread_pool"
    assert (result.figures.readers, result.figures.shared_threads) == (2, True)
    assert result.figures.decode_share is not None  # its threads tell what they do


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no second thread to advise")
def test_too_few_threads_are_found(tiny, photo, tmp_path, short):
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            photo(2600, 2000, seed=ord(name)).save(folder / "0.jpg", quality=95)
            for i in range(1, 12):
                shutil.copy(folder / "0.jpg", folder / f"{i}.jpg")
    options = ["--data.root", str(tmp_path / "photos"), "--loader.threads", "1", "--loader.prefetch", "2"]
    config = tiny(*options, "--data.labels.per_class", "8", "--finetune.batch", "6")
    result = profile(config, "finetune", steps=6, warmup=1)
    assert result.verdict.bound == "loader"
    assert "because reading" not in result.verdict.text
    cores = len(os.sched_getaffinity(0))
    (advice,) = (a for a in result.verdict.advice if a.what.startswith("loader.threads"))
    assert 1 < int(advice.what.split()[1]) <= cores
    assert advice.images_per_s > 1.1 * result.figures.job  # twice, were the cores free


@pytest.mark.slow
def test_a_heavy_network_is_found(tiny, short):
    args = ["--model.args.patch_size", "2", "--model.args.embed_dim", "256", "--model.args.depth", "3"]
    result = profile(tiny(*args, "--finetune.batch", "6"), "finetune", steps=3, warmup=1)
    assert result.verdict.bound == "compute"
    assert result.figures.wait < 0.2
    assert "backward" in result.verdict.text
    spans = result.job.spans
    assert spans["backward"] + spans["student"] > 0.6 * result.job.wall


@pytest.mark.slow
def test_the_command_leaves_the_run_as_it_was(tiny, tmp_path, capsys, short):
    config = tiny("--stages", "[finetune, semi]")
    Run(config, Progress(Console(quiet=True))).train(["finetune"])
    before = {path: path.stat().st_mtime_ns for path in config.output.rglob("*") if path.is_file()}
    trace = tmp_path / "trace.json"
    arguments = [
        "--config",
        str(tmp_path / "tiny.yaml"),
        "--stages",
        "[finetune, semi]",
        "--trace",
        str(trace),
    ]
    assert main(["profile", *arguments, "--steps", "3", "--warmup", "1"]) == 0
    after = {path: path.stat().st_mtime_ns for path in config.output.rglob("*") if path.is_file()}
    assert {path.name for path in after.keys() - before.keys()} == {"profile.json", "profile.png"}
    assert all(after[path] == before[path] for path in before)
    found = json.loads((config.output / "profile.json").read_text())
    assert not found["untrained"]
    spans = {"wait", "copy", "augment", "teacher", "mix", "student", "backward", "optimizer", "ema"}
    assert spans <= found["job"]["spans"].keys()
    assert {"plan", "decode", "resize"} <= found["job"]["threads"].keys()
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert spans <= names
    printed = capsys.readouterr().out
    assert found["verdict"]["text"].split(":")[0] in printed


@pytest.mark.slow
def test_pretraining_and_an_untrained_teacher_can_be_profiled(tiny, short):
    result = profile(tiny(), "pretrain", steps=2, warmup=0)
    assert result.job.spans["student"] > 0 and "teacher" not in result.job.spans
    assert profile(tiny(), "semi", steps=2, warmup=0).untrained


def test_a_profile_leaves_no_labels_to_a_run(tiny, tmp_path):
    """Those that label spreading finds on a random network are not the run's."""
    config = tiny("--finetune.spread_ratio", "1")
    job = ProfiledStage(config, "finetune", tmp_path / "logs")
    job.close()
    assert "spread" in job.roles and not RunFolder(config.output).spread_labels.exists()


def test_wrong_options(tiny, tmp_path, capsys):
    tiny()
    assert main(["profile", "--config", str(tmp_path / "tiny.yaml"), "--steps", "0"]) == 2
    assert "--steps is 0" in capsys.readouterr().err


def test_the_round_of_median_length_stands_for_all():
    rounds = [Timing(10, wall, {"student": wall / 2}, {"decode": 2.0}) for wall in (3.0, 1.0, 1.1)]
    found = typical(rounds)
    assert (found.steps, found.wall, found.spans) == (30, 1.1, {"student": 0.55})
    assert found.threads == {"decode": pytest.approx(6 / 5.1 * 1.1)}  # loader threads work ahead of a round


def _shown(result):
    console = Console(width=80, record=True, file=io.StringIO())
    show(result, console)
    return console.export_text()


def test_a_report_fits_80_columns_and_owns_up_to_disturbance():
    timing = Timing(30, 15.3, {"wait": 0.01, "student": 9.4, "backward": 5.1, "step": 0.7, "log": 0.09}, {})
    timing.threads.update(plan=0.005, read=0.09, decode=1.02, resize=0.4, copy=0.001)
    figures = Figures(
        **{"job": 1.3, "step": 1.3, "loader": 12345.6, "decode": 20_000, "read": 3_000_000},
        **{"threads": 8, "cores": 16, "readers": 8, "shared_threads": True, "prefetch": 4, "on_gpu": False},
        spans=timing.spans,
    )
    parts = ("semi", 20, timing, timing, figures, judge(figures), "native", "cpu", False)
    text = _shown(Profile(*parts))
    tables = [line for line in text.splitlines() if line[:1] in "┏┃┡│├└"]
    assert max(map(len, tables)) <= 80 and "…" not in text
    assert "15,300" in text and "3,000,000" in text and "1.30 images/s at most" in text
    assert "disturbed" not in text
    slow = replace(timing, wall=20.0)
    assert "disturbed" in _shown(replace(Profile(*parts), step=slow))
