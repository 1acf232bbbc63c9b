"""What is particular to the DALI engine."""

import logging
import sys

import numpy as np
import pytest
import torch

from fastsemi.common.errors import UserError
from fastsemi.loaders.engines import choose, dali
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.engines.dali import DaliEngine
from fastsemi.loaders.engines.dali_trial import failure
from fastsemi.loaders.engines.reference import ReferenceEngine
from fastsemi.loaders.engines.settings import DaliOptions
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.stream import Stream, evaluation_batches

reason = dali.available()
needs_dali = pytest.mark.skipif(reason is not None, reason=str(reason))
SIZE = 32


@pytest.fixture
def folder(tmp_path, photo):
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i in range(16):
        suffix = "png" if i % 4 == 3 else "jpg"
        photo(80 + 5 * i, 70, i).save(tmp_path / "set" / "a" / f"{i:02}.{suffix}")
    return FolderSource(build_index(tmp_path / "set", has_classes=True))


def plan_of(source, step=0):
    views = {View.WEAK: AugmentConfig(), View.STRONG: AugmentConfig()}
    count = len(source)
    return Stream(source.index, np.arange(count), count, 1, views, None, 0, SIZE, "u").plan(step, 0)


def load(engine, plan, device="cpu"):
    slot = torch.zeros((len(plan.views), len(plan.ids), SIZE, SIZE, 3), dtype=torch.uint8, device=device)
    return engine.submit(plan, slot).result(60), slot


def expected(source, plan):
    return load(ReferenceEngine(source, SIZE, 1, 10**7), plan)[1].float()


@needs_dali
@pytest.mark.parametrize("decode", ["window", "whole"])
@pytest.mark.parametrize("depth", [1, 3])
def test_options_do_not_change_the_images(folder, decode, depth):
    engine = DaliEngine(folder, SIZE, 2, 10**7, None, DaliOptions(decode=decode, depth=depth))
    for step in range(4):
        plan = plan_of(folder, step)
        errors, slot = load(engine, plan)
        assert errors == [None] * 16
        assert (slot.float() - expected(folder, plan)).abs().mean() < 0.5
    engine.close()


@needs_dali
def test_auto_decodes_windows_on_the_cpu(folder):
    engine = DaliEngine(folder, SIZE, 2, 10**7)
    assert engine.options.decode == "window"
    engine.close()


@needs_dali
@pytest.mark.skipif(torch.cuda.is_available(), reason="its device 0 is there")
def test_windows_on_a_gpu_are_tried_in_another_process(folder):
    assert failure(None) is None, "the trial itself works, here on the CPU"
    with pytest.raises(UserError, match=r"a trial ended with .*; set loader\.dali\.decode to whole"):
        DaliEngine(folder, SIZE, 2, 10**7, 0, DaliOptions(decode="window"))


@needs_dali
def test_small_windows_keep_to_themselves(folder):
    """DALI's filter would read far beyond them."""
    plan = plan_of(folder)
    for view in plan.views:
        view.window[:, 2:] = 6
    engine = DaliEngine(folder, SIZE, 2, 10**7)
    errors, slot = load(engine, plan)
    assert errors == [None] * 16
    assert torch.equal(slot.float(), expected(folder, plan))
    engine.close()


