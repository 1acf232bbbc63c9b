"""Accuracy over CPU seconds: the clock, the curves, the table, and what stands around semilearn."""

import importlib.util
import json
import math
import multiprocessing
import statistics
import sys
import time

import pytest
import timm
import torch

from benchmarks.accuracy import (
    curve_plot,
    evaluations,
    fastsemi_curve,
    peer_plain,
    peer_semilearn,
    time_to_accuracy,
)
from benchmarks.accuracy.cpu_clock import CpuClock
from benchmarks.harness import curves
from benchmarks.harness.curves import Curve, Point
from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data

installed = importlib.util.find_spec("semilearn") is not None


def _curve(method, seed, *points, **settings):
    """A curve of points (seconds, top-1 by network)."""
    return Curve("digits", method, seed, settings, points[-1][0], 7, [Point(*point) for point in points])


def _peer(seed, last, lr=0.03):
    settings = {"lr": lr, "batch": 8, "ema": 0.9, "budget": 20.0}
    return _curve("fixmatch", seed, (9.0, {"network": 50.0, "ema": 10.0}), (20.0, last), **settings)


@pytest.fixture
def measured():
    return [
        _curve("fastsemi", 0, (4.0, {"model": 80.0}), (16.0, {"student": 90.0, "teacher": 96.0})),
        _curve("fastsemi", 1, (5.0, {"model": 90.0}), (16.0, {"student": 90.0, "teacher": 98.0})),
        _curve("fastsemi", 2, (5.0, {"model": 1.0})),
        _curve("fastsemi", 11, (5.0, {"model": 1.0})),
        _peer(0, {"network": 92.0, "ema": 11.0}),
        _peer(1, {"network": 95.0, "ema": 13.0}),
        _peer(10, {"network": 33.0, "ema": 22.0}, lr=0.1),
    ]


