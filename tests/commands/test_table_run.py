"""What follows training, of a run whose labels are some rows of a table: all other images have none."""

import csv
import json
import shutil

import pytest

from fastsemi.commands.cli import main

BAR = "bar, flat"


@pytest.fixture
def table_run(untrained, shapes, tmp_path, monkeypatch):
    """A run of 36 pictures in one folder, 12 of which a CSV with a byte order mark names."""
    flat, rows = tmp_path / "flat", []
    flat.mkdir()
    for name in ("bar", "cross", "dot"):
        for file in sorted((shapes / "train" / name).iterdir())[:12]:
            shutil.copy(file, flat / f"{name}{file.name}")
            rows.append((f"{name}{file.name}", BAR if name == "bar" else name))
    with (flat / "labels.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("path", "label"), *rows[:6], *rows[12:17], *rows[24:25]])
    monkeypatch.chdir(tmp_path)
    options = ["--data.root", "flat", "--data.train", ".", "--data.val", "null", "--stages", "[semi]"]
    options += ["--data.labels.per_class", "null", "--data.labels.file", "flat/labels.csv"]
    options += ["--data.labels.validation", "0.25", "--semi.batch", "4", "--semi.length", "4 steps"]
    config = untrained(*options, classes=(BAR, "cross", "dot"))
    return str(config.output)


def test_every_command_takes_it(table_run, tmp_path, capsys):
    assert main(["doctor", "--data", "--output", table_run]) == 0
    said = capsys.readouterr().out
    assert "9 labelled, 3 held-out, 24 unlabelled images" in said
    assert "3 classes of 1 (dot) to 6 (bar, flat) training images" in said
    assert main(["evaluate", "--output", table_run, "--json", "found.json"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"] == 3 and [row["name"] for row in found["by_class"]] == [BAR, "cross", "dot"]
    assert main(["report", "--output", table_run]) == 0
    page = (tmp_path / "run/report.html").read_text()
    classes = page.partition("Images of each class")[2].partition("</table>")[0]
    assert BAR in classes and "held-out" in classes and "unlabelled" not in classes, (
        "whose classes nobody knows"
    )
    assert main(["views", "--output", table_run, "--count", "99"]) == 0, "as many as the batch has"
    capsys.readouterr()
    assert main(["suggest", table_run, "--count", "2"]) == 0
    assert "12 that have a label follow" in capsys.readouterr().out


def test_the_folder_alone_is_looked_at_as_init_takes_it(table_run, capsys):
    assert main(["doctor", "--data", "flat"]) == 0
    said = capsys.readouterr().out
    assert "36 training images" in said and "3 classes of 1 (dot) to 6 (bar, flat)" in said
