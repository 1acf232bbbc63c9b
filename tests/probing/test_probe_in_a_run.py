"""Simple classifiers beside a run, and a run that starts from one of them."""

import json

import numpy as np
import pytest
import timm
import torch
from rich.console import Console

from fastsemi.commands.cli import main
from fastsemi.common.progress import Progress
from fastsemi.probing.classifiers import predictions
from fastsemi.probing.features import frozen_features, head_input
from fastsemi.probing.probe import _accuracy
from fastsemi.run.baseline import frozen_network
from fastsemi.run.context import RunContext
from fastsemi.run.run import Run
from fastsemi.run.summary import summary_table, verdict
from fastsemi.training.scores import score


@pytest.fixture
def weights(tmp_path):
    """Weights of the tiny ViT of the tests, as another program would leave them."""
    torch.manual_seed(3)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        global_pool="avg",
        num_classes=0,
        **{"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
    )
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "resnet10t", "convnext_atto", "tf_efficientnet_lite0"]
)
def test_the_head_sees_these_features(name):
    model = timm.create_model(name, num_classes=3).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = model.get_classifier()(head_input(model, images))
        torch.testing.assert_close(found, model(images))


def test_features_are_those_of_the_evaluation_crop_whatever_the_batch(tiny, weights):
    run = RunContext(tiny("--model.weights", str(weights)))
    network = frozen_network(run)
    arguments = (network, run.data.val, run.data.val.ids, run.data, run.views, run.precision)
    a, b = (frozen_features(*arguments, batch=batch) for batch in (30, 7))
    run.close()
    assert a.x.shape == (30, 32) and a.ids.tolist() == b.ids.tolist() == list(range(30))
    torch.testing.assert_close(torch.from_numpy(a.x), torch.from_numpy(b.x), rtol=1e-4, atol=1e-5)


def test_a_run_keeps_its_baselines_and_says_where_it_ends(tiny):
    config = tiny("--stages", "[finetune]", "--train.baseline", "auto")
    summary = Run(config, Progress(Console(quiet=True))).train(config.stages)
    names = {(row["features"], row["classifier"]) for row in summary["baselines"]}
    assert names == {
        ("pixels", name)
        for name in (
            "logistic regression",
            "self-training",
            "SVM",
            "nearest neighbours",
            "prototypes",
            "label spreading",
        )
    }
    assert json.loads((config.output / "summary.json").read_text())["baselines"] == summary["baselines"]
    console = Console(record=True, width=120)
    console.print(summary_table(summary))
    assert "pixels" in console.export_text()
    assert "simple classifier" in verdict(summary)


def _summary(baseline, finetune, semi):
    speed = {"seconds": 1.0, "images_per_s": 1.0}
    return {
        "baselines": [{"features": "pixels", "classifier": "SVM", "top1": baseline, "balanced": baseline}],
        "stages": {
            "finetune": {"top1": finetune, **speed},
            "semi": {"student_top1": 99.0, "teacher_top1": semi, **speed},
        },
    }


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ((90.0, 80.0, 85.0), "below a simple classifier: semi ends at 85.0 %, SVM on pixels has 90.0 %"),
        ((70.0, 90.0, 85.0), "the semi stage did not help: it ends at 85.0 %, finetune at 90.0 %"),
        ((70.0, 80.0, 85.0), "semi ends 15.0 points above the best simple classifier"),
    ],
)
def test_the_last_line_tells_what_a_run_is_worth(figures, said):
    assert verdict(_summary(*figures)).startswith(said)


@pytest.mark.parametrize(("hits", "images"), [(10, 12), (7, 9), (3, 7), (29, 41)])
def test_as_many_hits_are_the_same_accuracy(hits, images):
    """To the last bit: a network that is as good as a simple classifier is not below it."""
    truth = np.arange(images) % 2
    predicted = np.where(np.arange(images) < hits, truth, 1 - truth)
    top1, _ = _accuracy(predicted, truth)
    assert top1 == score(np.eye(2)[predicted], truth, ("a", "b")).top1
    assert verdict(_summary(top1, 0.0, top1)).startswith("semi ends 0.0 points above")


def test_fine_tuning_starts_where_the_probe_ends(tiny, weights):
    options = ("--model.weights", str(weights), "--finetune.head", "probe", "--finetune.base_lr", "1e-12")
    options += ("--finetune.head_views", "0")
    config = tiny("--stages", "[finetune]", "--train.baseline", "auto", *options)
    summary = Run(config, Progress(Console(quiet=True))).train(config.stages)
    probe = [
        r for r in summary["baselines"] if r["features"] != "pixels" and r["classifier"].startswith("log")
    ]
    assert summary["stages"]["finetune"]["top1"] == pytest.approx(probe[0]["top1"])


def test_where_all_images_are_labelled_classifiers_do_without_others(tiny):
    run = RunContext(tiny("--data.labels.per_class", "40"))
    prober = run.prober
    features = prober.features("pixels", None)
    head, _ = prober.head(None)
    of_views, views = prober.head(None, views=2)
    run.close()
    assert views == 2 and of_views.weight.shape == (3, 768)
    assert features.labelled.x.shape == (120, 768) and features.unlabelled.x.shape == (0, 768)
    fits = predictions(features.labelled, features.unlabelled.x, features.evaluated.x)
    alone = fits["logistic regression"]()
    assert (fits["self-training"]() == alone).all()
    assert ((features.evaluated.x @ head.weight.T + head.bias).argmax(1) == alone).all()
    assert fits["label spreading"]().shape == (30,)


def test_the_probe_command_prints_a_table_and_json(tiny, capsys):
    config = tiny()
    options = ["--config", str(config.output.parent / "tiny.yaml")]
    assert main(["probe", *options]) == 0
    assert "nothing is trained" in capsys.readouterr().out
    assert main(["probe", "--json", *options]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 6 and all(0 <= row["top1"] <= 100 and 0 <= row["balanced"] <= 100 for row in rows)


def test_the_probe_looks_at_the_runs_own_labels(tiny):
    run = RunContext(tiny())
    features = run.prober.features("pixels", None)
    run.close()
    assert features.labelled.ids.tolist() == sorted(run.data.labelled.ids.tolist())
    assert len(features.labelled.y) == 12 and len(features.unlabelled.y) == 108