def test_pauses_do_not_count(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("benchmarks.accuracy.cpu_clock.time.process_time", lambda: now[0])
    monkeypatch.setattr("benchmarks.accuracy.cpu_clock._workers", lambda: 0.0)
    clock = CpuClock()
    now[0] += 3
    with clock.paused():
        now[0] += 50
    now[0] += 1
    with pytest.raises(KeyError), clock.paused():
        now[0] += 7
        raise KeyError
    assert clock.seconds == pytest.approx(4)


def test_workers_count_while_they_live_and_after():
    clock = CpuClock()
    release = multiprocessing.Event()
    worker = multiprocessing.get_context("fork").Process(target=_compute, args=(0.3, release))
    worker.start()
    deadline = time.monotonic() + 60
    while (alive := clock.seconds) < 0.25 and time.monotonic() < deadline:
        time.sleep(0.01)
    release.set()
    worker.join()
    assert 0.25 <= alive <= clock.seconds


def _compute(seconds, release):
    while time.process_time() < seconds:
        pass
    release.wait(60)


def test_curves_are_added_and_read_back(tmp_path, measured):
    path = tmp_path / "here" / "digits.json"
    assert curves.read(path) == []
    for curve in (*measured, measured[0]):
        curves.add(path, curve, {"hardware": "toy"})
    assert sorted(curves.read(path), key=str) == sorted(measured, key=str)
    assert json.loads(path.read_text())["environment"] == {"hardware": "toy"}


def test_series_are_of_the_seeds_that_all_have_and_no_trials(measured):
    found = curves.series(measured)
    assert [line.label for line in found] == [
        "fastsemi, teacher",
        "semilearn FixMatch, network",
        "semilearn FixMatch, moving average",
    ]
    assert all(sorted(line.curves) == [0, 1] for line in found)
    ours = found[0]
    assert math.isnan(ours.at(4.5)[1]) and ours.at(4.5)[0] == 80.0
    assert ours.at(15.9) == [80.0, 90.0], "the fine-tuned network, until there is a teacher"
    assert ours.at(math.inf) == [96.0, 98.0]
    assert curves.series(measured[2:5]) == [], "no seed of both"
    other = [_peer(seed, {"network": 1.0, "ema": 2.0}, lr=0.1) for seed in (0, 1)]
    labels = [line.label for line in curves.series([*measured, *other])]
    assert "semilearn FixMatch, network (8 labels a step, rate 0.1, average 0.9, 20 s)" in labels
    assert "semilearn FixMatch, network (8 labels a step, rate 0.03, average 0.9, 20 s)" in labels


def test_table_has_means_and_deviations(measured):
    text = curves.table(measured, {0: 94.0, 1: 95.0, 2: 0.0}, (10, 17))
    assert text.startswith("Seeds 0, 1;")
    rows = {row.split(" | ")[0].strip("| "): row for row in text.splitlines() if row.startswith("|")}
    deviation = statistics.stdev([92, 95])
    assert "| 85.0 ± 7.1 | 97.0 ± 1.4 | 97.0 ± 1.4 |  | 16 | 7 |" in rows["fastsemi, teacher"]
    peer = rows["semilearn FixMatch, network"]
    assert f"| 50.0 ± 0.0 | 50.0 ± 0.0 | 93.5 ± {deviation:.1f} | +3.5 ± 0.7 | 20 | 7 |" in peer
    assert "| 94.5 ± 0.7 | +2.5 ± 0.7 | | |" in rows["label spreading on pixels"]
    assert curves.table([], {}, (10,)) == "Not measured yet."
    assert curves.trials(measured).splitlines()[2:] == [
        "| fixmatch | 8 | 0.1 | 0.9 | 20 | 7 | 10 | 33.0 | 22.0 |"
    ]


def test_times_are_those_of_the_first_evaluation_there(measured):
    path = [(5.0, 80.0), (9.0, 91.0), (14.0, 88.0)]
    assert [curves.seconds_to(path, level) for level in (80, 90, 92)] == [5.0, 9.0, math.inf]
    rows = {
        row.split(" | ")[0].strip("| "): row
        for row in curves.times(measured, {0: 94.0, 1: 97.5}, (90, 97)).splitlines()
    }
    assert rows[""] == "| | 90 % | 97 % | label spreading | 1 point above it |"
    assert rows["fastsemi, teacher"].endswith("| 10 (5 to 16) | in 1 of 2 | 16 (16 to 16) | in 1 of 2 |")
    assert rows["semilearn FixMatch, moving average"].endswith("| never | never | never | never |")
    assert curves.times([], {}, (90,)) == "Not measured yet."


def test_band_and_plot(tmp_path, measured):
    ours = curves.series(measured)[0]
    seconds, mean, low, high = curve_plot.band(ours, 20.0)
    assert seconds[0] == 5.0 and seconds[-1] == 20.0, "from where both seeds are known"
    assert (mean[0], low[0], high[0]) == (85.0, 80.0, 90.0)
    assert (mean[-1], low[-1], high[-1]) == (97.0, 96.0, 98.0)
    paths = curve_plot.draw(measured, {0: 94.0}, tmp_path, "digits_semilearn")
    assert [path.name for path in paths] == ["digits_semilearn.png", "digits_semilearn.svg"]
    assert "label spreading" in paths[1].read_text() and paths[0].stat().st_size > 10_000
    assert curve_plot.draw(measured[2:5], {}, tmp_path / "none", "x") == [], "no seed of both"


def test_fastsemi_curve_is_that_of_its_metrics(tiny):
    config = tiny("--stages", "[finetune, semi]", "--semi.eval_every", "4 steps", "--train.select", "last")
    curve = fastsemi_curve.train(config, "shapes")
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    judged = [row for row in rows if any("top1" in key for key in row)]
    assert [set(point.top1) for point in curve.points] == [{"model"}] * 2 + [{"student", "teacher"}] * 2
    ours = [top1 for _, top1 in curve.path("teacher", "model")]
    assert ours == [row.get("teacher_top1", row.get("top1")) for row in judged]
    seconds = [point.seconds for point in curve.points]
    assert 0 < seconds[0] and seconds == sorted(seconds) and seconds[-1] <= curve.seconds
    assert curve.steps == 16


def test_recipe_has_the_labels_of_the_seed_and_one_thread(tmp_path, shapes):
    preset = time_to_accuracy.ROOT / "configs" / "demo" / "digits.yaml"
    config = time_to_accuracy.configure(preset, shapes, 3, tmp_path)
    assert (config.seed, config.data.labels.seed, config.loader.threads) == (3, 3, 1)
    assert (config.train.baseline, config.train.select) == ("none", "last")


def test_what_has_been_measured_is_not_run_again(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    curves.add(out, _peer(4, {"network": 1.0, "ema": 1.0}), {})
    before = out.read_bytes()
    words = f"x {tmp_path} --seeds 4 --methods fixmatch --batch 8 --ema 0.9 --seconds 20 --out {out}".split()
    monkeypatch.setattr(sys, "argv", words)
    assert time_to_accuracy.main() == 0
    assert out.read_bytes() == before


def test_rate_follows_the_cosine_of_fixmatch():
    assert evaluations.learning_rate(0, 60) == 1
    assert evaluations.learning_rate(30, 60) == pytest.approx(math.cos(7 / 32 * math.pi))
    assert evaluations.learning_rate(61, 60) == pytest.approx(math.cos(7 / 16 * math.pi))


def test_outputs_are_those_of_the_network():
    net = timm.create_model("resnet18", num_classes=3, layers=[1, 1, 1, 1], channels=[8, 8, 8, 16]).eval()
    images = torch.randn(2, 3, 32, 32)
    found = peer_semilearn.Outputs(net)(images)
    torch.testing.assert_close(found["logits"], net(images))
    assert found["feat"].shape == (2, 16)


def test_fixmatch_is_its_equations():
    """Images labelled surely count by their pseudo label, others not; the labels come without a gradient."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images, weak, strong = (torch.randn(n, 3, 2, 2) for n in (2, 6, 6))
    weak[:3] *= 40
    labels = torch.tensor([0, 2])
    shares = network(weak).softmax(1).detach()
    sure = [i for i in range(6) if shares[i].max() >= 0.95]
    assert 0 < len(sure) < 6
    picked = network(strong).log_softmax(1)
    expected = -network(images).log_softmax(1)[range(2), labels].mean()
    expected = expected - sum(picked[i, shares[i].argmax()] for i in sure) / 6
    loss = peer_plain.fixmatch(network, images, labels, weak, strong)
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(
        *(torch.autograd.grad(x, network.parameters()) for x in (loss, expected)), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_plain_fixmatch_trains_on_our_labels(tiny, monkeypatch):
    config = tiny("--model.name", "resnet18", "--model.args", '{"layers": [1, 1, 1, 1]}')
    seen = []
    pictures = peer_plain.Pictures
    monkeypatch.setattr(peer_plain, "Pictures", lambda *a: seen.append(pictures(*a)) or seen[-1])
    curve = peer_plain.train(config, "shapes", budget=0.5, every=0.2, lr=0.03, batch=4, ema=0.9)
    assert 1 <= curve.steps and curve.points[-1].seconds == curve.seconds >= 0.5
    assert all(set(point.top1) == {"ema", "network"} for point in curve.points)
    assert curve.settings == {"lr": 0.03, "batch": 4, "ema": 0.9, "budget": 0.5}
    labelled, everything = seen
    assert len(labelled) == 12 and len(everything) == 120
    weak, strong, _ = everything[0]
    assert weak.shape == strong.shape == (3, 16, 16) and not torch.equal(weak, strong)


@pytest.mark.skipif(installed, reason="semilearn is installed")
def test_without_semilearn_one_line_says_how_to_get_it(tiny, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="semilearn is not installed; pip install"):
        peer_semilearn.train(tiny(), "shapes", "fixmatch", budget=1, every=1, settings={})
    words = f"x {tmp_path} --methods freematch --out {tmp_path / 'out.json'}".split()
    monkeypatch.setattr(sys, "argv", words)
    assert time_to_accuracy.main() == 2
    assert "semilearn is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.skipif(not installed, reason="semilearn is not installed")
@pytest.mark.parametrize("method", peer_semilearn.METHODS)
def test_semilearn_trains_on_our_labels(tiny, method, monkeypatch):
    config = tiny("--model.name", "resnet18", "--model.args", '{"layers": [1, 1, 1, 1]}')
    seen = []
    datasets = peer_semilearn._datasets
    monkeypatch.setattr(peer_semilearn, "_datasets", lambda *a: seen.append(datasets(*a)) or seen[-1])
    settings = {"batch_size": 4, "uratio": 2}
    curve = peer_semilearn.train(config, "shapes", method, budget=0.5, every=0.2, settings=settings)
    assert 1 <= curve.steps and curve.points[-1].seconds == curve.seconds >= 0.5
    assert all(set(point.top1) == {"ema", "network"} for point in curve.points)
    data = Data(config.data, config.loader)
    labelled = data.labelled
    assert seen[0]["train_lb"].targets == labelled.index.labels[labelled.ids].tolist()
    assert len(seen[0]["train_lb"]) == 12 and len(seen[0]["train_ulb"]) == 120
    data.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--batch 0", "0 is below one"),
        ("--lr nan", "nan is not above zero"),
        ("--ema 1", "1 is not in [0, 1)"),
        ("--methods fixmatch,mixmatch", "unknown mixmatch"),
        ("--seeds one", "invalid _seeds value"),
    ],
)
def test_impossible_options_are_refused(words, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", f"x data {words}".split())
    with pytest.raises(SystemExit):
        time_to_accuracy.main()
    assert told in capsys.readouterr().err
