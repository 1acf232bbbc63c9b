"""The temperature of the network that a run leaves: on which images it is fitted, and who uses it."""

import csv
import json

import numpy as np
import pytest
import timm
import torch

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.models.timm_folder import open_timm, read_calibration, write_calibration
from fastsemi.run.calibrate import calibrate
from fastsemi.run.context import RunContext
from fastsemi.run.evaluation import evaluate_run
from fastsemi.training.evaluate import class_logits
from fastsemi.training.scores import honesty
from fastsemi.training.temperature import log_probabilities, temperatures_by_halves

ON = ("--train.calibrate", "true")


def calibrated(config):
    """Calibrate a run's network; what it said, and the logits and labels of its evaluation images."""
    said = []
    run = RunContext(config, said.append)
    calibrate(run)
    model = open_timm(config.output / "model")
    found = class_logits(model, run.data, run.views, run.precision, batch=7, images=run.data.val)
    run.close()
    return said, found.logits, found.labels


def test_without_held_out_labels_the_evaluation_images_are_fitted_on_and_judged_by_halves(
    untrained, tmp_path, shapes, capsys
):
    config = untrained(*ON)
    said, logits, labels = calibrated(config)
    kept = read_calibration(config.output / "model")
    scale = kept["temperature"]
    assert (kept["images"], kept["of"]) == (30, "evaluation images") and scale > 1
    assert said == [f"confidences: temperature {scale:.2f}, fitted on 30 evaluation images"]

    found = evaluate_run(config)
    assert found.temperature == scale and found.by_halves
    plain = honesty(log_probabilities(logits), labels)
    assert (found.unscaled_nll, found.unscaled_ece) == pytest.approx((plain.nll, plain.ece))
    by_halves = log_probabilities(logits, temperatures_by_halves(logits, labels))
    scaled = honesty(by_halves, labels)
    assert (found.nll, found.ece) == pytest.approx((scaled.nll, scaled.ece))
    few = ("--data.max_bad", "0", "--data.val", "train")
    assert main(["evaluate", "--output", str(config.output), *few]) == 0
    assert f"with temperature {scale:.2f} NLL" in (out := capsys.readouterr().out)
    assert "(fitted on 30 evaluation images)" in out, "of other images it is used as it is"

    table, folder = tmp_path / "out.csv", str(config.output / "model")
    assert main(["predict", str(shapes / "val"), "--csv", str(table), "--output", str(config.output)]) == 0
    confidences = [float(row["confidence"]) for row in csv.DictReader(table.open())]
    np.testing.assert_allclose(confidences, np.exp(log_probabilities(logits, scale).max(1)), atol=6e-5)
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    weights, images = open_timm(config.output / "model").eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(plain(images), weights(images))

    (config.output / "model" / "calibration.json").write_text(json.dumps({**kept, "temperature": 9}))
    with pytest.raises(UserError, match=r"calibration.json is not what was written"):
        open_timm(config.output / "model")


def test_held_out_labels_are_fitted_on_where_there_are_enough(untrained):
    held = ("--data.labels.per_class", "20", "--data.labels.validation", "0.4")
    config = untrained(*ON, *held)
    calibrated(config)
    kept = read_calibration(config.output / "model")
    assert (kept["images"], kept["of"]) == (24, "held-out labelled images")
    found = evaluate_run(config)
    assert not found.by_halves and found.calibrated_on == "24 held-out labelled images"


def test_of_few_images_none_is_fitted_and_a_fitted_one_stays(untrained):
    config = untrained(*ON, "--data.labels.validation", "0.25")
    said, *_ = calibrated(config)
    assert said == ["confidences: no temperature is fitted, 3 held-out labelled images are fewer than 16"]
    assert open_timm(config.output / "model").pretrained_cfg["temperature"] == 1
    write_calibration(
        config.output / "model", {**read_calibration(config.output / "model"), "temperature": 2}
    )
    assert calibrated(config)[0] == []
    assert open_timm(config.output / "model").pretrained_cfg["temperature"] == 2


def test_a_calibration_that_was_cut_off_is_none(untrained):
    config = untrained(*ON)
    (config.output / "model" / "calibration.json").write_text('{"temp')
    assert open_timm(config.output / "model").pretrained_cfg["temperature"] == 1
    calibrated(config)
    assert open_timm(config.output / "model").pretrained_cfg["temperature"] > 1


def test_evaluate_prints_and_writes_what_each_class_is_worth(untrained, tmp_path, capsys):
    config = untrained()
    file = tmp_path / "scores.json"
    assert main(["evaluate", "--output", str(config.output), "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "no temperature is fitted" in out and "precision %" in out
    found = json.loads(file.read_text())
    rows = found["by_class"]
    assert [row["name"] for row in rows] == ["bar", "cross", "dot"] and sum(r["images"] for r in rows) == 30
    hits = sum(row["recall"] * row["images"] for row in rows) / 30
    assert found["top1"] == pytest.approx(hits)
    assert main(["evaluate", "--output", str(config.output), "--json", str(tmp_path / "no" / "x")]) == 2
    assert "--json" in capsys.readouterr().err
