"""Studies: the grids of the paper's tables, shared stages, resuming, failures and reports."""

import csv
import functools
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.tools.study import runner
from fastsemi.tools.study.jobs import plan_study
from fastsemi.tools.study.results import seed_means, text_table, write_cells
from fastsemi.tools.study.study_file import load_study
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "configs" / "studies"

FILE = """
title: A study
presets:
  small: tiny.yaml
  other: {base: tiny.yaml, set: {semi.base_lr: 0.002}}
axes:
  method:
    plain: {semi.mixing: none}
    mixed: {semi.mixing: prob}
  epochs:
    0: {skip: finetune}
    2: {finetune.length: 2 epochs, finetune.warmup: 0 epochs}
where:
  - {preset: small, method: [plain, mixed], epochs: 2, set: {semi.threshold: 0.7}}
paper:
  small:
    plain: {0: 62.7, 2: {finetune: 24.7, teacher: 62.5}}
    mixed: {0: fails, 2: null}
"""


@pytest.fixture
def study_file(tiny, tmp_path):
    """The study above, beside the preset that `tiny` has written."""
    path = tmp_path / "study.yaml"
    path.write_text(FILE)
    return path


def _cell(study, name):
    return next(cell for cell in study.cells if cell.name == name)


def test_no_cell_of_a_csv_is_a_formula(study_file, tmp_path):
    study_file.write_text(FILE.replace("plain", "'=1+2'"))
    study = load_study(study_file)
    plan = plan_study(study, [0], tmp_path / "runs")
    write_cells(study, seed_means(study, plan.entries), tmp_path / "cells.csv")
    with open(tmp_path / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"'=1+2", "mixed"}
    assert {row["epochs"] for row in rows} == {"0", "2"}


def test_cells_are_presets_times_axes_without_those_the_paper_leaves_out(study_file):
    study = load_study(study_file)
    names = [cell.name for cell in study.cells]
    assert names == [
        "small, plain, 0",
        "small, plain, 2",
        "small, mixed, 0",
        "other, plain, 0",
        "other, plain, 2",
        "other, mixed, 0",
        "other, mixed, 2",
    ]
    cell = _cell(study, "small, plain, 2")
    assert cell.config.semi.mixing == "none" and cell.config.semi.threshold == 0.7
    assert str(cell.config.finetune.length) == "2 epochs"
    assert cell.paper == {"small": {"finetune": 24.7, "teacher": 62.5}}
    assert _cell(study, "small, mixed, 0").config.stages == ("pretrain", "semi")
    assert _cell(study, "other, mixed, 2").config.semi.base_lr == 0.002
    assert _cell(study, "other, mixed, 2").config.semi.threshold == 0.3


def test_other_presets_take_the_place_of_the_study_s_own(study_file, tmp_path):
    (tmp_path / "mine.yaml").write_text("base: tiny.yaml\nsemi: {batch: 9}\n")
    study = load_study(
        study_file, configs=[tmp_path / "mine.yaml"], overrides=["--semi.threshold", "0.4"], only=["epochs=2"]
    )
    assert [cell.name for cell in study.cells] == ["mine, plain, 2", "mine, mixed, 2"]
    assert study.name == "study_mine"
    cell = study.cells[0]
    assert (cell.config.semi.batch, cell.config.semi.threshold) == (9, 0.4)
    assert cell.paper == {"small": {"finetune": 24.7, "teacher": 62.5}}


