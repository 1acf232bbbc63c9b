"""`fastsemi compare`: what differs, what came of it, and whether the images are the same."""

import csv
import json
import shutil

import pytest

from fastsemi.api import Model
from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.run.config import to_yaml
from fastsemi.run.folder import RunFolder
from fastsemi.tools.compare import Paired, figures, notes, open_runs, paired, settings

STAGE = {"seconds": 12.4, "images_per_s": 1234.5}
SUMMARY = {
    "labelled": 12,
    "stages": {
        "finetune": {"top1": 50.0, "top5": 99.0, "balanced": 49.0, **STAGE},
        "semi": {
            **{
                "student_top1": 60.0,
                "student_balanced": 59.0,
                "teacher_top1": 61.04,
                "teacher_balanced": 58.0,
            },
            **{"chosen": {"network": "teacher", "top1": 62.0, "balanced": 61.0}, **STAGE},
        },
    },
    "baselines": [
        {"features": "pixels", "classifier": "SVM", "top1": 40.0, "balanced": 39.0, "seconds": 0.1},
        {"features": "pixels", "classifier": "prototypes", "top1": 45.0, "balanced": 44.0, "seconds": 0.1},
    ],
}


@pytest.fixture
def run(tiny, tmp_path):
    """The function `run(name, *options)`: the folder of a run that has ended, its weights left out."""

    def make(name, *options, summary=SUMMARY):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        folder.config.write_text(to_yaml(tiny("--output", str(folder.path), *options)))
        folder.summary.write_text(json.dumps(summary))
        return folder.path

    return make


def test_only_settings_that_differ_are_shown_and_all_figures(run, capsys, tmp_path):
    a, b = (
        run("a"),
        run(
            "b",
            "--semi.threshold",
            "0.9",
            "--semi.strong.randaugment",
            "",
            "--model.args.depth",
            "3",
            summary={"stages": {}},
        ),
    )
    runs = open_runs([a, b])
    shown = settings(runs)
    assert shown.pop("semi.threshold") == ["0.3", "0.9"]
    assert shown.pop("semi.strong.randaugment")[1] == '""'
    assert list(shown) == ["model.args"] and "'depth': 3" in shown["model.args"][1]
    assert figures(runs[0]) == {
        **{"labels": "12", "best simple classifier, top-1 %": "45.0 (prototypes)"},
        **{"finetune, top-1 %": "50.0", "finetune, balanced %": "49.0"},
        **{"finetune, seconds": "12", "finetune, images/s": "1,234"},
        **{"semi student, top-1 %": "60.0", "semi student, balanced %": "59.0"},
        **{"semi teacher, top-1 %": "61.0", "semi teacher, balanced %": "58.0"},
        **{"semi chosen, top-1 %": "62.0 (teacher)", "semi chosen, balanced %": "61.0"},
        **{"semi, seconds": "12", "semi, images/s": "1,234"},
    }
    assert main(["compare", str(a), str(b), "--csv", str(tmp_path / "table.csv")]) == 0
    assert "62.0 (teacher)" in capsys.readouterr().out
    with (tmp_path / "table.csv").open() as file:
        rows = {row[0]: row[1:] for row in csv.reader(file)}
    assert rows[""] == [str(a), str(b)] and rows["semi.threshold"] == ["0.3", "0.9"]
    assert rows["labels"] == ["12", "-"]


def test_other_evaluation_images_are_told(run, shapes, tmp_path):
    a, b = run("a"), run("b")
    other = tmp_path / "other"
    shutil.copytree(shapes, other)
    (other / "val" / "dot" / "009.png").unlink()
    c, d = run("c", "--data.root", str(other)), run("d", "--data.root", "/nowhere")
    runs = dict(zip("abcd", open_runs([a, b, c, d]), strict=True))
    assert list(notes([runs["a"], runs["b"]])) == [
        "the settings are the same",
        "all were evaluated on the same images, by their names and classes",
    ]
    assert list(notes(list(runs.values()))) == [
        f"{d}: its evaluation images are not here, so whether they are the same is unknown",
        f"{c} was evaluated on other images than {a}: accuracies do not compare",
    ]
    for wrong, match in (("c", "differ"), ("d", "not here")):
        with pytest.raises(UserError, match=match):
            list(paired([runs["a"], runs[wrong]]))


def test_mcnemar():
    """2 (C(10,0) + C(10,1)) / 2^10 for one against nine (Dietterich, 1998, in its exact form)."""
    found = Paired(only_first=1, only_second=9, images=100)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10) and found.points == pytest.approx(8)
    assert Paired(0, 0, 10).p == 1


def test_networks_are_paired_on_the_same_images(tiny, left, tmp_path, capsys):
    configs = [tiny("--output", str(tmp_path / name)) for name in "ab"]
    right = []
    for seed, config in enumerate(configs):
        left(config, seed)
        found = Model(config).predict(config.data.root / "val")
        right.append({path: path.split("/")[-2] == name for path, name, _ in found})
    a, b = right
    runs = open_runs([config.output for config in configs])
    ((run, found),) = paired(runs)
    assert run is runs[1] and found.images == 30
    assert found.only_first == sum(a[path] and not b[path] for path in a) > 0
    assert found.only_second == sum(b[path] and not a[path] for path in a) > 0
    assert main(["compare", *(str(run.path) for run in runs), "--paired"]) == 0
    assert f"{found.points:+.1f} points on 30 images" in capsys.readouterr().out


def test_one_run_is_not_compared(run, capsys):
    assert main(["compare", str(run("a"))]) == 2
    assert "give another" in capsys.readouterr().err
    assert main(["compare", "/nowhere", "/neither"]) == 2
    assert "/nowhere holds no run" in capsys.readouterr().err
