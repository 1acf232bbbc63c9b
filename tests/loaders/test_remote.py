"""Images in object stores: the same pixels as from the disk, whatever the network does."""

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loading.object_server import Faults, ObjectServer, _Handler
from fastsemi.common import object_store
from fastsemi.common.errors import UserError
from fastsemi.common.object_store import MissingError, RefusedError, UnreachableError
from fastsemi.common.urls import is_url, join, place
from fastsemi.loaders.data import Data
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.prefetch import Prefetcher
from fastsemi.loaders.settings import DataConfig, LabelsConfig, LoaderConfig
from fastsemi.loaders.sources import cache as cache_file
from fastsemi.loaders.sources.cache import Cache, on_disk
from fastsemi.loaders.sources.named import named_images
from fastsemi.loaders.sources.open import open_source, open_unlabelled, require_images
from fastsemi.loaders.sources.remote import Remote

pytest.importorskip("obstore", reason="needs obstore: pip install 'fastsemi[remote]'")
MAX_PIXELS, REMOTE = 10**7, Remote(threads=16)
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


def use(monkeypatch, url):
    """Let `s3://` mean the store at a URL."""
    for name, value in (*ENVIRONMENT.items(), ("AWS_ENDPOINT_URL", url)):
        monkeypatch.setenv(name, value)
    object_store._store.cache_clear()


@pytest.fixture
def server(tmp_path, monkeypatch, every_kind, sources):
    """A store whose bucket `b` holds images as a folder, a tar and a Parquet file."""
    bucket = tmp_path / "store" / "b"
    shutil.copytree(every_kind.index.root, bucket / "folder")
    for kind in ("tar", "parquet"):
        shutil.copy(sources(kind).index.files[0], bucket)
    with ObjectServer(tmp_path / "store", Faults(page=40)) as running:
        use(monkeypatch, running.url)
        yield running
    object_store._store.cache_clear()


WHAT = {"folder": "folder", "tar": "a.tar", "parquet": "a.parquet"}


def open_far(what, remote=REMOTE, **options):
    return open_source(
        Path("s3://b"), what, has_classes=True, max_pixels=MAX_PIXELS, remote=remote, **options
    )


@pytest.mark.parametrize("kind", WHAT)
def test_index_and_bytes_are_those_of_the_disk(server, sources, kind, tmp_path):
    near = sources(kind)
    server.faults = Faults(failing=0.05, cut=0.05, page=40)
    far = open_far(WHAT[kind], Remote(tmp_path / "cache", 2**20, 16))
    assert far.index.classes == near.index.classes and far.index.skipped == near.index.skipped
    for name in ("path_blob", "labels", "sizes", "broken", "orientation"):
        np.testing.assert_array_equal(getattr(far.index, name), getattr(near.index, name))
    assert far.read(range(len(near))) == near.read(range(len(near)))
    assert far.name(0).startswith("s3://b/") and str(far.index.root).startswith("s3://b/")
    assert server.seen.requests["failed"] and server.seen.requests["cut"]


def test_an_index_is_made_once(server):
    open_far("a.tar"), open_far("folder")
    before = server.seen.body
    assert len(open_far("a.tar")) == len(open_far("folder"))
    assert server.seen.body == before, "no image is looked at again"


