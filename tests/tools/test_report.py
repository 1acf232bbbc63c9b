"""The page about a run: what it shows of finished, unfinished and odd runs, and what it refuses."""

import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.run.folder import RunFolder
from fastsemi.run.run import Run
from fastsemi.run.summary import read_summary
from fastsemi.tools.report.by_class import draw_by_class
from fastsemi.tools.report.classes import MATRIX_CLASSES, describe
from fastsemi.tools.report.contents import deviations, read_run, stage_lines
from fastsemi.tools.report.curves import draw_curves
from fastsemi.tools.report.data import describe_data
from fastsemi.tools.report.page import _figures


def _train(config):
    return Run(config, Progress(Console(quiet=True))).train(config.stages)


class _Page(HTMLParser):
    """The text, the tags that are left open, and everything that the page refers to."""

    def __init__(self, text):
        super().__init__()
        self.text, self.open, self.references = "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _report(config, *options):
    assert main(["report", "--output", str(config.output), *options]) == 0
    text = (config.output / "report.html").read_text()
    page = _Page(text)
    assert not page.open, "every tag is closed"
    assert all(reference.startswith("data:image/") for reference in page.references), "needs no other file"
    assert "url(" not in text and "@import" not in text and "<script" not in text
    return page


@pytest.fixture
def odd_names(shapes, tmp_path):
    """The shapes, with class names that mean something in HTML and in formulas."""
    root = tmp_path / "odd"
    shutil.copytree(shapes, root)
    for split in ("train", "val"):
        for old, new in (("bar", "<b>bar&"), ("cross", "$\\frac$"), ("dot", '"dot"')):
            (root / split / old).rename(root / split / new)
    return root


def test_train_leaves_a_page_with_everything_that_needs_no_evaluation(tiny, tmp_path, capsys):
    preset, config = tmp_path / "tiny.yaml", tiny()
    assert main(["train", "--config", str(preset)]) == 0
    assert "report.html" in re.sub(r"\s", "", capsys.readouterr().out)
    page = _Page((config.output / "report.html").read_text())
    teacher = json.loads((config.output / "summary.json").read_text())["stages"]["semi"]["teacher_top1"]
    for words in (f"{teacher:.1f} %", "labelled images", "teacher", "pretrain", "momentum: 0.9", "timm"):
        assert words in page.text
    assert "None: all stages have finished" in page.text
    assert "Most frequent confusions" not in page.text
    pictures = [reference[:20] for reference in page.references]
    assert pictures.count("data:image/svg+xml;b") == 4 + 5 + 8, "panels of pretrain, finetune, semi"
    assert pictures.count("data:image/png;base6") == 4 * 3, "weak, strong and mixed views"


def test_class_names_are_text_and_the_evaluation_agrees(tiny, odd_names, capsys):
    options = ("--stages", "[finetune, semi]", "--data.root", str(odd_names), "--semi.contrast", "1")
    config = tiny(*options, "--precision", "bf16")
    summary = _train(config)
    page = _report(config)
    assert "Views of the semi stage" in page.text and "Not shown" not in page.text
    for name in ("<b>bar&", "$\\frac$", '"dot"'):
        assert name in page.text
    assert "<b>bar" not in (config.output / "report.html").read_text()
    assert f"top-1 {summary['stages']['semi']['teacher_top1']:.2f} %" in page.text
    assert "on 30 evaluation images" in page.text
    for part in (
        "Data",
        "Images of each class",
        "Confidence",
        "Images to look at",
        "highest energy",
    ):
        assert part in page.text
    assert "chosen: by top-1 on the same images, which flatters it" in page.text
    picture = config.output / "views.png"
    assert main(["views", "--output", str(config.output), "--count", "2", "--png", str(picture)]) == 0
    assert main(["views", "--output", str(config.output), "--step", "8", "--png", str(picture)]) == 2
    assert "--step 8 is not within the 8 of semi; give 0 to 7" in capsys.readouterr().err


def test_simple_classifiers_stand_beside_the_stages_and_a_loss_to_them_is_a_deviation(tiny):
    config = tiny("--stages", "[finetune]")
    _train(config)
    path = config.output / "summary.json"
    summary = json.loads(path.read_text())
    rows = [("pixels", "SVM", 30.0), ("pixels", "label spreading", 100.0), ("pixels", "prototypes", 20.0)]
    summary["stages"]["finetune"]["top1"] = 87.5
    summary["baselines"] = [
        {"features": features, "classifier": name, "top1": top1, "balanced": 91.25, "seconds": 1.0}
        for features, name, top1 in rows
    ]
    path.write_text(json.dumps(summary))
    lines = stage_lines(read_run(config.output), config)
    assert [(line.network, line.top1, line.balanced) for line in lines[:1]] == [
        ("label spreading", 100, 91.25)
    ]
    assert lines[0].stage == "pixels" and {line.stage for line in lines[1:]} == {"finetune"}
    page = _report(config, "--no-evaluate")
    assert "-12.5" in page.text and "points over the best simple classifier" in page.text
    assert "Below a simple classifier: finetune ends at 87.5 %" in page.text