def damage(path, how, seed):
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    if how == "half":
        del data[len(data) // 2 :]
    elif how == "head":
        del data[300:]
    elif how == "noise":
        places = rng.integers(2, len(data), 30)
        data = bytearray(b if i not in places else int(rng.integers(256)) for i, b in enumerate(data))
    elif how == "middle":
        data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    elif how == "behind":
        data[40:] = b"garbage" * 40
    path.write_bytes(bytes(data))


@needs_dali
@pytest.mark.parametrize("how", ["half", "head", "noise", "middle", "behind"])
def test_many_broken_files_in_a_batch_are_reported(folder, how):
    """DALI itself ends the process with a segmentation fault where several images of a batch fail."""
    paths = [folder.index.root / folder.index.relative_path(i) for i in range(16)]
    for i, path in enumerate(paths[:12]):
        damage(path, how, i)
    engine = DaliEngine(folder, SIZE, 2, 10**7)
    for step in range(3):
        plan = plan_of(folder, step)
        errors, slot = load(engine, plan)
        for b, i in enumerate(plan.ids.tolist()):
            if i >= 12:
                assert errors[b] is None and slot[:, b].float().std() > 5
            elif how in ("half", "head", "behind"):
                assert errors[b].path == str(paths[i])
            else:
                assert errors[b] is None or errors[b].path == str(paths[i])
    engine.close()


@needs_dali
def test_a_failure_inside_dali_costs_no_other_batch(folder, caplog):
    """A file that changes after it was looked at."""
    engine = DaliEngine(folder, SIZE, 2, 10**7)
    plans = [plan_of(folder, step) for step in range(6)]
    load(engine, plans[0])
    path = folder.index.root / folder.index.relative_path(4)
    path.write_bytes(path.read_bytes()[:700])
    slots = [torch.zeros((2, 16, SIZE, SIZE, 3), dtype=torch.uint8) for _ in plans]
    pending = [engine.submit(plan, slot) for plan, slot in zip(plans, slots, strict=True)]
    good = [i for i in range(16) if i != 4]
    for plan, slot, wait in zip(plans, slots, pending, strict=True):
        errors = wait.result(60)
        assert [str(path) in str(error) for error in errors] == (plan.ids == 4).tolist()
        rows = [plan.ids.tolist().index(i) for i in good]
        difference = slot[:, rows].float() - expected(folder, plan)[:, rows]
        assert difference.abs().mean() < 0.5
    engine.close()


@needs_dali
def test_batches_may_grow_and_change_their_views(folder):
    engine = DaliEngine(folder, SIZE, 2, 10**7)
    for count in (3, 16, 5):
        plan = next(evaluation_batches(folder.index, np.arange(count), count, 1.0))
        errors, slot = load(engine, plan)
        assert errors == [None] * count
        assert (slot.float() - expected(folder, plan)).abs().mean() < 0.5
        load(engine, plan_of(folder))
    engine.close()


@needs_dali
def test_batches_under_way_are_dropped_by_close(folder):
    engine = DaliEngine(folder, SIZE, 1, 10**7)
    slots = [torch.zeros((2, 16, SIZE, SIZE, 3), dtype=torch.uint8) for _ in range(20)]
    pending = [engine.submit(plan_of(folder), slot) for slot in slots]
    engine.close()
    for wait in pending:  # each is done or dropped, none is waited for in vain
        assert wait.done()


@pytest.mark.parametrize("options", [{"decode": "half"}, {"hw_load": 2.0}, {"depth": 0}])
def test_wrong_options(options):
    with pytest.raises(UserError, match=f"loader.dali.{next(iter(options))}"):
        DaliOptions(**options)


def test_without_dali_the_cure_is_named(folder, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UserError, match=r"pip install 'fastsemi\[dali-cu1"):
        create_engine("dali", folder, image_size=8, threads=1, max_pixels=1)
    choose._say.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with caplog.at_level(logging.INFO):
        engine = create_engine("auto", folder, image_size=8, threads=1, max_pixels=1)
    engine.close()
    assert engine.name != "dali" and "pip install 'fastsemi[dali-cu1" in caplog.text


@needs_dali
@pytest.mark.gpu
@pytest.mark.parametrize("decode", ["auto", "window", "whole"])
@pytest.mark.parametrize("slot_on", ["cpu", "cuda"])
def test_on_a_gpu(folder, decode, slot_on):
    engine = DaliEngine(folder, SIZE, 2, 10**7, 0, DaliOptions(decode=decode))
    for step in range(3):
        plan = plan_of(folder, step)
        errors, slot = load(engine, plan, slot_on)
        assert errors == [None] * 16 and slot.device.type == slot_on
        assert (slot.cpu().float() - expected(folder, plan)).abs().mean() < 1.5
    engine.close()


@needs_dali
@pytest.mark.gpu
def test_auto_tries_dali_on_a_gpu(folder, caplog):
    choose._say.cache_clear()
    with caplog.at_level(logging.INFO):
        engine = create_engine("auto", folder, image_size=SIZE, threads=1, max_pixels=10**7)
    engine.close()
    assert engine.name in choose.candidates(True) and "in a short trial" in caplog.text
    assert "failed" not in caplog.text
