"""The loader benchmark runs and says what it measured, on a few small images."""

import io
import multiprocessing
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.harness import harness, photos, tables
from benchmarks.loading import loaders, peer_ffcv
from benchmarks.loading.comparison import AbsentError, Setup
from benchmarks.loading.loaders import PEERS
from fastsemi.common.errors import UserError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photo):
    """Sixteen JPEGs, and files that no run may take."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(16):
        photo(90 + 3 * i, 80 + 2 * i, i).save(root / f"{i}.jpg", quality=90)
    photo(50, 50).save(root / "hidden_png.jpg", format="PNG")
    photo(50, 50).convert("CMYK").save(root / "cmyk.jpg")
    (root / "broken.jpg").write_bytes(b"nothing")
    return root


@pytest.fixture(autouse=True)
def worker_imports():
    """What the workers of the peers use is imported once, where they are forked from."""
    modules = ["__main__", "benchmarks.loading.peers", "timm.data", "torchvision.transforms.v2"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)


@pytest.fixture
def run(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "MIN_SECONDS", 0.02)

    def run(*options):
        common = ["--images", str(pictures), "--count", "16", "--batch", "8", "--threads", "1"]
        common += ["--seconds", "0.1"]  # no round after the first
        return loaders.run([*common, "--json", str(tmp_path / "out.json"), *options])

    return run


def test_engines_give_rows_plots_and_a_table(run, tmp_path, monkeypatch):
    rows = run("--only", "reference,thread_pool,alone", "--plots", str(tmp_path / "plots"))
    assert harness.read(tmp_path / "out.json") == rows
    assert {(row["part"], row["label"]) for row in rows} == {
        ("views", "fastsemi thread_pool"),
        ("views", "fastsemi reference"),
        ("views", "full decode alone"),
        ("augmented", "fastsemi thread_pool"),
        ("augmented", "fastsemi reference"),
    }
    for row in rows:
        assert 0 < row["p20"] <= row["images_per_s"] <= row["p80"]
        assert row["configuration"]["images"] == 16 and row["threads"] == 1
    assert "full decode alone" in rows[-1]["configuration"]["absent"]
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["loaders.png", "loaders.svg"]
    results = tmp_path / "benchmarks" / "results"
    harness.write(results / "here" / "loaders.json", rows)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "RESULTS", results)
    assert f"| fastsemi thread_pool | {rows[0]['median']:,.0f} (" in tables.loaders()


def test_scaling_adds_thread_counts(run, tmp_path, monkeypatch):
    started = []

    def process(command, **options):
        assert command[:3] == [sys.executable, "-m", "benchmarks.loading.loaders"] and options["check"]
        started.append(loaders.run(command[3:]))

    monkeypatch.setattr(loaders, "subprocess", SimpleNamespace(run=process, DEVNULL=None))
    rows = run("--only", "alone", "--parts", "views", "--scaling", "1", "--plots", str(tmp_path / "plots"))
    assert [row["threads"] for row in rows] == [1, 1]
    assert rows[0]["run"] != rows[1]["run"]
    assert started == [rows[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("name", PEERS)
def test_peers_deliver_every_image_each_pass(name, augment, pictures, tmp_path, monkeypatch, fork):
    def run(command, **options):
        """FFCV's file is written by a fork, which need not import FFCV again."""
        with (tmp_path / "said").open("w+") as said:
            code = fork(command, stdout=said, stderr=said, cwd=options["cwd"]).wait()
            said.seek(0)
            return SimpleNamespace(returncode=code, stderr=said.read())

    monkeypatch.setattr(peer_ffcv, "subprocess", SimpleNamespace(run=run))
    files = loaders.copy_images(pictures, tmp_path / "images", 16)
    sizes = np.array([Image.open(path).size for path in files], dtype=np.int32)
    setup = Setup(tuple(map(str, files)), sizes, tmp_path, 1, augment, batch=8, image_size=64)
    try:
        loader = PEERS[name](setup)
    except AbsentError as error:
        pytest.skip(str(error))
    try:
        assert [loader.run_pass(), loader.run_pass(2)] == [16, 32]
    finally:
        loader.close()