def test_an_unfinished_run_says_how_far_it_is(tiny):
    config = tiny("--stages", "[finetune, semi]")
    _train(config)
    summary = json.loads((config.output / "summary.json").read_text())
    del summary["stages"]["semi"]
    summary["skipped_images"] = ["a/<i>.png"]
    (config.output / "summary.json").write_text(json.dumps(summary))
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    kept = [json.dumps(row) for row in rows if row["stage"] == "finetune" or row["step"] <= 4]
    (config.output / "metrics.jsonl").write_text("\n".join([*kept, '[1]\n{"stage": "se']))
    page = _report(config, "--no-evaluate")
    assert "unfinished, step 4 of 8" in page.text and "a/<i>.png" in page.text
    assert "1 image cannot be decoded and was skipped" in page.text


def test_a_run_that_has_just_begun_and_one_whose_images_are_gone(tiny):
    config = tiny("--stages", "[pretrain]")
    _train(config)
    (config.output / "summary.json").unlink()
    (config.output / "metrics.jsonl").unlink()
    page = _report(config)
    assert "not started" in page.text and "Curves" not in page.text and "Views" not in page.text
    page = _report(config, "--data.root", "/nowhere")
    assert "Not shown: image folder /nowhere/train does not exist" in page.text


def test_a_drawing_that_fails_does_not_fail_the_run(tiny, tmp_path, capsys):
    config, preset = tiny("--stages", "[finetune]"), str(tmp_path / "tiny.yaml")
    (config.output / "report.html").mkdir(parents=True)  # cannot be replaced by a file
    assert main(["train", "--config", preset, "--stages", "[finetune]"]) == 0
    out = capsys.readouterr().out
    assert "report: not written (" in out and "fastsemi report --output" in out
    assert (config.output / "model" / "config.json").exists()


def test_the_gain_is_over_what_the_semi_stage_starts_from(tiny):
    config, speed = tiny("--stages", "[finetune, semi]"), {"seconds": 1.0, "images_per_s": 2.0}
    config.output.mkdir()
    (config.output / "config.yaml").write_text("seed: 0\n")
    stages = {"finetune": {"top1": 10.0, "ema_top1": 30.0, **speed}, "semi": {"teacher_top1": 34.5, **speed}}
    (config.output / "summary.json").write_text(json.dumps({"stages": stages}))
    assert _figures(read_run(config.output), {})[:2] == [
        ("34.5 %", "top-1 of the teacher"),
        ("+4.5", "points over fine-tuning alone"),
    ]


