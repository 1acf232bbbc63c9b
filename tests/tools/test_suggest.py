"""`fastsemi suggest`: which images, in which order, and the table and sheet that a person gets."""

import csv
import tarfile
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from fastsemi.api import Model
from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.models.timm_folder import write_calibration
from fastsemi.run.calibrate import Calibration
from fastsemi.run.context import RunContext
from fastsemi.run.seen import look
from fastsemi.run.trained import trained_run
from fastsemi.tools.suggest.choose import choose, main_components, typicality
from fastsemi.tools.suggest.suggest import suggest
from fastsemi.tools.suggest.table import write_table
from fastsemi.tools.suggest.use import options as to_train


def _blobs(sizes, seed=0):
    """Points about far centres, so many about each; [N, 2], and the blob of each."""
    rng = np.random.default_rng(seed)
    blob = np.repeat(np.arange(len(sizes)), sizes)
    return (rng.normal(size=(len(blob), 2)) + 100 * np.stack([blob, blob % 2], 1)).astype(np.float32), blob


def test_each_group_without_a_label_gets_one_the_largest_first():
    x, blob = _blobs((30, 60, 40, 50))
    known = np.array([3, 31])  # of the first two
    chosen = choose(x, known, 2)
    assert blob[chosen].tolist() == [3, 2]
    assert blob[choose(x, known[:0], 4)].tolist() == [1, 3, 2, 0]


def test_of_a_group_the_most_typical_is_chosen():
    x, blob = _blobs((40, 40))
    for image in choose(x, np.zeros(0, np.int64), 2):
        mine = np.flatnonzero(blob == blob[image])
        near = NearestNeighbors(n_neighbors=21).fit(x[mine]).kneighbors(x[mine])[0]  # itself among them
        assert mine[near[:, 1:].mean(axis=1).argmin()] == image
    assert typicality(np.float32([[0], [1], [3], [9]]), np.array([0, 0, 0, 1])) == pytest.approx(
        [1 / 2, 1 / 1.5, 1 / 2.5, 0], rel=1e-4
    )