def test_a_seed_trains_and_draws_labels(study_file):
    config = load_study(study_file).cells[0].with_seed(7)
    assert (config.seed, config.data.labels.seed) == (7, 7)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("semi.mixing: none", "semi.mixng: none", r"cell small, plain, 0: unknown key semi.mixng"),
        ("title:", "titel:", "unknown key titel"),
        ("mixed: {0: fails", "blended: {0: fails", "no method 'blended'"),
        ("{finetune: 24.7", "{finetuned: 24.7", "has numbers for"),
        ("small: tiny.yaml", "small: [tiny.yaml]", "preset small"),
        ("small: tiny.yaml", "small: nowhere.yaml", "does not exist"),
        ("plain: {semi.mixing: none}", "plain: none", "axis method"),
        ("method: [plain, mixed], epochs: 2, set", "methods: plain, set", "methods"),
    ],
)
def test_wrong_studies_are_refused_in_one_line(study_file, old, new, message):
    assert old in FILE
    study_file.write_text(FILE.replace(old, new))
    with pytest.raises(UserError, match=message) as error:
        load_study(study_file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "tau=1"], "names no axis"),
        (["--only", "epochs=3"], "no value '3'"),
        (["--seeds", "0,0"], "--seeds"),
        (["--seeds", "a"], "--seeds"),
        (["--jobs", "0"], "--jobs"),
        (["--semi.treshold", "1"], "did you mean semi.threshold"),
    ],
)
def test_wrong_options_are_refused(study_file, capsys, arguments, message):
    assert main(["study", str(study_file), "--list", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_cells_share_the_stages_whose_settings_agree(study_file, tmp_path):
    work = plan_study(load_study(study_file), [0, 1], tmp_path)
    stages = [job.stage for job in work.jobs.values()]
    assert stages == sorted(stages, key=["pretrain", "finetune", "semi"].index)
    # small and other differ in the semi stage alone; with 0 epochs there is no fine-tuning
    assert {stage: stages.count(stage) for stage in stages} == {"pretrain": 2, "finetune": 2, "semi": 14}
    for entry in work.entries:
        assert [job.before for job in entry.jobs] == [None, *entry.jobs[:-1]]
        assert all(job.config.seed == entry.seed for job in entry.jobs)


def test_another_study_shares_the_runs_in_the_same_folder(study_file, tmp_path):
    whole = plan_study(load_study(study_file), [0], tmp_path)
    part = plan_study(load_study(study_file, only=["method=mixed"]), [0], tmp_path)
    assert part.jobs.keys() < whole.jobs.keys()


# The paper's tables, typed from it: cells, fine-tuned and final numbers in the order of the grid.
SIZES = {"table2": 8, "table3": 16, "table4": 28, "table5": 24, "table6": 20, "table7": 16, "table8": 4}


@pytest.fixture(scope="module")
def table():
    """The function `table(name)`: the study of a table of the paper, read once."""
    return functools.cache(lambda name: load_study(STUDIES / f"{name}.yaml"))


@pytest.mark.parametrize("name", SIZES)
def test_studies_of_the_paper_are_whole(name, table):
    study = table(name)
    assert len(study.cells) == SIZES[name]
    for cell in study.cells:
        assert set(cell.paper) == {cell.preset} and "teacher" in cell.paper[cell.preset]
        assert str(cell.config.data.root) == "data/imagenet"


def test_emateacher_at_ten_percent_has_the_threshold_of_table_4(table):
    for name, where in (("table2", "EMA-Teacher"), ("table3", "none"), ("table5", "EMA-Teacher, 0.9999")):
        cell = _cell(table(name), f"ViT-B MAE 10 %, {where}")
        assert cell.paper[cell.preset]["teacher"] == 78.1
        assert cell.config.semi.threshold == 0.7
    cell = _cell(table("table6"), "ViT-B MAE 10 %, EMA-Teacher, 100")
    assert cell.config.semi.threshold == 0.7 and cell.paper[cell.preset]["teacher"] == 78.1
    cell = _cell(table("table6"), "ViT-B MAE 10 %, Semi-ViT, 0")
    assert cell.config.semi.threshold == 0.5 and cell.config.stages == ("semi",)


@pytest.fixture
def forks(monkeypatch, fork, pageless):
    """The runs of a study are forks, which need not import anything."""
    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": fork}))


def _study(file, tmp_path, *arguments):
    return main(
        [
            "study",
            str(file),
            "--only",
            "epochs=2",
            "--output",
            str(tmp_path / "out"),
            "--threads",
            "1",
            *arguments,
        ]
    )


@pytest.mark.slow
def test_a_study_runs_skips_reports_and_survives_a_failing_cell(study_file, tmp_path, capsys, forks):
    text = FILE.replace(
        "mixed: {semi.mixing: prob}",
        "mixed: {semi.mixing: prob}\n    broken: {semi.clip_grad: 1.0e-300, semi.base_lr: 1.0e+38}",
    )
    study_file.write_text(
        text.replace("  other: {base: tiny.yaml, set: {semi.base_lr: 0.002}}\n", "").replace(
            "2: null", "2: 69.8"
        )
    )
    assert _study(study_file, tmp_path, "--seeds", "0,1", "--jobs", "2") == 1
    out = capsys.readouterr().out
    assert "A study: 3 cells, 6 with all seeds, in 10 runs (2 pretrain, 2 finetune, 6 semi)" in out
    assert "failed: small, broken, 2, seed 0" in out
    folder = tmp_path / "out" / "study"
    rows = list(csv.DictReader((folder / "cells.csv").open()))
    assert [(row["method"], row["n"]) for row in rows] == [("plain", "2"), ("mixed", "2"), ("broken", "0")]
    assert rows[0]["paper"] == "62.5" and rows[0]["paper, fine-tuned"] == "24.7"
    seeds = list(csv.DictReader((folder / "seeds.csv").open()))
    teacher = [float(row["teacher"]) for row in seeds if row["method"] == "plain"]
    assert float(rows[0]["teacher_mean"]) == pytest.approx(sum(teacher) / 2, abs=1e-3)
    assert float(rows[0]["teacher_std"]) == pytest.approx(abs(teacher[0] - teacher[1]) / 2**0.5, abs=1e-3)
    assert {"table.md", "plot.png", "plot.svg"} <= {path.name for path in folder.iterdir()}
    # The cells of a seed start from one fine-tuned network.
    runs = tmp_path / "out" / "runs"
    starts = {p.stat().st_ino for p in runs.glob("semi-*/checkpoints/finetune_result.pt")}
    assert len(starts) == 2

    times = {path: path.stat().st_mtime_ns for path in runs.glob("*/checkpoints/*_result.pt")}
    assert _study(study_file, tmp_path, "--seeds", "0,1", "--only", "method=plain,mixed") == 0
    assert "8 finished" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in runs.glob("*/checkpoints/*_result.pt")}


def test_a_stopped_study_goes_on_to_the_same_weights(study_file, tmp_path, fork, forks, monkeypatch):
    """It is stopped when its run has come to step 4, with a checkpoint of step 3, and waits there."""
    study = ["study", str(study_file), "--only", "epochs=2", "--only", "method=mixed"]
    study += ["--threads", "1", "--stages", "[finetune, semi]"]
    assert main([*study, "--output", str(tmp_path / "whole")]) == 0
    halves = [*study, "--output", str(tmp_path / "halves")]
    command = [sys.executable, "-m", "fastsemi.commands.cli", *halves]
    update = Trainer.update

    def wait_at_four(self, batches):
        while self.stage.name == "semi" and self.step == 4 and not self._stop.now():
            time.sleep(0.02)
        update(self, batches)

    with (tmp_path / "halves.txt").open("w+") as said, monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", wait_at_four)
        process = fork(command, stdout=said, stderr=said)
        runs = tmp_path / "halves" / "runs"
        deadline = time.monotonic() + 200
        while not list(runs.glob("semi-*/checkpoints/semi-*")) and time.monotonic() < deadline:
            assert process.poll() is None, said.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        said.seek(0)
        assert "the same command goes on there" in said.read()
    log = next(runs.glob("semi-*/log.txt"))
    assert "the same command resumes there" in log.read_text()
    assert main(halves) == 0
    assert re.search(r"semi: resumes at step [45] of 8", log.read_text())
    results = (
        next((tmp_path / name / "runs").glob("semi-*/checkpoints/semi_result.pt"))
        for name in ("whole", "halves")
    )
    one, two = (checkpoint_file.load(path)["model"] for path in results)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_report_of_nothing_is_empty(study_file, tmp_path):
    study = load_study(study_file)
    rows = seed_means(study, plan_study(study, [0], tmp_path).entries)
    head, lines = text_table(study, rows)
    assert head[:4] == ["preset", "method", "epochs", "seeds"]
    assert {line[3] for line in lines} == {"0"}
