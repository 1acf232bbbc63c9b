"""The trial of engines: the faster one is taken and remembered, and nothing that fails stops a run."""

import os
import signal
from functools import partial
from types import SimpleNamespace

import pytest

from fastsemi.loaders.engines import choose, dali, race
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.engines.reference import ReferenceEngine


class Slow(ReferenceEngine):
    """Pillow, which lets a `clock` go on for each batch."""

    def __init__(self, source, pause, clock):
        super().__init__(source, 8, 1, 10**6)
        self.pause, self.clock, self.closed = pause, clock, False

    def submit(self, batch, slot):
        self.clock.now += self.pause
        return super().submit(batch, slot)

    def close(self):
        self.closed = True


class Silent(ReferenceEngine):
    """Never answers."""

    def submit(self, batch, slot):
        class Never:
            def result(self, timeout):
                raise TimeoutError

        return Never()

    def close(self):
        raise AssertionError("it would wait for ever")


class Broken(ReferenceEngine):
    def submit(self, batch, slot):
        raise RuntimeError("no decoder")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(race, "ROUND_S", 0.02)
    monkeypatch.setattr(race, "BATCH", 4)


@pytest.fixture
def clock(monkeypatch):
    """The trial's, which stands still but for what `Slow` needs."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(race, "time", clock)
    return clock


@pytest.fixture
def source(tmp_path, photo, contract):
    for i in range(3):
        contract.save(tmp_path / "images" / "a", f"{i}.jpg", photo(40 + i, 30, i))
    return contract.open_images(tmp_path / "images")


def test_the_faster_engine_is_taken_and_remembered(source, clock):
    made = []

    def make(name, pause):
        made.append(Slow(source, pause, clock))
        return made[-1]

    makers = {"native": partial(make, "native", 0.05), "dali": partial(make, "dali", 0.005)}
    name, reason = race.fastest(makers, source, 8, ["here"])
    assert (name, reason) == ("dali", "images/s in a short trial: native 80, dali 800"), "four images a pause"
    assert len(made) == 2 and all(engine.closed for engine in made)
    name, reason = race.fastest(makers, source, 8, ["here"])
    assert name == "dali" and "as tried before (" in reason and len(made) == 2
    race.fastest(makers, source, 8, ["another machine"])
    assert len(made) == 4


def test_what_fails_or_hangs_has_lost_and_is_tried_again(source, clock):
    makers = {"dali": lambda: Broken(source, 8, 1, 10**6), "ffcv": lambda: Silent(source, 8, 1, 10**6)}
    makers["native"] = lambda: Slow(source, 0.001, clock)
    name, reason = race.fastest(makers, source, 8, [])
    assert name == "native" and "dali failed, ffcv failed, native " in reason
    assert "in a short trial" in race.fastest(makers, source, 8, [])[1]
    assert race.fastest({"dali": makers["dali"]}, source, 8, []) == (
        "dali",
        "images/s in a short trial: dali failed",
    )


def test_an_engine_in_whose_turn_a_process_ended_is_tried_no_more(source, clock):
    """A process of its own ends as by a fault in a decoder; the next one is warned by what it left."""
    makers = {
        "native": lambda: Slow(source, 0.01, clock),
        "dali": lambda: os.kill(os.getpid(), signal.SIGKILL),
    }
    if (child := os.fork()) == 0:
        race.fastest(makers, source, 8, [])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    name, reason = race.fastest(makers, source, 8, [])
    assert name == "native" and "native 400, dali not tried, since a process ended in its turn" in reason
    turn = reason.split("(delete ")[1].split(" to try")[0]
    os.remove(turn)
    makers["dali"] = lambda: Slow(source, 0.001, clock)
    assert race.fastest(makers, source, 8, [])[0] == "dali"


def test_a_cache_that_cannot_be_written_costs_only_the_memory(source, clock, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTSEMI_CACHE", str(tmp_path / "file" / "below"))
    makers = {"native": lambda: Slow(source, 0.01, clock), "dali": lambda: Slow(source, 0.001, clock)}
    assert race.fastest(makers, source, 8, [])[0] == "dali"


@pytest.mark.skipif(dali.available() is not None, reason=str(dali.available()))
def test_auto_tries_both_and_says_so(source, monkeypatch, caplog):
    """Both on the CPU here: only whether the trial is held depends on a GPU."""
    choose._say.cache_clear()
    monkeypatch.setattr(choose, "candidates", lambda gpu: ["native", "dali"])
    with caplog.at_level("INFO", logger="fastsemi.loaders"):
        engine = create_engine("auto", source, image_size=8, threads=1, max_pixels=10**6)
    engine.close()
    (line,) = [r.getMessage() for r in caplog.records if "loader's engine" in r.getMessage()]
    assert line.startswith(f"the loader's engine is {engine.name}: images/s in a short trial: native ")