def test_peers_that_cannot_run_say_what_to_install(monkeypatch):
    for name in ("spdl.pipeline", "torchcodec.decoders", "simplejpeg"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    setup = Setup((), np.zeros((0, 2), np.int32), None, 1)
    with pytest.raises(AbsentError, match=r"decodes no images; pip install 'torchcodec>=0\.16'"):
        PEERS["SPDL, TorchCodec"](setup)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(AbsentError, match=r"pip install spdl-core torchvision 'torchcodec>=0\.16'"):
        PEERS["SPDL, TorchCodec"](setup)
    PEERS["SPDL"](setup)  # which does without


def test_both_decoders_of_the_threads_give_the_same_views(pictures):
    files = tuple(map(str, sorted(pictures.glob("[0-9]*.jpg"))[:8]))
    sizes = np.array([Image.open(path).size for path in files], dtype=np.int32)
    found = []
    for name in ("SPDL", "SPDL, TorchCodec"):
        try:
            loader = PEERS[name](Setup(files, sizes, pictures, 1, batch=8, image_size=32))
        except AbsentError as error:
            pytest.skip(str(error))
        found.append(loader._views((files[0], [3, 5, 40, 30], [0, 0, 20, 20], True, False)))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape == (3, 32, 32) and one.dtype == other.dtype
        assert (one.int() - other.int()).abs().float().mean() < 1


def test_a_loader_that_loses_images_stops_the_run(run, monkeypatch):
    class Lossy:
        def run_pass(self, times):
            return 15 * times

        def close(self):
            pass

    monkeypatch.setitem(loaders.LOADERS, "lossy", lambda setup: Lossy())
    with pytest.raises(RuntimeError, match="lossy delivered 15 of 16"):
        run("--only", "lossy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nobody"], "the names are: fastsemi native"),
        (["--threads", "4096"], "use 1 to"),
        (["--parts", "all"], "views or augmented"),
        (["--count", "17", "--batch", "17"], "16 colour JPEGs"),
        (["--count", "4"], "does not fill a batch"),
        (["--images", "/nonexistent"], "no folder"),
    ],
)
def test_wrong_options_end_with_one_line(options, message, run, monkeypatch, capsys, pictures):
    with pytest.raises(UserError, match=message):
        run(*options)
    monkeypatch.setattr(sys, "argv", ["loaders", "--images", str(pictures), *options])
    assert harness.exit_code(loaders.run) == 2
    assert message in (text := capsys.readouterr().err) and text.count("\n") == 1


def _grain(width, height):
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_cut_photographs_are_deterministic_jpegs_of_imagenet_sizes(tmp_path):
    _grain(900, 800).save(tmp_path / "photo.png")
    files = photos.cut(tmp_path / "out", 12, [tmp_path / "photo.png"])
    assert photos.cut(tmp_path / "out", 12, [tmp_path / "photo.png"]) == files
    again = photos.cut(tmp_path / "again", 12, [tmp_path / "photo.png"])
    assert [p.read_bytes() for p in files] == [p.read_bytes() for p in again]
    assert len({p.read_bytes() for p in files}) == 12
    for path in files:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert image.format == "JPEG" and image.mode == "RGB"
            assert 400 <= max(image.size) <= 640 and min(image.size) >= 250
            assert image.layer[0][1:3] == (2, 2)  # luma sampling factors of 4:2:0


def test_flat_or_small_photographs_are_refused_in_one_line(tmp_path):
    Image.new("RGB", (900, 900), "blue").save(tmp_path / "flat.png")
    _grain(300, 300).save(tmp_path / "small.png")
    for name in ("flat.png", "small.png"):
        with pytest.raises(UserError, match="--images"):
            photos.cut(tmp_path / "out", 4, [tmp_path / name])
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read photograph"):
        photos.cut(tmp_path / "out", 4, [tmp_path / "bad.jpg"])
    assert not list((tmp_path / "out").iterdir())
