"""The API: what a call means, what it returns, and every example of its documents."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastsemi
from fastsemi.commands.cli import main
from fastsemi.common.errors import Interrupted
from fastsemi.parallel.stop import Stop, stop_signals
from fastsemi.run import config as configuration
from fastsemi.run.python_keys import from_python

ROOT = Path(__file__).parents[1]


def test_the_import_is_light_and_all_names_are_there():
    code = (
        "import sys, fastsemi; heavy = {'torch', 'timm', 'numpy', 'jsonargparse', 'fastsemi.api'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert set(fastsemi.__all__) <= set(dir(fastsemi)); fastsemi.train, fastsemi.UserError;"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(fastsemi, name) is not None for name in fastsemi.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        fastsemi.trian  # noqa: B018


def test_keys_mean_what_the_command_line_means(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text(
        "seed: 3\nsemi: {threshold: 0.9, mixing: none}\nmodel: {args: {depth: 2, num_heads: 2}}\n"
    )
    words = [
        "--semi.threshold",
        "0.6",
        "--semi.length",
        "9 steps",
        "--model.args.depth",
        "3",
        "--output",
        "x",
    ]
    expected = configuration.load([preset], [*words, "--stages", "[semi]"])
    length = {"length": "9 steps"}
    keys = {"model.args.depth": 3, "output": Path("x"), "stages": ("semi",)}
    assert expected.model.args == {"depth": 3, "num_heads": 2}
    assert from_python(preset, {"semi": {**length, "threshold": 0.6}, **keys}) == expected
    assert from_python(str(preset), {"semi.threshold": 0.6, "semi": length, **keys}) == expected
    assert (
        from_python([preset], {"semi.threshold": 0.6, "semi.length": expected.semi.length, **keys})
        == expected
    )
    assert from_python({"base": preset, "semi": {"threshold": 0.6, **length}}, keys) == expected
    assert from_python(expected, {}) == expected
    assert from_python(expected, {"seed": 4}) == configuration.load(
        [preset], [*words, "--stages", "[semi]", "--seed", "4"]
    )
    whole = {"model.args": {"depth": 4}}
    assert from_python(preset, whole).model.args == {"depth": 4}


@pytest.mark.parametrize(
    ("config", "keys", "said"),
    [
        (
            {"semi": {"treshold": 1}},
            {},
            "unknown key semi.treshold in the call; did you mean semi.threshold?",
        ),
        ({}, {"semi.treshold": 1}, "unknown key semi.treshold in the call"),
        ({}, {"semi.threshold": "high"}, "semi.threshold is high; it must be a number"),
        ({}, {"semi": 3}, "semi in the call is a section"),
        ({"seed": 1}, {"seed.of": 1}, "seed.of is given, and seed is no section but 1"),
        ({1: 2}, {}, "1 is no key"),
        ("nowhere.yaml", {}, "config nowhere.yaml does not exist"),
        ({"base": ["nowhere.yaml"]}, {}, "config nowhere.yaml does not exist"),
        ({"base": 5}, {}, "5 is no configuration; give the path of a preset"),
        (5, {}, "5 is no configuration; give the path of a preset"),
        (None, {}, "None is no configuration"),
        ([5], {}, "[5] is no configuration"),
        ({}, {"semi.threshold": 2.0}, "semi.threshold"),
        ({}, {"data.root": "/nowhere"}, "/nowhere/train does not exist"),
    ],
)
def test_wrong_input_is_refused_in_the_words_of_the_command_line(config, keys, said):
    with pytest.raises(fastsemi.UserError) as caught:
        fastsemi.train(config, **keys)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"folder": 5}, "folder is 5; give a path"),
        ({"folder": "x", "output": 5}, "output is 5; give a path"),
        ({"folder": "x", "per_class": "3"}, "per_class is '3'; give a whole number"),
        ({"folder": "x", "per_class": True}, "per_class is True; give a whole number"),
        ({"folder": "x", "recipe": 3}, "recipe is 3"),
    ],
)
def test_arguments_of_wrong_types_are_refused(arguments, said):
    with pytest.raises(fastsemi.UserError, match=said):
        fastsemi.init(**arguments)


def test_a_configuration_that_is_there_is_replaced_by_force(shapes, tmp_path):
    preset = fastsemi.init(shapes, per_class=np.int64(4), output=tmp_path / "a.yaml")
    with pytest.raises(fastsemi.UserError, match="force=True"):
        fastsemi.init(shapes, output=preset)
    assert fastsemi.init(shapes, output=preset, force=True) == preset


def test_predictions_are_those_of_the_command(untrained, shapes, tmp_path):
    config = untrained("--eval_batch", "7")
    model = fastsemi.load(config.output)
    assert model.classes == ("bar", "cross", "dot") and str(config.output) in repr(model)
    folder, table = shapes / "val", tmp_path / "cli.csv"
    found = model.predict(folder, top=3)
    assert (
        main(["predict", str(folder), "--output", str(config.output), "--top", "3", "--to", str(table)]) == 0
    )
    assert found.save(tmp_path / "api.csv").read_text() == table.read_text() and len(found) == 30
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-6)
    assert [model.classes[c] for c in found.probabilities.argmax(1)] == found.classes
    assert list(found)[4] == (found.paths[4], *found.top[4][0]) and found.unreadable == []

    one, two = found.paths[11], found.paths[3]
    mixed = model.predict([one, Image.open(two), np.asarray(Image.open(one)), Path(two)])
    assert mixed.paths == [one, "image 1", "image 2", two] and len(mixed.top[0]) == 1
    np.testing.assert_allclose(mixed.probabilities, found.probabilities[[11, 3, 11, 3]], atol=1e-6)
    stack = np.stack([np.asarray(Image.open(path)) for path in found.paths[:3]])
    np.testing.assert_allclose(model.predict(stack).probabilities, found.probabilities[:3], atol=1e-6)

    (tmp_path / "broken.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="1 image left out, which cannot be read"):
        left = model.predict([tmp_path / "broken.png", one])
    assert left.paths == [one] and left.unreadable == [str(tmp_path / "broken.png")]
    for images, top, said in (
        ([], 1, "no images"),
        ("gone.png", 1, "gone.png does not"),
        (one, 4, "top is 4"),
        (one, "2", "top is '2'; give a whole number"),
        (None, 1, "None is no image"),
        (3, 1, "3 is no image"),
    ):
        with pytest.raises(fastsemi.UserError, match=said):
            model.predict(images, top=top)


def test_what_is_no_run_is_refused(tmp_path, tiny):
    with pytest.raises(fastsemi.UserError, match="run is None; give a path"):
        fastsemi.load(None)
    with pytest.raises(fastsemi.UserError, match="holds no run"):
        fastsemi.load(tmp_path / "nowhere")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(configuration.to_yaml(tiny()))
    with pytest.raises(fastsemi.UserError, match="holds no trained model"):
        fastsemi.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_ends_a_call_as_it_ends_others_of_python(number, kind, tiny, monkeypatch):
    def interrupted(config, stages, by_hand):
        stop = Stop()
        with stop_signals(stop):
            os.kill(os.getpid(), number)
            signal.pause()

    before = signal.getsignal(number)
    monkeypatch.setattr("fastsemi.api.train_stages", interrupted)
    with pytest.raises(kind) as caught:
        fastsemi.train(tiny())
    assert not isinstance(caught.value, Interrupted)
    assert signal.getsignal(number) is before


def test_every_example_of_the_page_runs(grey_shapes, tmp_path, monkeypatch, capsys):
    """In a folder with the pictures that it speaks of; what it trains is shorter here."""
    page = (ROOT / "docs" / "api.md").read_text()
    for name in (
        "init",
        "probe",
        "train",
        "load",
        *(f"Model.{name}" for name in ("predict", "evaluate", "export", "report")),
    ):
        assert f"\n## {name}\n" in page
    (tmp_path / "photos").symlink_to(grey_shapes)
    (tmp_path / "new_photos").symlink_to(grey_shapes / "val" / "dot")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = re.sub(r"\d+ steps", "2 steps", "\n".join(blocks))
    short = {"finetune.warmup": "0 steps", "semi.warmup": "0 steps", "finetune.spread_ratio": 0}
    short |= {"train.baseline": "none", "semi.contrast": 0.0, "semi.spread_weight": 0.0}
    short |= {"finetune.batch": 6, "semi.batch": 6}
    names: dict = {"short": short}
    exec(code.replace('**{"finetune.length"', '**short, **{"finetune.length"'), names)
    said = capsys.readouterr().out
    assert "unknown key semi.treshold in the call; did you mean semi.threshold?" in said
    assert "on pixels: " in said and names["page"].is_file() and (tmp_path / "photos_model").is_dir()
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == 11


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    """What it trains is shorter here."""
    notebook = json.loads((ROOT / "examples" / "photos.ipynb").read_text())
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    names: dict = {}
    for cell in cells:
        exec(re.sub(r"[68]0 steps", "11 steps", "".join(cell["source"])), names)
    assert len(names["predictions"]) == names["found"].images == 359
    right = [Path(path).parent.name == name for path, name, _ in names["predictions"]]
    assert names["found"].top1 == pytest.approx(100 * np.mean(right))
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == 360
    assert "report.html" in capsys.readouterr().out
