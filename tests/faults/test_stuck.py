"""Reads that never return, and runs that stand still: said with the path, and the process ends."""

import logging
import os
import shutil
import sys
import threading
import time

import numpy as np
import pytest

from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.loaders.settings import DataConfig, LabelsConfig, LoaderConfig
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.training.watchdog import Watchdog

ENGINES = ("reference", "thread_pool", "native", "dali")


@pytest.fixture
def pictures(tmp_path, photo):
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(40, 40).save(path)
    return tmp_path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_read_that_never_returns_is_named_in_time(pictures, engine, stalled):
    config = DataConfig(root=pictures, labels=LabelsConfig(per_class=1), image_size=32)
    data = Data(config, LoaderConfig(engine=engine, threads=2, timeout_s=0.5))
    images = data.train
    with stalled(pictures / "train/b/3.jpg"):
        started = time.monotonic()
        plans = evaluation_batches(images.index, images.ids, 4, 1.0)
        said = rf"{engine} engine gave nothing for 0\.5 s; reading .*/b/3\.jpg again took more than 0\.5 s;"
        with pytest.raises(UserError, match=said), data.load(images, plans) as loader:
            next(loader)
        data.close()  # does not wait for the thread
        assert time.monotonic() - started < 20


def test_a_disk_that_is_away_holds_no_engine(pictures, monkeypatch):
    config = DataConfig(
        root=pictures, labels=LabelsConfig(per_class=1), image_size=32, unlabeled=pictures / "un"
    )
    shutil.copytree(pictures / "train", pictures / "un")
    data = Data(config, LoaderConfig(engine="thread_pool", threads=1, timeout_s=0.2))
    sets, away = (data.train, data.unlabelled), threading.Event()
    plans = [evaluation_batches(images.index, images.ids, 2, 1.0) for images in sets]
    monkeypatch.setattr(FolderSource, "read_one", lambda self, i: away.wait())
    monkeypatch.setattr("fastsemi.loaders.batches.abandon", (left := []).append)
    engines = [data.engine(images) for images in sets]
    with pytest.raises(UserError, match=r"reading .* again took more than 0\.2 s"):
        with data.load(sets[1], plans[1]), data.load(sets[0], plans[0]) as loader:
            next(loader)
    assert [engine.stuck for engine in engines] == [True, True]
    engines[0].stuck = False  # as where it had nothing to read
    data.close()
    assert left == engines
    away.set()  # the threads end


def test_a_process_whose_read_never_returns_ends(tiny, fork, tmp_path, shapes, stalled):
    config = tiny("--stages", "[pretrain]")
    assert len(Data(config.data, config.loader).train.ids) == 120  # indexed
    words = ["pretrain", "--config", str(tmp_path / "tiny.yaml"), "--loader.timeout_s", "0.5"]
    with stalled(shapes / "train/dot/020.png"), (tmp_path / "said").open("w+") as said:
        process = fork([sys.executable, "-m", "fastsemi", *words], stdout=said, stderr=said)
        assert process.wait() == 2
        said.seek(0)
        last = said.read().splitlines()[-1]
    assert "dot/020.png again took more than 0.5 s; check the disk" in last


def test_a_shard_that_becomes_a_pipe_is_a_broken_image(pictures):
    import tarfile

    with tarfile.open(pictures / "a.tar", "w") as tar:
        tar.add(pictures / "train/a/1.jpg", "1.jpg")
    data = Data(DataConfig(root=pictures), LoaderConfig(threads=1))
    images = data.open_unlabelled(pictures / "a.tar")
    (pictures / "a.tar").unlink()
    os.mkfifo(pictures / "a.tar")
    (found,) = images.source.read(np.array([0]))
    assert "not a regular file" in str(found)
    data.close()


def test_a_standstill_is_told_once_with_all_stacks(tmp_path, caplog):
    path = tmp_path / "run" / "stuck.txt"
    with caplog.at_level(logging.WARNING), Watchdog(0.3, path) as watchdog:
        began, beat, longest = time.monotonic(), time.monotonic(), 0.0
        while time.monotonic() < began + 0.5:  # it moves, unless this machine stands still
            time.sleep(0.03)
            watchdog.beat()
            longest, beat = max(longest, time.monotonic() - beat), time.monotonic()
        assert not path.exists() or longest > 0.25
        path.unlink(missing_ok=True)
        caplog.clear()
        for told in (1, 2):
            watchdog.beat()
            while len(caplog.messages) < told:
                time.sleep(0.03)
            time.sleep(0.4)
            assert len(caplog.messages) == told
    text = path.read_text()
    assert text.count("no step has finished for 0.3 s") == 2
    assert "test_stuck.py" in text and "watchdog.py" in text
    assert str(path) in caplog.messages[0]


def test_a_watchdog_of_nothing_starts_no_thread(tmp_path, held):
    before = held()
    with Watchdog(0, tmp_path / "stuck.txt"):
        before.assert_nothing_more()


@pytest.mark.parametrize("value", ["-1", ".inf", ".nan"])
def test_the_time_of_the_watchdog_must_be_one(tiny, value):
    with pytest.raises(UserError, match=r"train\.watchdog_s is .* must be 0 \(never\) or more"):
        tiny("--train.watchdog_s", value)