def test_a_folder_is_listed_whole_once(server):
    """Before that a request for its first level says that it is a folder of classes."""
    server.faults.page = 2
    folder = server.folder / "b" / "folder"
    pages = -(-sum(path.is_file() for path in folder.rglob("*")) // 2)
    levels = -(-len(list(folder.iterdir())) // 2)
    open_far("folder")
    before = server.seen.requests["GET"]
    require_images(Path("s3://b"), "folder")
    open_far("folder")
    assert server.seen.requests["GET"] - before == pages + 2 * levels


@pytest.mark.parametrize("engine", ("native", "thread_pool"))
def test_pixels_through_a_slow_and_failing_store(server, contract, sources, engine, tmp_path):
    """Batches of the plan, fetched ahead: many requests at the same time, and each image once."""
    near, stream = sources("tar"), contract.stream(sources("tar").index, 8)
    plans = [stream.plan(step, 0) for step in range(6)]
    far = open_far("a.tar", Remote(None, 0, 64))
    before = dict(server.seen.requests)
    server.faults, server.seen.at_once = Faults(latency=0.25, failing=0.05), 0
    views = {}
    for name, source in (("near", near), ("far", far)):
        running = create_engine(engine, source, image_size=contract.SIZE, threads=2, max_pixels=MAX_PIXELS)
        with Prefetcher(running, iter(plans), depth=2) as batches:
            views[name] = [batch.images.numpy().copy() for batch in batches]
        running.close()
    for a, b in zip(views["near"], views["far"], strict=True):
        np.testing.assert_array_equal(a, b)
    asked = server.seen.requests["GET"] - before["GET"] - server.seen.requests["failed"]
    assert asked == sum(len(plan.ids) for plan in plans), "no image is fetched twice"
    assert server.seen.at_once > 8, "batches ahead of the one that is read"


def test_objects_of_a_run_that_change_end_it(server):
    far = open_far("a.tar")
    shutil.copy(server.folder / "b" / "a.parquet", server.folder / "b" / "a.tar")
    with pytest.raises(UserError, match=r"s3://b/a\.tar has changed .* start again"):
        far.read([0])


def test_http(server, sources):
    url = f"{server.url}/b/a.tar"
    far = open_source(Path(), url, has_classes=True, max_pixels=MAX_PIXELS)
    assert far.read([1, 0]) == sources("tar").read([1, 0])
    for what in (f"{server.url}/b/folder", f"{server.url}/b/*.tar"):
        with pytest.raises(UserError, match=r"a web server lists no folders; name files"):
            require_images(Path(), what)


def test_names(server):
    shutil.copy(server.folder / "b" / "a.tar", server.folder / "b" / "b.tar")
    one = len(open_far("a.tar"))
    for what in ("{a,b}.tar", "*.tar", "[ab].tar"):
        assert len(open_far(what)) == 2 * one
    assert len(open_unlabelled(["s3://b/a.tar", "s3:/b/b.tar"], max_pixels=MAX_PIXELS)) == 2 * one
    assert named_images(["s3://b/a.tar"]) == ["s3://b/a.tar"]
    for what, said in (
        ("c.tar", r"s3://b/c\.tar does not exist; correct the URL"),
        ("c*.tar", r"no object is called s3://b/c\*\.tar"),
        ("nothing", r"s3://b/nothing holds no objects"),
        ("labels.csv", r"s3://b/labels\.csv is a table, which is read from the disk"),
        ("x.beton", r"s3://b/x\.beton cannot be read where it is"),
    ):
        with pytest.raises(UserError, match=said):
            require_images(Path("s3://b"), what)
            open_far(what)
    with pytest.raises(UserError, match="gives images labels by their paths on the disk"):
        open_far("folder", labels=Path("labels.csv"))
    shards = server.folder / "b" / "shards"
    (shards / "empty").mkdir(parents=True)
    shutil.copy(server.folder / "b" / "a.tar", shards)
    assert len(open_far("shards")) == one, "a folder that a console made is no class"


def test_a_store_that_is_not_there_is_named(monkeypatch):
    use(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(object_store, "DEADLINE_S", 0.2)
    with pytest.raises(
        UserError, match=r"s3://b/a\.tar cannot be reached \(.+\); check the network"
    ) as error:
        object_store.head("s3://b/a.tar")
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("endpoint", ("", "localhost:9000"))
def test_an_endpoint_that_is_no_url_is_refused(monkeypatch, endpoint):
    use(monkeypatch, endpoint)
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL is no URL; let it begin with http://"):
        object_store.head("s3://b/a.tar")


def test_a_stalled_request_is_asked_again(server, monkeypatch):
    monkeypatch.setattr(object_store, "SILENCE_S", 1.0)
    object_store._store.cache_clear()
    far = open_far("a.tar")
    server.faults = Faults(stalled=0.3, stall=4)
    assert all(isinstance(data, bytes) for data in far.read(range(12)))
    assert server.seen.requests["stalled"]


def test_a_loader_does_not_wait_for_a_store_that_is_given_up(server, contract, sources, monkeypatch):
    for name in ("SILENCE_S", "DEADLINE_S"):
        monkeypatch.setattr(object_store, name, 0.2)
    object_store._store.cache_clear()
    stream = contract.stream(sources("tar").index, 8)
    far = open_far("a.tar")
    server.faults = Faults(stalled=1.0, stall=2)
    running = create_engine("native", far, image_size=contract.SIZE, threads=1, max_pixels=MAX_PIXELS)
    with Prefetcher(running, (stream.plan(step, 0) for step in range(6)), depth=2) as batches:
        with pytest.raises(UnreachableError, match=r"a\.tar cannot be reached"):
            next(batches)
        assert batches.gave_up
    running.close()


def test_a_list_that_is_refused_or_of_no_bucket_says_so(server, monkeypatch):
    for code, error in ((403, RefusedError), (404, MissingError)):
        monkeypatch.setattr(_Handler, "_list", lambda self, *_, code=code: self._send(code, b"<Error/>"))
        with pytest.raises(error, match=r"s3://b/folder"):
            object_store.below("s3://b/folder")


def test_a_server_without_parts_of_files_says_so(server, monkeypatch):
    def whole(self, code, body, headers=None, cut=False, real=_Handler._send):
        headers = {name: value for name, value in (headers or {}).items() if name != "Content-Range"}
        real(self, 200, body, headers, cut)

    entry = object_store.head("s3://b/a.tar")
    monkeypatch.setattr(_Handler, "_send", whole)
    for url in (entry.url, f"{server.url}/b/a.tar"):
        with pytest.raises(UserError, match=r"a\.tar cannot be read, as its server gives no parts"):
            object_store.fetch(url, 512, 100, entry.tag)


def test_odd_names(server, sources):
    shutil.copy(server.folder / "b" / "a.tar", server.folder / "b" / "a #b.tar")
    for url in ("s3://b/a #b.tar", f"{server.url}/b/a%20%23b.tar", f"{server.url}/b/a #b.tar"):
        assert object_store.head(url).size == object_store.head("s3://b/a.tar").size
    require_images(Path("s3://b/folder"), "../a.tar")


def test_urls():
    for what in ("s3://b/x", "s3:/b/x"):
        path = place(what)
        assert is_url(path) and str(path) == os.fspath(path) == f"{path}" == "s3://b/x"
        assert str(path / "y") == "s3://b/x/y" == join(path, "y")
    assert join("data", "s3://b/x") == "s3://b/x" and join("data", "/x") == "/x"
    assert not is_url("data/s3") and place("data") == Path("data")
    for what, said in (
        ("https://me:word@h/x", "holds a user or a password"),
        ("https://h/x?sig=word", "query"),
        ("s3://b/../c/x", "leads out of its bucket"),
        ("gcs://b/x", r"gcs:// begins no URL that is read; give a bucket or a server after one of s3://"),
        ("s3:///x", "s3:// begins no URL"),
        ("s3://[b/x", "is no URL"),
    ):
        with pytest.raises(UserError, match=said) as error:
            DataConfig(train=what)
        assert "word@" not in str(error.value) and "sig" not in str(error.value)


@pytest.mark.parametrize("key", ("cache_gb", "remote_threads"))
def test_impossible_settings(key):
    with pytest.raises(UserError, match=rf"loader\.{key} is -1"):
        LoaderConfig(**{key: -1})


def test_a_run_reads_labelled_and_unlabelled_images_from_a_store(server, tmp_path):
    config = DataConfig(Path("s3:/b"), "folder", None, labels=LabelsConfig(per_class=2, validation=0.5))
    data = Data(config, LoaderConfig(cache_dir=tmp_path / "cache", cache_gb=0.001))
    assert str(config.root) == "s3://b" and len(data.labelled.ids) == len(data.classes)
    assert data.unlabelled.source.read_one(0) == data.train.source.read([0])[0]
    data.close()
    used = sum(f.stat().st_blocks * 512 for f in (tmp_path / "cache").glob("*/*"))
    assert 0 < used <= 0.001 * 2**30


# --- the cache


def used(folder):
    """Bytes of disk of all files, of which each may have two names while it is written."""
    sizes = {}
    for path in folder.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            sizes[status.st_ino] = on_disk(status.st_size - 4)
    return sum(sizes.values())


def test_cache_keeps_what_a_run_uses_and_never_passes_its_bound(tmp_path):
    cache = Cache(tmp_path, 10 * 4096)
    for i in range(30):
        cache.put(str(i), bytes([i]) * 3000)
        assert used(tmp_path) <= 10 * 4096
    assert [cache.get(str(i), 3000) for i in range(30)] == [bytes([i]) * 3000 for i in range(10)] + [
        None
    ] * 20
    assert cache.get("0", 2999) is None, "of another length"


def test_cache_drops_what_was_used_longest_ago(tmp_path, monkeypatch):
    old = Cache(tmp_path, 4 * 4096)
    for i in range(4):
        old.put(str(i), b"x" * 100)
        os.utime(old._path(str(i)), (1e9 + i, 1e9 + i))
    new = Cache(tmp_path, 4 * 4096)
    assert new.get("0", 100), "used again"
    new.put("too large", b"z" * 5 * 4096)
    assert len(list(tmp_path.glob("*/*"))) == 4, "for what never fits nothing goes"
    new.put("4", b"y" * 5000)
    assert [new.get(str(i), 100) is not None for i in range(4)] == [True, False, False, True]
    assert new.get("4", 5000) == b"y" * 5000 and used(tmp_path) == 4 * 4096
    del old, new
    monkeypatch.setattr(cache_file, "_BEGAN", time.time() + 1)  # as of another process, later
    Cache(tmp_path, 4096)
    assert used(tmp_path) <= 4096, "a smaller bound holds from the start"


def test_cache_of_several_users_at_once(tmp_path):
    """Several caches of one folder are what several processes have: each with its own locks and counts."""
    caches = [Cache(tmp_path, 40 * 4096) for _ in range(4)]
    most = []

    def work(cache, own):
        for i in range(30):
            cache.put(f"{i if i % 2 else (i, own)}", os.urandom(2000))
            most.append(used(tmp_path))

    threads = [threading.Thread(target=work, args=(cache, i)) for i, cache in enumerate(caches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 40 * 4096 and caches[0]._read() == used(tmp_path)
    assert not list(tmp_path.glob("*/.*"))


def test_cache_does_not_give_what_a_power_cut_left(tmp_path):
    cache = Cache(tmp_path, 2**20)
    cache.put("a", b"x" * 5000)
    path = cache._path("a")
    path.write_bytes(bytes(path.stat().st_size))
    assert cache.get("a", 5000) is None and not path.exists() and cache._read() == 0


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"loader\.cache_dir .*file/x cannot be written"):
        Cache(tmp_path / "file" / "x", 1)


# --- a real S3


def test_a_real_s3_server(tmp_path, monkeypatch, sources):
    """moto: what S3 itself answers, signed requests, lists and ETags of its own."""
    moto = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[s3]' flask flask-cors")
    running = moto.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    try:
        use(monkeypatch, "http://{}:{}".format(*running.get_host_and_port()))
        bucket = object_store._store("s3://real")
        import urllib.request

        request = urllib.request.Request(os.environ["AWS_ENDPOINT_URL"] + "/real", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()
        import obstore

        near = sources("tar")
        object_store.put("s3://real/x/a.tar", Path(near.index.files[0]))
        for i, name in enumerate(("c/0.jpg", "d e/1.jpg")):
            obstore.put(bucket, f"tree/{name}", near.read_one(i))
        far = open_source(Path("s3://real"), "x/*.tar", has_classes=True, max_pixels=MAX_PIXELS)
        assert far.read(range(9)) == near.read(range(9))
        tree = open_source(Path("s3://real"), "tree", has_classes=True, max_pixels=MAX_PIXELS)
        assert tree.index.classes == ("c", "d e") and tree.read([0, 1]) == near.read([0, 1])
        large = tmp_path / "large"  # in several parts
        large.write_bytes(os.urandom(11 * 2**20))
        object_store.put("s3://real/large", large)
        object_store.download("s3://real/large", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == large.read_bytes()
        object_store.delete(["s3://real/large"])
        with pytest.raises(UserError, match="s3://real/large does not exist"):
            object_store.head("s3://real/large")
        object_store.put("s3://real/x/a.tar", Path(__file__))
        with pytest.raises(UserError, match="has changed"):
            far.read_one(0)
    finally:
        running.stop()
        object_store._store.cache_clear()
