"""The search for loader settings, on made-up rates and on a real loader."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

from fastsemi.commands.cli import main
from fastsemi.commands.tune import seconds
from fastsemi.loaders.engines import native_operator
from fastsemi.loaders.engines.choose import resolve
from fastsemi.loaders.settings import LoaderConfig
from fastsemi.run.config import load
from fastsemi.tools.profile.search import search
from fastsemi.tools.profile.tuning import Bench, table_rows, to_yaml

DEFAULT = LoaderConfig(threads=2)
CHANGES = [
    [lambda c, n=n: replace(c, threads=n) for n in (1, 4, 8, 16)],
    [lambda c, n=n: replace(c, prefetch=n) for n in (2, 8)],
]


class Machine:
    """Rates with noise, and a clock that measurements move on."""

    def __init__(self, rate, noise=0.0):
        self.now, self._rate, self._noise = 0.0, rate, noise
        self._random = np.random.default_rng(0)

    def measure(self, loader, seconds):
        self.now += seconds
        return self._rate(loader) * (1 + self._noise * self._random.standard_normal())

    def clock(self):
        return self.now


def _search(machine, budget=60.0):
    return search(DEFAULT, CHANGES, machine.measure, budget, clock=machine.clock)


def test_the_fastest_settings_are_found():
    machine = Machine(lambda c: 100 * min(c.threads, 8) - 10 * c.threads + 50 * c.prefetch, noise=0.02)
    result = _search(machine)
    assert (result.best.threads, result.best.prefetch) == (8, 8)
    assert result.gain[0] == pytest.approx((720 + 400) / (180 + 200), rel=0.1)
    assert machine.now <= 61


def test_noise_alone_keeps_the_default():
    for seed in range(20):
        machine = Machine(lambda c: 100, noise=0.1)
        machine._random = np.random.default_rng(seed)
        result = _search(machine)
        assert result.best == DEFAULT or result.gain[1] > 1


def test_a_winner_that_loses_the_final_check_is_dropped():
    class Cheat(Machine):
        def measure(self, loader, seconds):
            rate = super().measure(loader, seconds)
            late = self.now > 0.66 * 60
            return 50 if late and loader != DEFAULT else rate

    result = _search(Cheat(lambda c: 100 * c.threads))
    assert result.best == DEFAULT and result.gain[0] < 1
    assert "nothing was faster than the default" in to_yaml(result, "a machine")


def test_settings_that_cannot_run_lose():
    result = _search(Machine(lambda c: 0 if c.threads > 4 else 100 * c.threads))
    assert result.best.threads == 4


def test_a_tiny_budget_ends():
    machine = Machine(lambda c: 100 * c.threads)
    _search(machine, budget=1.0)
    assert machine.now < 8  # the final check still has its rounds


def _engines(config):
    """The engines that are tried beside the default one."""
    bench = Bench(config, "finetune")
    try:
        return [change(config.loader).engine for change in bench.changes()[0]]
    finally:
        bench.close()


def test_an_engine_that_would_run_as_the_default_is_not_tried(tiny, monkeypatch):
    assert _engines(tiny("--device", "cpu", "--loader.engine", "reference")) == [resolve("native", False)[0]]
    monkeypatch.setattr(native_operator, "available", lambda: "the native operator was not built; build it")
    assert _engines(tiny("--device", "cpu", "--loader.engine", "reference")) == ["thread_pool"]
    for name in ("auto", "native", "thread_pool"):
        assert _engines(tiny("--device", "cpu", "--loader.engine", name)) == []


def test_budgets():
    assert [seconds(text) for text in ("60", "60s", "1.5m")] == [60, 60, 90]


@pytest.mark.slow
def test_the_command_writes_a_preset(tiny, tmp_path, capsys):
    tiny()
    preset, out = tmp_path / "tiny.yaml", tmp_path / "tuned.yaml"
    assert main(["tune", "loader", "--config", str(preset), "--budget", "3s", "--out", str(out)]) == 0
    assert "images/s" in capsys.readouterr().out
    tuned = load([preset, out], [])
    assert tuned.loader.threads == yaml.safe_load(out.read_text())["loader"]["threads"]
    assert tuned.loader.prefetch == yaml.safe_load(out.read_text())["loader"]["prefetch"]


def test_a_preset_that_cannot_be_written_is_refused_before_measuring(tiny, tmp_path, capsys):
    tiny()
    words = ["tune", "loader", "--config", str(tmp_path / "tiny.yaml"), "--budget", "1s"]
    assert main([*words, "--out", str(tmp_path / "no" / "tuned.yaml")]) == 2
    error = capsys.readouterr().err
    assert "no does not exist; make it" in error and error.count("\n") == 1


@pytest.mark.parametrize("budget", ["0s", "soon", "-5"])
def test_wrong_budgets(budget, tiny, tmp_path, capsys):
    tiny()
    assert main(["tune", "loader", "--config", str(tmp_path / "tiny.yaml"), f"--budget={budget}"]) == 2
    assert "write 60s or 2m" in capsys.readouterr().err


def test_the_table_begins_with_what_was_compared_in_turn():
    rows = list(table_rows(_search(Machine(lambda c: 100 * min(c.threads, 8)))))
    assert [row[-1] for row in rows] == ["best", "default", *[""] * (len(rows) - 2)]
    others = [float(row[4].replace(",", "")) for row in rows[2:]]
    assert others == sorted(others, reverse=True)


def test_what_is_chosen_was_faster_in_the_final_check():
    kept = 0
    for seed in range(30):
        machine = Machine(lambda c: 100 if c == DEFAULT else 103, noise=0.05)
        machine._random = np.random.default_rng(seed)
        result = _search(machine)
        if result.best == DEFAULT:
            kept += 1
            continue
        best, default = (np.array(result.rates[loader][-7:]) for loader in (result.best, DEFAULT))
        assert np.median(best / default) >= 1.02
        assert np.percentile(best / default, 20) > 1
    assert 0 < kept < 30
