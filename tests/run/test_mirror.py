"""The copy of a run in a bucket."""

import json
import logging
import shutil
from dataclasses import replace

import pytest

from benchmarks.loading.object_server import Faults, ObjectServer
from fastsemi.commands import train
from fastsemi.common import object_store
from fastsemi.common.checksums import write_checksums
from fastsemi.common.errors import Interrupted, UserError
from fastsemi.common.progress import QuietConsole
from fastsemi.run import mirror
from fastsemi.run.folder import RunFolder
from fastsemi.run.mirror import Mirror
from fastsemi.run.settings import TrainConfig

pytest.importorskip("obstore", reason="needs obstore: pip install 'fastsemi[remote]'")


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    (tmp_path / "store" / "b").mkdir(parents=True)
    with ObjectServer(tmp_path / "store") as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        object_store._store.cache_clear()
        yield running
    object_store._store.cache_clear()


def write_run(folder, step):
    """What a run has on its disk after a step."""
    checkpoint = folder / "checkpoints" / f"semi-{step:09d}"
    checkpoint.mkdir(parents=True)
    for name in ("info.pt", ".metadata", "__0_0.distcp"):
        (checkpoint / name).write_bytes(f"{name} {step}".encode() * 99)
    write_checksums(checkpoint)
    (folder / "metrics.jsonl").open("a").write(f"{step}\n")
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "checkpoints" / "big_result.pt").write_bytes(bytes(range(251)) * 25_000)  # of two parts
    (folder / ".model.tmp").mkdir(exist_ok=True)
    (folder / ".model.tmp" / "half").write_text("")


def files(folder):
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith((".model", "mirror.json"))}


def copy(folder):
    mirror.copy("s3://b/run", RunFolder(folder))


