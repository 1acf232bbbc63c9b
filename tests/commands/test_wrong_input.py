"""Wrong input of every command and of the API: one line with what is wrong and the cure; no file changes."""

import os
import shlex

import pytest
from PIL import Image

import fastsemi
from fastsemi.commands.cli import main


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A working directory with pictures, runs, and files of every kind that are none of these."""
    root = tmp_path_factory.mktemp("desk")
    for place in ("photos/train/cat", "photos/train/dog", "photos/val/cat", "photos/val/dog", "flat"):
        (root / place).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (20, 20), (60 * i, len(place), 9)).save(root / place / f"{i}.png")
    (root / "photos.yaml").write_text(
        "output: out\nstages: [semi]\ndata: {root: photos, labels: {per_class: 2}}\n"
    )
    for run in ("run", "damaged"):
        (root / run / "model").mkdir(parents=True)
        (root / run / "config.yaml").write_text((root / "photos.yaml").read_text())
        (root / run / "model/config.json").write_text("{}")
    (root / "damaged/summary.json").write_bytes(b"\xff\x00{")
    (root / "damaged/config.yaml").write_bytes(bytes(range(256)))
    (root / "empty").mkdir()
    (root / "binary").write_bytes(bytes(range(256)))
    (root / "nothing").touch()
    (root / "there.csv").write_text("precious\n")
    (root / "latin.csv").write_bytes("path,label\n0.png,caf\xe9\n".encode("latin-1"))
    (root / "latin.yaml").write_bytes("output: caf\xe9\n".encode("latin-1"))
    (root / "list.yaml").write_text("- 1\n- 2\n")
    (root / "base.yaml").write_text("base: base.yaml\n")
    (root / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture(autouse=True)
def unchanged(desk, monkeypatch):
    """What is refused writes nothing."""
    monkeypatch.chdir(desk)
    before = _state(desk)
    yield
    assert _state(desk) == before


def _state(root):
    return {path: (os.lstat(path).st_mtime_ns, os.lstat(path).st_size) for path in root.rglob("*")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("init photos --per_class nan", "argument --per_class: invalid int value: 'nan'"),
        ("init photos/val/cat/0.png", "0.png is not a folder; correct the path"),
        ("init loop", "loop does not exist; correct the path"),
        ("init flat --labels latin.csv", "latin.csv, line 2: no UTF-8; save the table as CSV in UTF-8"),
        ("init flat --labels there.csv", "there.csv has no column of paths (its first line: precious)"),
        ("init flat --labels pipe", "pipe: no such file; correct --labels"),
        ("init photos --output photos.yaml/x.yaml", "the folder photos.yaml does not exist; make it"),
        (
            "train --config latin.yaml",
            "latin.yaml cannot be read: it is no UTF-8 text (byte 11); write it as such",
        ),
        ("train --config binary", "config binary cannot be read: it is no UTF-8 text"),
        ("train --config photos", "config photos cannot be read: Is a directory"),
        ("train --config nothing", "config nothing is empty; write it again"),
        ("train --config loop", "config loop cannot be read: Too many levels of symbolic links"),
        ("train --config list.yaml", "list.yaml holds no mapping; write lines such as 'seed: 0'"),
        ("train --config base.yaml", "base.yaml is based on itself; remove one of the base: lines"),
        ("train --config twice.yaml", "seed is given twice, first in line 1 (line 2"),
        ("train --config photos.yaml --output ''", "--output is empty; name the run directory"),
        ("train --config photos.yaml --output there.csv/run", "there.csv is a file; change --output"),
        ("train --config photos.yaml --budget nan", "'nan' is no time; write numbers with units"),
        ("train --config photos.yaml --stages '[semi, finetune]'", "pretrain, finetune, semi, in this order"),
        ("train --config photos.yaml --data.image_size 1000000000", "it must lie in [1, 16384]"),
        ("train --config photos.yaml --data.labels.fraction 0.5", "gives fraction and per_class; give one"),
        ("train --config photos.yaml --loader.threads 99999999", "it must be at most 1024"),
        ("train --config photos.yaml --model.weights pipe", "weights pipe do not exist; check model.weights"),
        (
            "probe --config photos.yaml --data.unlabeled there.png",
            "there.png does not exist; correct the path",
        ),
        ("evaluate --output run --json nowhere/x.json", "the folder nowhere does not exist; make it"),
        ("evaluate --output damaged", "damaged/config.yaml cannot be read: it is no UTF-8 text"),
        ("predict @nothing --output run", "list nothing names no images; write one path a line"),
        (
            "predict photos --output run --to a.csv --csv b.csv",
            "both name the file to write; give one of them",
        ),
        ("suggest run --to photos --force", "--to photos is a folder; name a file in it"),
        ("suggest run --sheet there.csv", "--sheet there.csv does not end in .png; add it"),
        ("compare run run --csv photos", "--csv photos is a folder; name a file in it"),
        ("report --output binary", "binary holds no run (there is no config.yaml in it); give the --output"),
        ("study photos.yaml", "needs the sections presets and axes; see configs/studies/table3.yaml"),
        ("study photos.yaml --seeds 1,1", "--seeds is '1,1'; give each once, 0 or more"),
        ("estimate --config photos.yaml --gpus 0", "--gpus is 0; it must be at least 1"),
        ("views --config photos.yaml --count 0", "--count 0 draws nothing; give 1 or more"),
        ("replay run 1 --png x.txt", "--png x.txt does not end in .png; add it"),
        ("replay run x", "argument step: invalid int value: 'x'"),
        ("profile --config photos.yaml --trace photos", "--trace photos is a folder; name a file in it"),
        ("tune loader --config photos.yaml --out photos", "--out photos is a folder; name a file in it"),
        ("doctor --json photos", "--json photos is a folder; name a file in it"),
        ("doctor --data photos --config photos.yaml", "both name images; give one of them"),
        ("data cats out", "invalid choice: 'cats' (choose from 'digits', 'fashion-mnist')"),
        ("data beton x.beton --images photos/train --threads 0", "--threads is 0; it must be at least 1"),
        ("data beton x.beton --images photos/train --max_bad -1", "--max_bad is -1; it must be at least 0"),
        ("data beton x.beton --images photos/train --split val", "photos/train is none; leave it out"),
        ("completion csh", "(choose from 'bash', 'zsh', 'fish')"),
        ("help train semi.threshold", "help explains one thing, and 2 are given; give one of them"),
        ("''", "fastsemi --help lists the commands"),
    ],
)
def test_it_is_one_line_with_the_cure(words, said, capsys):
    assert main(shlex.split(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastsemi: error: ") and error.count("\n") == 1 and said in error


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fastsemi.init("empty"), "empty holds no class folders"),
        (lambda: fastsemi.train(3), "is no configuration; give the path of a preset"),
        (lambda: fastsemi.train(None), "is no configuration; give the path of a preset"),
        (lambda: fastsemi.train("photos.yaml", output=""), "output is empty"),
        (lambda: fastsemi.train("photos.yaml", semi={"threshold": float("nan")}), "semi.threshold is nan"),
        (lambda: fastsemi.train("photos.yaml", **{"model.weights": "photos"}), "check model.weights"),
        (lambda: fastsemi.probe({"base": 3}), "3 is no configuration"),
        (lambda: fastsemi.load("binary"), "binary holds no run"),
    ],
)
def test_the_api_refuses_in_the_same_words(call, said):
    with pytest.raises(fastsemi.UserError) as caught:
        call()
    assert said in str(caught.value) and "\n" not in str(caught.value)
