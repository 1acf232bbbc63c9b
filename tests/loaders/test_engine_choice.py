"""Which engine runs under a name, and what an engine says of how it reads."""

import pytest
import torch

from fastsemi.common.errors import UserError
from fastsemi.loaders.engines import choose, dali, native_operator
from fastsemi.loaders.engines.base import Reading
from fastsemi.loaders.engines.choose import create_engine, fast_engines, resolve, unavailable

needs_operator = pytest.mark.skipif(native_operator.available() is not None, reason="not built")


@pytest.fixture
def no_operator(monkeypatch):
    monkeypatch.setattr(native_operator, "available", lambda: "the native operator was not built; build it")


@pytest.fixture
def jpegs(tmp_path, photo, contract):
    for i in range(3):
        contract.save(tmp_path / "images" / "a", f"{i}.jpg", photo(40 + i, 30, i))
    return contract.open_images(tmp_path / "images")


def _create(name, source, threads=2):
    return create_engine(name, source, image_size=8, threads=threads, max_pixels=10**6)


def _reading(name, source, threads, prefetch):
    engine = _create(name, source, threads)
    engine.close()
    return engine.reading(prefetch)


def test_an_unknown_engine_names_the_known_ones(jpegs):
    with pytest.raises(UserError, match="native"):
        _create("turbo", jpegs)


@needs_operator
def test_auto_says_what_it_chose_and_why(jpegs, caplog, monkeypatch):
    choose._say.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level("INFO", logger="fastsemi.loaders"):
        for _ in range(2):
            _create("auto", jpegs).close()
    assert [r.getMessage() for r in caplog.records if "loader's engine" in r.getMessage()] == [
        "the loader's engine is native: no CUDA GPU is used"
    ]


def test_the_form_without_the_operator_calls_itself_by_its_own_name(jpegs, no_operator, caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    choose._say.cache_clear()
    with caplog.at_level("INFO", logger="fastsemi.loaders"):
        for name in ("native", "auto"):
            engine = _create(name, jpegs)
            engine.close()
            assert engine.name == "thread_pool"
    assert caplog.text.count("slower form: the native operator was not built; build it") == 2
    assert "engine is thread_pool: the native operator cannot be used, and no CUDA" in caplog.text
    assert resolve("reference", False)[0] == "reference"


def test_what_may_be_the_fastest_is_what_runs(jpegs, contract, tmp_path, no_operator):
    beton = contract.pack("beton", jpegs, tmp_path)
    assert fast_engines(jpegs, False) == ["thread_pool"]
    assert fast_engines(beton, False) == ["thread_pool", *(["ffcv"] if "ffcv" not in unavailable() else [])]


@needs_operator
@pytest.mark.parametrize("kind", ["folder", "tar", "beton", "beton_raw"])
def test_native_reads_apart_what_is_no_plain_file(jpegs, contract, tmp_path, kind):
    source = contract.pack(kind, jpegs, tmp_path)
    assert source.is_raw == (kind == "beton_raw")
    here, apart = Reading(8), [Reading(n, apart=True) for n in (3, 8, 4)]
    found = [_reading("native", source, *given) for given in ((8, 3), (8, 99), (2, 99))]
    assert found == (apart if kind in ("tar", "beton") else [here, here, Reading(2)])


@needs_operator
def test_files_that_are_no_jpegs_are_read_apart(tmp_path, photo, contract):
    contract.save(tmp_path / "images" / "a", "0.png", photo(40, 30))
    assert _reading("native", contract.open_images(tmp_path / "images"), 2, 4) == Reading(4, apart=True)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_other_threads_read_for_themselves(jpegs, contract, tmp_path, kind):
    source = contract.pack(kind, jpegs, tmp_path)
    assert _reading("thread_pool", source, 8, 3) == Reading(8)
    assert _reading("reference", source, 8, 3) == Reading(1)


@pytest.mark.skipif(dali.available() is not None, reason=str(dali.available()))
def test_dali_reads_files_itself_and_is_given_the_bytes_of_the_rest(jpegs, contract, tmp_path):
    assert _reading("dali", jpegs, 2, 9) == Reading(2)
    assert _reading("dali", contract.pack("tar", jpegs, tmp_path), 2, 9) == Reading(4, apart=True)