def test_an_empty_directory_gets_the_newest_whole_state(server, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for step in (3, 6):
        write_run(old, step)
        copy(old)
    puts = server.seen.requests["PUT"]
    copy(old)
    assert server.seen.requests["PUT"] == puts, "what is there already is not sent again"
    new.mkdir()
    assert Mirror("s3://b/run", RunFolder(new)).fetch() == 7
    expected = {name: data for name, data in files(old).items() if "semi-000000003" not in name}
    assert files(new) == expected
    stored = [p for p in (server.folder / "b" / "run").rglob("*") if p.is_file()]
    assert len(stored) == 8, "nothing of former states is left"
    assert Mirror("s3://b/run", RunFolder(new)).fetch() == 0, "it goes on from what it has"
    copy(new)
    Mirror("s3://b/run", RunFolder(old)).fetch()  # in the other directory nothing was reached
    (new / "config.yaml").write_text("seed: 1\n")
    copy(new)
    with pytest.raises(UserError, match=r"another directory than .*old has written since"):
        Mirror("s3://b/run", RunFolder(old)).fetch()
    shutil.rmtree(new / "checkpoints")
    assert Mirror("s3://b/run", RunFolder(new)).fetch() == 7, "a copying that was cut is begun again"


def test_a_directory_of_another_run_is_refused(server, tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / name, 3)
    copy(tmp_path / "one")
    with pytest.raises(UserError, match=r"s3://b/run holds a copy of another run than .*two; name another"):
        Mirror("s3://b/run", RunFolder(tmp_path / "two")).fetch()


def test_two_runs_that_began_at_once_do_not_mix(server, tmp_path, caplog):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        write_run(folder, 3)
        copy(folder)
    assert "holds a copy of another run" in caplog.text
    shutil.rmtree(one / "checkpoints")
    assert Mirror("s3://b/run", RunFolder(one)).fetch() == 7


def test_what_is_appended_while_it_is_sent_comes_with_the_next_copy(server, tmp_path, monkeypatch):
    one, real = tmp_path / "one", mirror.put
    write_run(one, 3)
    before = b"a row\n" * 400_000
    (one / "metrics.jsonl").write_bytes(before)

    def put(url, file):
        with (one / "metrics.jsonl").open("ab") as rows:
            rows.write(b"one more\n")
        real(url, file)

    monkeypatch.setattr(mirror, "put", put)
    copy(one)
    (tmp_path / "two").mkdir()
    Mirror("s3://b/run", RunFolder(tmp_path / "two")).fetch()
    after = (tmp_path / "two" / "metrics.jsonl").read_bytes()
    assert after.startswith(before) and set(after[len(before) :].splitlines()) <= {b"one more"}


def test_a_copy_that_was_cut_or_emptied_becomes_whole(server, tmp_path):
    one, stored = tmp_path / "one", server.folder / "b" / "run"
    write_run(one, 3)
    cut = stored / "files" / "0" / "checkpoints" / "semi-000000001" / "info.pt"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(b"of a process that was killed before it wrote the manifest")
    copy(one)
    assert not cut.exists()
    shutil.rmtree(stored)
    copy(one)
    (tmp_path / "two").mkdir()
    assert Mirror("s3://b/run", RunFolder(tmp_path / "two")).fetch() == 7


def test_what_cannot_be_written_is_refused_before_the_run(server, tmp_path, monkeypatch):
    write_run(tmp_path / "one", 3)
    copy(tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / ".mirror.tmp").write_text("a file in the way, as a full disk is")
    with pytest.raises(UserError, match=r"s3://b/run cannot be written to .*two: .*; free the disk"):
        Mirror("s3://b/run", RunFolder(tmp_path / "two")).fetch()
    monkeypatch.setattr(object_store, "DEADLINE_S", 0.1)
    object_store._store.cache_clear()
    server.faults = Faults(failing=1.0)
    with pytest.raises(UserError, match=r"s3://b/run/writable cannot be reached"):
        Mirror("s3://b/run", RunFolder(tmp_path / "one")).fetch()


def test_damaged_copies_are_refused(server, tmp_path):
    write_run(tmp_path / "one", 3)
    copy(tmp_path / "one")
    next((server.folder / "b" / "run").rglob("info.pt")).write_bytes(b"other")
    (tmp_path / "two").mkdir()
    with pytest.raises(UserError, match=r"info\.pt is not what was uploaded"):
        Mirror("s3://b/run", RunFolder(tmp_path / "two")).fetch()
    (server.folder / "b" / "run" / "manifest.json").write_text(
        '{"run": "x", "by": "y", "files": {"../../evil": "1"}}'
    )
    with pytest.raises(UserError, match=r"manifest\.json is no copy of a run"):
        Mirror("s3://b/run", RunFolder(tmp_path / "two")).fetch()


def test_a_failing_upload_is_said_once_and_ends_nothing(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(object_store, "DEADLINE_S", 0.1)
    write_run(tmp_path / "one", 3)
    copy(tmp_path / "one")
    write_run(tmp_path / "one", 6)
    server.faults = Faults(failing=1.0)
    object_store._store.cache_clear()
    with caplog.at_level(logging.WARNING):
        copy(tmp_path / "one")
    assert [r.getMessage().startswith("the run goes on without its copy: s3://") for r in caplog.records] == [
        True
    ]
    server.faults = Faults()
    (tmp_path / "two").mkdir()
    Mirror("s3://b/run", RunFolder(tmp_path / "two")).fetch()
    assert (tmp_path / "two" / "metrics.jsonl").read_text() == "3\n", "the whole state before"


@pytest.mark.parametrize("url", ("runs/copy", "https://host/copy", "s3://me:word@b/x"))
def test_impossible_places(url):
    with pytest.raises(UserError) as error:
        TrainConfig(mirror=url)
    assert "word" not in str(error.value).replace("password", "")


def test_a_run_goes_on_from_its_copy_to_the_same_weights(server, tiny, trained, tmp_path, runs):
    whole, _ = trained()
    first = tiny("--train.mirror", "s3://b/run")
    with pytest.raises(Interrupted):
        runs.train(first, runs.Quiet("semi", 4))
    second = replace(first, output=tmp_path / "elsewhere")
    shutil.rmtree(first.output)
    runs.train(second)
    train._report(second, QuietConsole(quiet=True))
    runs.assert_equal(runs.weights(whole), runs.weights(second))
    rows = runs.rows(second)
    assert [r["step"] for r in rows if r["stage"] == "semi" and "loss" in r] == [2, 4, 6, 8]
    manifest = json.loads((server.folder / "b" / "run" / "manifest.json").read_text())
    assert {"config.yaml", "summary.json", "model/model.safetensors", "report.html"} <= manifest[
        "files"
    ].keys()
