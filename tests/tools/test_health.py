"""What `fastsemi doctor --data` finds of images: copies, leaks, labels, kinds, broken files."""

import json
import shutil
from contextlib import closing

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastsemi.commands.cli import main
from fastsemi.loaders.data import Data
from fastsemi.tools.health.hashes import flat, hashes
from fastsemi.tools.health.near import MOST_BITS, close_pairs
from fastsemi.tools.health.roles import roles_of


def test_close_hashes_are_those_that_comparing_all_with_all_finds():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**64, 400, dtype=np.uint64)
    second = first.copy()
    for n in range(len(second)):
        for bit in rng.choice(64, rng.integers(0, 12), replace=False):
            second[n] ^= np.uint64(1 << int(bit))
    hashed = np.concatenate([first, second])
    found = [
        pair for i, j in close_pairs(hashed, hashed) for pair in zip(i.tolist(), j.tolist(), strict=True)
    ]
    bits = np.unpackbits((hashed[:, None] ^ hashed).view(np.uint8), axis=1).reshape(800, 800, 64).sum(2)
    wanted = {(i, j) for i, j in np.argwhere(bits <= MOST_BITS).tolist() if i < j}
    assert set(found) == wanted and len(found) == len(wanted) > 200, "each once"
    assert not list(close_pairs(hashed[:0], hashed[:0]))


def test_a_hash_knows_its_mirror_image_and_flat_pictures_have_none(photo):
    grey = np.stack([np.asarray(photo(32, 32, seed).convert("L")) for seed in range(6)])
    straight, mirrored = hashes(grey)
    again, back = hashes(grey[:, :, ::-1])
    for one, other in ((mirrored, again), (straight, back)):
        assert max(int(difference).bit_count() for difference in one ^ other) <= 2
    noise = np.random.default_rng(0).integers(200, 203, (1, 32, 32), dtype=np.uint8)
    assert flat(np.concatenate([grey, noise])).tolist() == [False] * 6 + [True]


@pytest.fixture
def sick(photo, tmp_path):
    """A folder of pictures with one of everything that may be wrong with it."""
    root = tmp_path / "sick"
    for folder in ("train/a", "train/b", "val/a", "val/b", "unlabeled"):
        (root / folder).mkdir(parents=True)
    for seed, name in enumerate(("train/a/0", "train/a/1", "train/b/2", "train/b/3", "val/a/4", "val/b/5")):
        photo(96, 80, seed).save(root / f"{name}.png")
    shutil.copy(root / "train/a/0.png", root / "train/a/same.png")
    shutil.copy(root / "train/a/1.png", root / "train/b/wrong.png")
    photo(96, 80, 2).resize((60, 50)).save(root / "val/b/small.jpg", quality=70)
    ImageOps.mirror(photo(96, 80, 3)).save(root / "val/b/mirrored.png")
    photo(96, 80, 4).save(root / "unlabeled/again.webp", quality=90)
    for n in range(3):
        Image.new("RGB", (40, 40), (10 * n, 0, 0)).save(root / f"train/a/blank{n}.png")
    Image.fromarray((np.arange(1024).reshape(32, 32) * 60).astype(np.uint16)).save(root / "train/a/deep.png")
    clear = photo(100, 20, 6)
    clear.putalpha(128)
    clear.save(root / "train/a/clear.png")
    exif = Image.Exif()
    exif[274] = 6
    photo(50, 40, 7).save(root / "train/a/lying.jpg", exif=exif)
    (root / "train/a/broken.png").write_bytes((root / "train/a/0.png").read_bytes()[:-300])
    (root / "train/a/notes.txt").write_text("no image")
    return root


def test_everything_that_may_be_wrong_with_a_folder_is_told(sick, tmp_path, capsys):
    assert main(["doctor", "--data", str(sick), "--json", str(tmp_path / "found.json")]) == 1
    said, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    assert found["roles"] == {"training": 13, "unlabelled": 1, "evaluation": 4}
    assert [(c["name"], c["images"]) for c in found["classes"]] == [
        ("a", {"training": 10, "evaluation": 1}),
        ("b", {"training": 3, "evaluation": 3}),
    ]
    assert found["skipped"] == {".txt": 1} and found["unevenness"] == pytest.approx(10 / 3)
    assert (found["turned"], found["deep"], found["transparent"]) == (1, 1, 1)
    assert (found["sizes"]["least"], found["sizes"]["most"], found["sizes"]["narrow"]) == (20, 100, 1)
    assert list(found["broken"]) == [str(sick / "train/a/broken.png")]
    doubles = found["doubles"]
    assert doubles["flat"] == 3 and doubles["complete"]
    assert doubles["same"] == {"training": 2, "unlabelled": 0, "evaluation": 0}
    assert not any(doubles["near"].values()) and not any(doubles["mirrored"].values())
    pairs = [(p["how"], p["image"], p["other"]) for p in (*doubles["leaks"], *doubles["conflicts"])]
    assert pairs == [
        ("nearly the same", str(sick / "val/a/4.png"), str(sick / "unlabeled/again.webp")),
        ("nearly the same", str(sick / "val/b/small.jpg"), str(sick / "train/b/2.png")),
        ("mirror image", str(sick / "val/b/mirrored.png"), str(sick / "train/b/3.png")),
        ("same file", str(sick / "train/b/wrong.png"), str(sick / "train/a/1.png")),
    ]
    assert "leak: 3 of 4 evaluation images are in the training set too" in said
    assert "likely wrong labels: 1" in said and "set data.exif to apply" in said and ".txt" in said
    assert "set data.max_bad to 1" in said


def test_one_image_without_company_is_well(photo, tmp_path, capsys):
    (tmp_path / "set" / "only").mkdir(parents=True)
    photo(40, 40).save(tmp_path / "set" / "only" / "a.png")
    assert main(["doctor", "--data", str(tmp_path / "set"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["roles"] == {"training": 1}


def test_held_out_images_have_one_role(tiny):
    config = tiny("--data.labels.validation", "0.25")
    with closing(Data(config.data, config.loader)) as data:
        roles = {role.name: role for role in roles_of(data, config.stages)}
        ids = np.concatenate([roles[name].images.ids for name in ("labelled", "held-out", "unlabelled")])
        assert sorted(ids) == list(range(120)) and len(roles["evaluation"].images.ids) == 30
        assert roles["held-out"].must_not_meet == ("labelled",)
        (alone,) = roles_of(data, ["pretrain"])
        assert alone.name == "pretraining" and len(alone.images.ids) == 120


def test_a_folder_beside_a_configuration_is_refused(tiny, tmp_path, capsys):
    tiny()
    assert main(["doctor", "--data", str(tmp_path), "--config", str(tmp_path / "tiny.yaml")]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main(["doctor", "--data", "--json", "/nowhere/found.json"]) == 2
    assert "the folder /nowhere does not exist" in capsys.readouterr().err


def test_where_too_many_images_are_alike_it_says_that_not_all_were_looked_at(sick, monkeypatch, capsys):
    monkeypatch.setattr("fastsemi.tools.health.likeness.MOST_LINKS", 0)
    assert main(["doctor", "--data", str(sick)]) == 1
    assert "the counts are lower bounds" in capsys.readouterr().out
