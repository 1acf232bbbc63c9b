"""Odd pictures: every engine gives the same of each from any source, or refuses it in one line that names it."""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.index.index import MAX_PIXELS
from fastsemi.loaders.plan.types import PlannedBatch, ViewPlan

BOUND = 1.5  # mean absolute difference of an image from the reference, of 255, as in the contract
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def odd():
    """The module `odd_pictures.py` of this folder."""
    spec = importlib.util.spec_from_file_location("odd_pictures", Path(__file__).with_name("odd_pictures.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(odd, tmp_path_factory, contract):
    """All pictures."""
    root = tmp_path_factory.mktemp("odd")
    odd.write(root / "a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSEMI_CACHE", str(tmp_path_factory.mktemp("cache")))
        return contract.open_images(root)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory, contract):
    """The function `packed(kind)`: the pictures in a kind of source, made once; in a .beton those delivered."""
    known = {}

    def get(kind):
        if kind not in known:
            given = folder
            if kind.startswith("beton"):
                sound = tmp_path_factory.mktemp("sound")
                (sound / "a").mkdir()
                for i, error in enumerate(one_by_one("reference", folder)[0]):
                    if error is None:
                        shutil.copy(folder.name(i), sound / "a")
                given = contract.open_images(sound)
            known[kind] = contract.pack(kind, given, tmp_path_factory.mktemp(kind))
        return known[kind]

    return get


def plans(source):
    """Each image alone, whole and its middle, mirrored."""
    for i in range(len(source)):
        width, height = (max(1, side) for side in source.size(i))
        middle = (width // 4, height // 4, max(1, width // 2), max(1, height // 2))
        windows = [np.array([window], np.int32) for window in ((0, 0, width, height), middle)]
        views = tuple(ViewPlan(w, np.array([flip])) for w, flip in zip(windows, (False, True), strict=True))
        yield PlannedBatch(np.array([i]), np.zeros(1, np.int64), views)


def one_by_one(engine, source):
    """Errors and views [N, 2, S, S, 3], each image as a batch of its own: what fails spoils no other."""
    running = create_engine(engine, source, image_size=48, threads=2, max_pixels=MAX_PIXELS)
    slots = torch.zeros((len(source), 2, 1, 48, 48, 3), dtype=torch.uint8)
    try:
        pending = [running.submit(plan, slot) for plan, slot in zip(plans(source), slots, strict=True)]
        return [waiting.result(60)[0] for waiting in pending], slots[:, :, 0].float()
    finally:
        running.close()


@pytest.mark.sources("folder", "tar", "parquet", "beton")
def test_delivered_alike_or_refused_by_name(engine, kind, packed):
    source = packed(kind)
    errors, views = one_by_one(engine, source)
    same_errors, same_views = one_by_one("reference", source)
    for i, (error, same) in enumerate(zip(errors, same_errors, strict=True)):
        name = packed("folder").name(i) if kind != "beton" else source.name(i)
        assert (error is None) == (same is None), (name, error, same)
        if error is None:
            assert (views[i] - same_views[i]).abs().mean() <= BOUND, name
        else:
            assert isinstance(error, BadImageError) and error.path == source.name(i), name
            assert "\n" not in str(error), name
    assert kind == "beton" or sum(error is not None for error in errors) > 20


def test_the_documented_outcomes_are_those_of_now(odd, folder):
    text = odd.PAGE.read_text().partition(odd.BEGIN)[2].partition(odd.END)[0]
    assert text == odd.table(folder), "run python tests/loaders/odd_pictures.py"


@pytest.mark.sources("folder", "tar")
def test_names_of_any_bytes(engine, kind, odd, tmp_path, contract):
    (tmp_path / "set" / "a").mkdir(parents=True)
    for name in odd.names():
        Path(os.fsdecode(bytes(tmp_path / "set" / "a") + b"/" + name)).write_bytes(odd.jpeg())
    source = contract.pack(kind, contract.open_images(tmp_path / "set"), tmp_path)
    assert len(source) == len(odd.names())
    assert one_by_one(engine, source)[0] == [None] * len(source)


def test_links_that_lead_nowhere_or_in_circles(odd, tmp_path, contract):
    folder = tmp_path / "set" / "a"
    odd.write(folder)
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "nowhere.jpg").symlink_to("absent.jpg")
    source = contract.open_images(tmp_path / "set")
    names = [Path(source.name(i)).name for i in range(len(source))]
    assert all(source.size(names.index(name)) == (0, 0) for name in ("itself.jpg", "nowhere.jpg"))
    (folder / "up").symlink_to("..")
    with pytest.raises(UserError, match=r"up is a link to a folder that contains it; remove the link"):
        contract.open_images(tmp_path / "set")
