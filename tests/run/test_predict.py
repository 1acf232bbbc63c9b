"""`fastsemi predict`: what it takes, what it writes, and what it leaves out."""

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastsemi.commands.cli import main
from fastsemi.common.files import csv_safe
from fastsemi.loaders.sources.named import named_images
from fastsemi.loaders.sources.open import open_unlabelled
from fastsemi.run.predict import Predictor


@pytest.fixture
def predict(untrained):
    """The function `predict(*words)`: the exit code of the command for a network of three classes."""
    config = untrained("--eval_batch", "7")
    return lambda *words: main(["predict", *map(str, words), "--output", str(config.output)])


def test_all_formats_hold_the_same(predict, shapes, tmp_path, capsys):
    folder, files = shapes / "val", [tmp_path / f"out.{ending}" for ending in ("csv", "jsonl", "parquet")]
    for file in files:
        assert predict(folder, "--to", file, "--top", "3") == 0
        assert capsys.readouterr().out == f"30 predictions in {file}\n"
    rows = list(csv.DictReader(files[0].open()))
    lines = [json.loads(line) for line in files[1].read_text().splitlines()]
    cells = pq.read_table(files[2]).to_pylist()
    columns = ["path", "class", "confidence", "class_2", "confidence_2", "class_3", "confidence_3"]
    assert list(rows[0]) == list(lines[0]) == list(cells[0]) == columns and cells == lines
    for row, line in zip(rows, lines, strict=True):
        assert row == {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in line.items()}
        shares = [line["confidence"], line["confidence_2"], line["confidence_3"]]
        assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
        assert {line["class"], line["class_2"], line["class_3"]} == {"bar", "cross", "dot"}
    assert predict(folder, "--csv", tmp_path / "old") == 0
    assert (tmp_path / "old").read_text().splitlines() == [
        "path,class,confidence",
        *(",".join(list(row.values())[:3]) for row in rows),
    ]


def test_the_files_of_jobs_in_a_row_are_the_whole(predict, shapes, tmp_path, capsys):
    """Also read as one table of images without labels."""
    assert predict(shapes / "val", "--to", tmp_path / "all.parquet") == 0
    parts = []
    for i in (1, 2, 3):
        assert predict(shapes / "val", "--to", tmp_path / "part.parquet", "--job", f"{i}/3") == 0
        parts.append(tmp_path / f"part-{i}-of-3.parquet")
    whole = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert pa.concat_tables(map(pq.read_table, parts)).to_pylist() == whole
    assert len(open_unlabelled(parts, max_pixels=10**6)) == 30
    (one,) = list((shapes / "val").glob("bar/000.png"))
    assert predict(one, "--to", tmp_path / "one.csv", "--job", "1/2") == 0
    assert (tmp_path / "one-1-of-2.csv").read_text() == "path,class,confidence\n", "an empty share"
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "0.png").write_bytes(b"broken")
    (tmp_path / "half" / "1.png").write_bytes(one.read_bytes())
    for i in (1, 2):
        assert predict(tmp_path / "half", "--to", tmp_path / "half.parquet", "--job", f"{i}/2") == 0
    assert "1 image left out, which cannot be read: " in capsys.readouterr().err
    halves = [pq.read_table(tmp_path / f"half-{i}-of-2.parquet") for i in (1, 2)]
    assert len(halves[0]) == 0 and len(pa.concat_tables(halves)) == 1
    assert predict(one, "--job", "0/2") == 2
    assert "--job is 0/2; give NUMBER/COUNT" in capsys.readouterr().err


def test_words_are_classified_in_their_order_as_alone(untrained, shapes, monkeypatch):
    config = untrained("--eval_batch", "7")
    predictor = Predictor(config)
    monkeypatch.chdir(shapes / "val")

    def look(*words):
        found = list(predictor.classify(named_images(words)))
        return [p for b in found for p in b.paths], np.concatenate([b.probabilities for b in found])

    folder, of_folder = look("cross")
    assert folder == [str(shapes / "val" / "cross" / f"{i:03}.png") for i in range(10)]
    mixed, of_mixed = look("dot/003.png", "cross", "cross/00[2-4].png")
    assert mixed == [str(shapes / "val" / "dot" / "003.png"), *folder, *folder[2:5]]
    np.testing.assert_allclose(of_mixed[1:], of_folder[[*range(10), 2, 3, 4]], atol=1e-6)
    np.testing.assert_allclose(of_mixed.sum(1), 1, atol=1e-6)


def test_broken_images_are_left_out_and_named(predict, shapes, tmp_path, capsys):
    folder, table = tmp_path / "new", tmp_path / "out.csv"
    shutil.copytree(shapes / "val" / "bar", folder)
    (folder / "003.png").write_bytes(b"broken")
    data = (folder / "005.png").read_bytes()
    (folder / "005.png").write_bytes(data[: len(data) // 2])  # its header is whole
    assert predict(folder, "--to", table) == 0
    said = capsys.readouterr()
    left = f"{folder / '003.png'}, {folder / '005.png'}"
    assert f"2 images left out, which cannot be read: {left}\n" in said.err
    assert said.out == f"8 predictions in {table}\n" and len(list(csv.reader(table.open()))) == 9


def test_what_cannot_be_written_is_refused_first(predict, shapes, tmp_path, capsys):
    for words, said in (
        (["--to", tmp_path / "x.xls"], "does not end in .csv, .jsonl, .parquet"),
        (["--to", tmp_path / "no" / "x.csv"], "does not exist; make it"),
        (["--to", "a.csv", "--csv", "b.csv"], "give one of them"),
        (["--csv", tmp_path], "is a folder"),
        (["--top", "0"], "--top is 0"),
        (["--top", "4"], "the model knows 3 classes"),
    ):
        assert predict(shapes / "val", *words) == 2
        assert said in capsys.readouterr().err


def test_no_cell_of_a_table_is_a_formula(untrained, shapes, tmp_path):
    config = untrained(classes=("=1+1", "-1", "@x"))
    words = ["predict", str(shapes / "val"), "--output", str(config.output), "--top", "3"]
    assert (
        main([*words, "--to", str(tmp_path / "x.csv")])
        == main([*words, "--to", str(tmp_path / "x.jsonl")])
        == 0
    )
    row = next(csv.DictReader((tmp_path / "x.csv").open()))
    assert {row["class"], row["class_2"], row["class_3"]} == {"'=1+1", "-1", "'@x"}
    line = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    assert {line["class"], line["class_2"], line["class_3"]} == {"=1+1", "-1", "@x"}
    assert [csv_safe(text) for text in ("+a", "\tb", "1e5", "-2.5", "a=b", "")] == [
        *("'+a", "'\tb", "1e5", "-2.5", "a=b", "")
    ]
