"""Exported networks compute what PyTorch computes, for any batch, and say how to feed them."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import timm
import torch
from rich.console import Console

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.models.create import create_model
from fastsemi.models.export import export, require_onnx
from fastsemi.models.settings import ModelConfig
from fastsemi.models.timm_folder import export_timm
from fastsemi.run.run import Run

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
NETWORKS = {
    "vit": ModelConfig(
        "vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    ),
    "convnext": ModelConfig("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}),
}
MISSING = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
FORMATS = [pytest.param("onnx", marks=needs_onnx), "pt2"]


@pytest.fixture
def trained(request, vit, tmp_path):
    """A network with weights that matter, as a run leaves it."""
    config = NETWORKS[request.param]
    model = create_model(config, num_classes=3, image_size=32)
    vit.randomise(model)
    names = ("a", 'b"<', "ü")
    folder = tmp_path / "model"
    export_timm(model, folder, config=config, class_names=names, image_size=32, mean=MEAN, std=STD, crop=0.9)
    return timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()


def _logits(path, form, images):
    """As a user without fastsemi would compute them."""
    if form == "pt2":
        return torch.export.load(path).module()(torch.from_numpy(images)).detach().numpy()
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(path)).run(["logits"], {"images": images})[0]


def _texts(path, form):
    if form == "pt2":
        extra = {"fastsemi.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["fastsemi.json"])
    import onnx

    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("trained", "inside"),
    [("vit", False), ("convnext", True)],
    ids=["vit, plain", "convnext, with normalisation"],
    indirect=["trained"],
)
def test_an_exported_network_gives_the_logits_of_pytorch(trained, tmp_path, form, inside):
    path = tmp_path / "to" / f"model.{form}"
    assert export(trained, path, form, with_normalisation=inside, reading={"exif": "apply"}) < 1e-5
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing else is left behind"
    pixels = np.random.default_rng(0).random((4, 3, 32, 32), np.float32)
    normal = (pixels - np.float32(MEAN)[:, None, None]) / np.float32(STD)[:, None, None]
    with torch.no_grad():
        expected = trained(torch.from_numpy(normal)).numpy()
    for batch in (1, 4):
        found = _logits(path, form, (pixels if inside else normal)[:batch])
        np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=1e-4 * np.abs(expected).max())
    texts = _texts(path, form)
    assert json.loads(texts["class_names"]) == ["a", 'b"<', "ü"]
    assert (texts["image_size"], json.loads(texts["mean"]), json.loads(texts["std"])) == (
        "32",
        list(MEAN),
        list(STD),
    )
    assert texts["exif"] == "apply" and texts["crop_pct"] == "0.9" and texts["interpolation"] == "bicubic"
    assert ("divided by std" in texts["input"]) is not inside


def test_a_network_that_computes_something_else_is_not_written(vit, tmp_path):
    class Undecided(torch.nn.Module):
        """Adds a number that tracing fixes and each call of PyTorch draws anew."""

        def forward(self, images):
            return images.mean((2, 3)) + np.random.random()

    model = Undecided()
    model.pretrained_cfg = {"label_names": ["a", "b", "c"], "input_size": (3, 8, 8), "mean": MEAN, "std": STD}
    model.pretrained_cfg |= {"crop_pct": 1.0, "interpolation": "bicubic"}
    with pytest.raises(UserError, match=r"differs from PyTorch's|cannot export this network"):
        export(model, tmp_path / "model.pt2", "pt2", with_normalisation=False, reading={})
    assert not list(tmp_path.iterdir())


def test_a_network_that_no_exporter_understands_is_refused_in_one_line(tmp_path):
    class Branching(torch.nn.Module):
        """Goes by values, which a graph cannot."""

        def forward(self, images):
            return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))

    model = Branching()
    model.pretrained_cfg = {"label_names": ["a", "b", "c"], "input_size": (3, 8, 8), "mean": MEAN, "std": STD}
    model.pretrained_cfg |= {"crop_pct": 1.0, "interpolation": "bicubic"}
    with pytest.raises(
        UserError, match=r"cannot export this network as pt2 \(.*\); use --format timm"
    ) as error:
        export(model, tmp_path / "model.pt2", "pt2", with_normalisation=False, reading={})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_the_command_exports_a_run(tiny, tmp_path, capsys):
    config = tiny("--stages", "[finetune]")
    output = ["--output", str(config.output)]
    assert main(["export", "--format", "pt2", *output]) == 2
    assert "holds no trained model" in capsys.readouterr().err
    Run(config, Progress(Console(quiet=True))).train(config.stages)
    assert main(["export", "--format", "pt2", *output]) == 0
    assert f"{config.output / 'model.pt2'}, largest difference" in capsys.readouterr().out
    folder = tmp_path / "copy"
    (folder / ".unfinished.x" / "part").mkdir(parents=True)  # of a copy that was killed
    assert main(["export", "--format", "timm", "--to", str(folder), *output]) == 0
    assert not list(folder.glob(".unfinished.*"))
    copied, first = (
        timm.create_model(f"local-dir:{path}", pretrained=True) for path in (folder, config.output / "model")
    )
    assert all(map(torch.equal, copied.state_dict().values(), first.state_dict().values()))
    for wrong, words in (
        (["--format", "timm", "--to", str(folder)], "already exists"),
        (["--format", "timm", "--to", str(config.output / "model" / "copy")], "lies in the model"),
        (["--format", "timm"], "--to FOLDER"),
        (["--format", "timm", "--to", str(tmp_path / "x"), "--with-normalisation"], "leave out"),
        (["--format", "pt2", "--to", str(folder)], "is a folder"),
        (["--format", "tflite"], "tflite"),
    ):
        assert main(["export", *wrong, *output]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_without_onnx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # as Python marks a package that is not there
    with pytest.raises(UserError, match=r"pip install 'fastsemi\[export\]'"):
        require_onnx()