@pytest.mark.parametrize("x", [np.zeros((5, 3)), np.ones((1, 3)), np.eye(7)])
def test_whatever_lies_there_as_many_different_ones_as_wanted_are_chosen(x):
    known = np.arange(len(x) // 3)
    chosen = choose(main_components(x.astype(np.float32)), known, len(x) - len(known))
    assert sorted([*known, *chosen]) == list(range(len(x)))


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_asks_for_images_and_tells_what_it_takes_them_for(tiny, left, tmp_path, capsys):
    config = tiny("--data.labels.validation", "0.25")
    left(config, 0)
    kept = Calibration(temperature=2.5, images=9, of="held-out labels", digest="")
    write_calibration(config.output / "model", asdict(kept))
    table = tmp_path / "next.csv"
    assert main(["suggest", str(config.output), "--count", "5", "--to", str(table), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    rows = _rows(table)
    asked, labelled = rows[:5], rows[5:]
    assert len(labelled) == 12 and all(row["label"] == row["path"].split("/")[-2] for row in labelled)
    assert not {row["path"] for row in asked} & {row["path"] for row in labelled}  # held-out ones neither
    found = {path: (name, sure) for path, name, sure in Model(config).predict(config.data.root / "train")}
    for row in asked:
        assert (row["label"], row["predicted"]) == ("", found[row["path"]][0])
        assert float(row["confidence"]) == pytest.approx(found[row["path"]][1], abs=1e-3)
    sheet = Image.open(table.with_suffix(".png"))
    assert sheet.width > sheet.height > 100

    with trained_run(config) as here:
        seen = look(*(here.model, here.data.val, here.data, here.views, here.precision), classes=3, batch=7)
    assert seen.x.shape == (30, 32) and seen.shares.sum(axis=1) == pytest.approx(np.ones(30), abs=1e-5)


def test_first_labels_of_a_folder_and_more_of_a_configuration(tiny, shapes, tmp_path):
    table, sheet = tmp_path / "first.csv", tmp_path / "sheet.png"
    first = ["suggest", "--images", str(shapes / "train"), "--count", "9", "--to", str(table)]
    assert main([*first, "--sheet", str(sheet)]) == 0
    rows = _rows(table)
    assert len(rows) == 9 and sheet.exists()
    assert {(row["label"], row["predicted"], row["confidence"]) for row in rows} == {("", "", "")}
    config = tiny("--data.labels.per_class", "2")
    further = ["--data.labels.per_class", "2", "--count", "4", "--force", "--to", str(table)]
    assert main(["suggest", "--config", str(tmp_path / "tiny.yaml"), *further]) == 0
    rows = _rows(table)
    run = RunContext(config)
    assert [row["path"] for row in rows[4:]] == run.data.labelled.index.paths(run.data.labelled.ids)
    run.close()
    assert {row["predicted"] for row in rows[:4]} <= {"bar", "cross", "dot"}


def _layouts(shapes, folder):
    """Options of the ways to name images and labels."""
    every, some = ["path,label,split"], ["path,label"]
    for path in sorted(shapes.glob("*/*/*.png")):
        part, label, number = *path.parts[-3:-1], int(path.stem)
        if part == "val" and number >= 5:
            part = "test"
        every.append(f"{path},{'' if part == 'train' and number % 4 else label},{part}")
        if part == "train" and number % 9 == 0:
            some.append(f"{path},{label}")
    (folder / "all.csv").write_text("\n".join(every))
    (folder / "some.csv").write_text("\n".join(some))
    (folder / "more").mkdir()
    for i in range(6):
        Image.new("RGB", (16, 16), (40 * i, 9, 9)).save(folder / "more" / f"{i}.png")
    return {
        "class folders": [],
        "unlabelled elsewhere": [f"--data.unlabeled=[{folder}/more, {shapes}/train/dot, {shapes}/val/dot]"],
        "table": [f"--data.train={folder}/all.csv", f"--data.val={folder}/all.csv"],
        "labels of a folder": ["--data.labels.per_class=null", f"--data.labels.file={folder}/some.csv"],
        "labels and parts": [
            *("--data.labels.per_class=null", f"--data.labels.file={folder}/all.csv"),
            *("--data.train=.", f"--data.val={folder}/all.csv"),
        ],
    }


@pytest.mark.parametrize(
    "layout", ["class folders", "unlabelled elsewhere", "table", "labels of a folder", "labels and parts"]
)
def test_a_filled_in_table_adds_its_labels_and_moves_no_other_image(layout, tiny, shapes, tmp_path):
    options = _layouts(shapes, tmp_path)[layout]

    def images(*further):
        """Labels of those that have one, the others, and those to evaluate on."""
        config = tiny(*options, *further)
        with closing(Data(config.data, config.loader)) as data:
            known, rest, val = (
                part.index.paths(part.ids) for part in (data.labelled, data.unlabelled, data.val)
            )
            names = [data.classes[c] for c in data.labelled.index.labels[data.labelled.ids]]
        return dict(zip(known, names, strict=True)), set(rest), set(val)

    known, rest, val = images()
    found = suggest(tiny(*options), 3, drawn=1)
    asked = {row.path for row in found.rows}
    assert len(asked) == 3 and asked <= rest - known.keys() - val
    filled, table = [replace(row, label="dot") for row in found.rows], tmp_path / "the next.csv"
    write_table(replace(found, rows=filled), table)
    expected = known | dict.fromkeys(asked, "dot"), rest - known.keys() - val - asked, val
    assert images(*to_train(tiny(*options).data, table)) == expected


def test_images_in_archives_are_refused_since_no_table_can_name_them(tiny, tmp_path):
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        for i in range(3):
            Image.new("RGB", (16, 16)).save(tmp_path / f"{i}.png")
            tar.add(tmp_path / f"{i}.png", f"{i}.png")
    with pytest.raises(UserError, match=r"more\.tar lie in archives"):
        suggest(tiny(f"--data.unlabeled={tmp_path}/more.tar"), 2, drawn=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["nothing to choose from"]),
        (["--images", "/nowhere"], ["/nowhere", "not exist"]),
        (["/nowhere"], ["/nowhere holds no trained model"]),
        (["--images", "SHAPES", "--count", "0"], ["--count 0"]),
        (["--images", "SHAPES", "--count", "121"], ["--count 121", "120 readable images"]),
        (["--images", "PHOTOS"], ["photos/val", "photos/unlabeled"]),
        (["--images", "mine.csv"], ["mine.csv is no folder", "name a folder"]),
        (["--images", "SHAPES", "--to", "/nowhere/x.csv"], ["/nowhere", "make it"]),
        (["--images", "SHAPES", "--to", "x.png"], ["x.png", ".csv"]),
        (["--images", "SHAPES", "--to", "labels"], ["labels does not end in .csv"]),
        (["--images", "SHAPES", "--to", "mine.csv"], ["mine.csv is there already", "--force"]),
    ],
)
def test_what_cannot_be_suggested_is_refused(options, words, shapes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("path,label\nx.png,precious\n")
    (tmp_path / "photos" / "val").mkdir(parents=True)
    options = [str(shapes / "train") if option == "SHAPES" else option for option in options]
    options = ["photos" if option == "PHOTOS" else option for option in options]
    assert main(["suggest", *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(word in error for word in words) and "precious" in (tmp_path / "mine.csv").read_text()