SPEED = '"seconds": 1, "images_per_s": 1'
DAMAGED = [
    *("{", "[]", '{"stages": {"semi": 1}}', '{"stages": {"semi": {}}}', "[" * 99_999, "[]" * 3),
    '{"stages": {"semi": {' + SPEED + ', "teacher_top1": "high"}}}',
    '{"stages": {"semi": {' + SPEED + ', "chosen": 3}}}',
    '{"stages": {}, "skipped_images": [3]}',
    '{"stages": {}, "baselines": [{"top1": 3, "features": "pixels"}]}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_summary_is_named(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"summary\.json is damaged; delete it"):
        read_summary(RunFolder(tmp_path).summary)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "/nowhere"], ["/nowhere holds no run", "--output"]),
        (["--evalute"], ["evalute"]),
        (["--output", "{damaged}"], ["summary.json is damaged"]),
    ],
)
def test_wrong_input_ends_in_one_line(options, words, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "summary.json").write_text("{")
    assert main(["report", *(option.format(damaged=tmp_path) for option in options)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastsemi: error: ") and error.count("\n") == 1
    for word in words:
        assert word in error


def test_refused_steps_of_loss_scaling_are_deviations(tiny):
    config = tiny("--stages", "[finetune]")
    config.output.mkdir()
    (config.output / "config.yaml").write_text("seed: 0\n")
    rows = [
        {"stage": "finetune", "step": 4, "epoch": 2.0, "loss": None, "skipped_steps": 0.5},
        {"stage": "finetune", "step": 6, "epoch": 3.0, "loss": 1.0, "skipped_steps": 0.5},
    ]
    (config.output / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = read_run(config.output)
    assert any("3 steps changed nothing" in text for text in deviations(files, config))
    assert [line.state for line in stage_lines(files, config)] == ["unfinished, step 6 of 8"]
    (curve,) = draw_curves(files.metrics["finetune"])
    assert curve.text == "loss by step; last: total 1", "what is not finite is left out"


def test_curves_stay_small_and_keep_their_bytes():
    rows = [{"step": step, "loss": np.sin(step), "lr": 1e-3} for step in range(20_000)]
    first, second = draw_curves(rows), draw_curves(rows)
    assert [curve.svg for curve in first] == [curve.svg for curve in second]
    assert max(len(curve.svg) for curve in first) < 400_000
    assert draw_curves([]) == [] and draw_curves([{"step": 1, "loss": None}]) == []


def test_confusions_are_counted_and_ordered():
    found = describe(np.array([[8, 2, 0], [0, 10, 0], [3, 0, 0]]), ["a", "b", "c"])
    assert (found.images, found.top1) == (23, pytest.approx(100 * 18 / 23))
    assert [(line.name, line.accuracy, line.taken_for, line.times) for line in found.worst] == [
        ("c", 0, "a", 3),
        ("a", 80, "b", 2),
        ("b", 100, "", 0),
    ]
    assert found.pairs == [("c", "a", 3), ("a", "b", 2)]
    many = MATRIX_CLASSES + 1
    assert describe(np.eye(many, dtype=np.int64), [str(i) for i in range(many)]).matrix is None
    empty = describe(np.zeros((2, 2), dtype=np.int64), ["a", "b"])
    assert not empty.worst and not empty.pairs and empty.top1 == 0


def test_the_page_shows_evaluation_images_that_are_trained_on(tiny, shapes, tmp_path, monkeypatch):
    """Found on the spot where images are few, else what the doctor has found, if it is of the same images."""
    root = tmp_path / "leaky"
    shutil.copytree(shapes, root)
    shutil.copy(root / "train" / "dot" / "000.png", root / "val" / "dot" / "again.png")
    config = tiny("--data.root", str(root), "--data.unlabelled_includes_labelled", "true")
    assert describe_data(config, look=False).findings is None
    found = describe_data(config, look=True)
    assert found.roles == {"labelled": 12, "unlabelled": 108, "evaluation": 31} and found.largest == 40
    assert [count.trained_on for count in found.classes] == [40, 40, 40] and found.count == 3
    assert any(
        "1 of 31 evaluation images are in the training set too (1 same file)" in x for x in found.findings
    )
    ((one, other),) = found.leaks
    assert (one.name, other.name) == (str(root / "val/dot/again.png"), str(root / "train/dot/000.png"))
    assert np.array_equal(one.pixels, other.pixels) and one.title == other.title == "dot"
    assert one.text == "evaluation, same file" and not found.conflicts
    monkeypatch.setattr("fastsemi.tools.report.data.MOST_IMAGES", 150)
    assert describe_data(config, look=True).findings is None
    config.output.mkdir()
    (config.output / "config.yaml").write_text((tmp_path / "tiny.yaml").read_text())
    options = ("--data.root", str(root), "--data.unlabelled_includes_labelled", "true")
    assert main(["doctor", "--data", "--output", str(config.output), *options]) == 1
    assert describe_data(config, look=False).findings == found.findings
    (root / "val" / "dot" / "again.png").unlink()
    assert describe_data(config, look=False).findings is None


def test_pseudo_labels_of_each_class_are_drawn_over_time():
    rows = [
        {
            "step": step,
            "pseudo_label_share_by_class": [0.25, 0.75],
            "pseudo_label_accuracy_by_class": [None, None],
        }
        for step in range(1, 500)
    ]
    (share,) = draw_by_class(rows, ["$cat$", "a dog with a very long name"])
    assert share.text.endswith("at the last, least $cat$ 25, most a dog with a very long name 75")
    assert b"a dog with a" in share.svg and b"very long name" not in share.svg and len(share.svg) < 100_000
    rows[-1]["pseudo_label_accuracy_by_class"] = [0.5, None]
    _, accuracy = draw_by_class(rows, [])
    assert accuracy.text.endswith("least 0 50, most 0 50"), "numbers where there are no names"
    assert draw_by_class([{"step": 1, "loss": 1.0}], []) == []


@pytest.mark.filterwarnings("error:Glyph")
def test_a_picture_by_class_takes_names_that_fonts_and_xml_do_not():
    names = ["<b>$\\frac{", "bell\a", "two\nlines", "犬" * 20, "قطة", "x" * 300, ""]
    rows = [{"step": 1, "pseudo_label_share_by_class": [1 / len(names)] * len(names)}]
    (share,) = draw_by_class(rows, names)
    texts = {text.text for text in ElementTree.fromstring(share.svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"<b>$\\frac{", "bell\\x07", "two\\nlines", "犬" * 6 + "…", "قطة", "x" * 13 + "…"} <= texts
