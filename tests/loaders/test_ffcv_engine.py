"""What is particular to the FFCV engine."""

import sys

import numpy as np
import pytest
import torch

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.engines import ffcv
from fastsemi.loaders.engines.choose import create_engine, unavailable
from fastsemi.loaders.engines.ffcv import FfcvEngine
from fastsemi.loaders.engines.reference import ReferenceEngine
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.sources.open import open_source
from fastsemi.loaders.stream import Stream
from fastsemi.loaders.write_beton import Encoding, write_beton

needs_ffcv = pytest.mark.usefixtures("installed")
SIZE = 40


@pytest.fixture(scope="module")
def installed():
    if reason := ffcv.available():  # which imports it, in seconds: not before a test wants it
        pytest.skip(reason)


@pytest.fixture
def make(tmp_path, photo):
    """The function `make(mode)`: a source of twelve photographs as a .beton."""
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i in range(12):
        photo(90 + 9 * i, 70 + 5 * i, i).save(tmp_path / "set" / "a" / f"{i:02}.jpg", quality=92)

    def write(mode="jpeg"):
        folder = open_source(tmp_path, "set", has_classes=True, max_pixels=10**7)
        encoding = Encoding(mode, max_side=0)
        write_beton(tmp_path / "a.beton", folder, folder.index, encoding=encoding, max_pixels=10**7)
        return open_source(tmp_path, "a.beton", has_classes=True, max_pixels=10**7)

    return write


def load(engine, source, step=0):
    views = {View.WEAK: AugmentConfig(), View.STRONG: AugmentConfig()}
    plan = Stream(source.index, np.arange(12), 12, 1, views, None, 0, SIZE, "u").plan(step, 0)
    slot = torch.zeros((2, 12, SIZE, SIZE, 3), dtype=torch.uint8)
    return plan, engine.submit(plan, slot).result(120), slot


@needs_ffcv
@pytest.mark.parametrize(("mode", "bound"), [("jpeg", 1.5), ("raw", 0.3)])
def test_windows_come_from_the_plan(make, mode, bound):
    source = make(mode)
    engine, reference = FfcvEngine(source, SIZE, 2, 10**7), ReferenceEngine(source, SIZE, 1, 10**7)
    seen = []
    for step in range(3):
        _, errors, slot = load(engine, source, step)
        _, _, expected = load(reference, source, step)
        assert errors == [None] * 12
        assert (slot.float() - expected.float()).abs().mean() < bound
        seen.append(slot)
    assert not torch.equal(seen[0], seen[1])
    engine.close()


@needs_ffcv
@pytest.mark.timeout(120)
def test_a_broken_image_neither_hangs_nor_ends_the_engine(make):
    source = make()
    file, offset = source.index.files[source.index.file[3]], int(source.index.offset[3])
    with open(file, "r+b") as damaged:
        damaged.seek(offset)
        damaged.write(b"?" * 200)
    engine = FfcvEngine(source, SIZE, 2, 10**7)
    for step in range(3):
        plan, errors, slot = load(engine, source, step)
        for b, i in enumerate(plan.ids.tolist()):
            if i == 3:
                assert isinstance(errors[b], BadImageError) and errors[b].path == source.name(3)
            else:
                assert errors[b] is None and slot[:, b].float().std() > 5
    engine.close()


@needs_ffcv
@pytest.mark.timeout(120)
def test_an_operation_that_raises_reaches_the_consumer(make, monkeypatch):
    source = make()
    engine = FfcvEngine(source, SIZE, 2, 10**7)

    def fail(*_):
        raise RuntimeError("the operation failed")

    with monkeypatch.context() as patch:
        patch.setattr(ffcv, "_compiled", lambda views: fail)
        with pytest.raises(RuntimeError, match="operation failed"):
            load(engine, source)
    assert load(engine, source)[1] == [None] * 12
    engine.close()


@needs_ffcv
def test_only_beton_files_are_read(make, tmp_path):
    make()
    folder = open_source(tmp_path, "set", has_classes=True, max_pixels=10**7)
    with pytest.raises(UserError, match=r"fastsemi data beton"):
        FfcvEngine(folder, SIZE, 1, 10**7)


def test_without_ffcv_the_cure_is_named(make, monkeypatch):
    source = make()
    monkeypatch.setitem(sys.modules, "ffcv.libffcv", None)
    with pytest.raises(UserError, match=r"libturbojpeg0-dev.*pip install 'fastsemi\[ffcv\]'"):
        create_engine("ffcv", source, image_size=8, threads=1, max_pixels=1)
    assert "ffcv" in unavailable()


@needs_ffcv
def test_the_operation_is_one_of_ffcvs(make):
    """It runs in FFCV's own graph as decoder of the image field would: declared state, compiled code."""
    from ffcv.pipeline.graph import INITIAL_STATE
    from ffcv.pipeline.operation import Operation

    from fastsemi.loaders.engines.ffcv_operation import PlannedViews

    operation = PlannedViews(2, SIZE)
    state, memory = operation.declare_state_and_memory(INITIAL_STATE)
    assert isinstance(operation, Operation) and state.jit_mode
    assert state.shape == memory.shape == (2, SIZE, SIZE, 3)
