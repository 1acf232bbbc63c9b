"""A run keeps the engine that it was begun with, unless one is named."""

import pytest

from fastsemi.loaders.data import Data
from fastsemi.loaders.engines.choose import candidates
from fastsemi.run.context import RunContext
from fastsemi.run.engine import read_as_trained, settle_engine


@pytest.fixture
def settled(tiny):
    """The engine that a run has after `settle_engine`, and what the user was told."""

    def settle(*options):
        said = []
        run = RunContext(tiny("--device", "cpu", *options), said.append)
        run.folder.path.mkdir(exist_ok=True)
        try:
            settle_engine(run)
            return run.data.loader.engine, said, run.folder.engine
        finally:
            run.close()

    return settle


def test_the_engine_is_written_once_and_kept(settled):
    (usual,) = candidates(False)
    name, said, path = settled()
    assert name == usual and not said and path.read_text() == f"{usual}\n"
    path.write_text("thread_pool\n")
    assert settled()[:2] == ("thread_pool", []), "though another one is faster"


def test_an_engine_that_cannot_run_here_is_replaced_and_named(settled):
    path = settled()[2]
    path.write_text("dali\n")
    name, (line,), _ = settled()
    assert name == candidates(False)[0] and "begun with the engine dali, which cannot run here" in line
    assert path.read_text() == f"{name}\n"


@pytest.mark.parametrize("damaged", [b"", b"dal\n", b"\xff"])
def test_a_damaged_name_is_said_and_replaced(settled, damaged):
    usual, _, path = settled()
    path.write_bytes(damaged)
    name, (line,), _ = settled()
    assert name == usual and line == f"{path} does not name an engine: {usual} goes on"
    assert path.read_text() == f"{usual}\n"


def test_what_was_opened_before_reads_with_the_runs_engine_too(tiny):
    """As where images are so large that their memory is checked first."""
    run = RunContext(tiny("--device", "cpu"), print)
    try:
        run.folder.path.mkdir()
        run.folder.engine.write_text("thread_pool\n")
        train, before = run.data.train, run.data.engine(run.data.train)
        whole = run.data.batches.engine(train, whole=True)
        settle_engine(run)
        assert run.data.engine(train).name == "thread_pool"
        assert run.data.engine(train) is not before or before.name == "thread_pool"
        assert run.data.batches.engine(train, whole=True) is whole
    finally:
        run.close()


def test_a_named_engine_is_the_users(settled):
    name, said, path = settled("--loader.engine", "reference")
    assert name == "reference" and not said and not path.exists()


@pytest.mark.parametrize(
    ("kept", "named", "read_with"),
    [
        ("thread_pool", "auto", "thread_pool"),
        ("thread_pool", "native", "native"),
        ("dali", "auto", "auto"),
        (None, "auto", "auto"),
    ],
)
def test_a_finished_run_is_read_with_its_engine(tiny, kept, named, read_with):
    config = tiny("--device", "cpu", "--loader.engine", named)
    config.output.mkdir()
    if kept:
        (config.output / "engine.txt").write_text(f"{kept}\n")
    data = Data(config.data, config.loader)
    read_as_trained(config, data)
    assert data.loader.engine == read_with
