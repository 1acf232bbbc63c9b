"""Odd pictures: every engine gives the same of each from any source, or refuses it in one line."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from fastsemi.common.errors import BadImageError, UserError

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
def packed(odd, folder, tmp_path_factory, contract):
    """The function `packed(kind)`: the pictures in a kind of source; in a .beton those that are delivered."""
    known = {}

    def get(kind):
        if kind not in known:
            given = folder
            if kind.startswith("beton"):
                sound = tmp_path_factory.mktemp("sound")
                (sound / "a").mkdir()
                for i, error in enumerate(odd.one_by_one("reference", folder)[0]):
                    if error is None:
                        shutil.copy(folder.name(i), sound / "a")
                given = contract.open_images(sound)
            known[kind] = contract.pack(kind, given, tmp_path_factory.mktemp(kind))
        return known[kind]

    return get


@pytest.mark.sources("folder", "tar", "parquet", "beton")
def test_delivered_alike_or_refused_by_name(engine, kind, odd, packed):
    source = packed(kind)
    errors, views = odd.one_by_one(engine, source)
    same_errors, same_views = odd.one_by_one("reference", source)
    for i, (error, same) in enumerate(zip(errors, same_errors, strict=True)):
        name = packed("folder").name(i) if kind != "beton" else source.name(i)
        assert (error is None) == (same is None), (name, error, same)
        if error is None:
            assert (views[i] - same_views[i]).abs().mean() <= odd.BOUND, name
        else:
            assert isinstance(error, BadImageError) and error.path == source.name(i), name
            assert "\n" not in str(error), name
    assert kind == "beton" or sum(error is not None for error in errors) > 20


@pytest.mark.parametrize("name", ["zeros_inside.jpg", "cut_in_half_and_ended.jpg", "restart_marker_lost.jpg"])
def test_damage_is_not_packed_into_a_beton(odd, name, tmp_path, contract):
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / name).write_bytes(odd.pictures()[name])
    with pytest.raises(BadImageError, match="Corrupt JPEG data"):
        contract.pack("beton", contract.open_images(tmp_path / "set"), tmp_path)


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
    assert odd.one_by_one(engine, source)[0] == [None] * len(source)


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
