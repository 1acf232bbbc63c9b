"""What goes with an exported network: the script that feeds it, the check from files, the model card."""

import json
import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.loaders.data import Data
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.models.pretrained import licence
from fastsemi.run import config as configuration
from fastsemi.run.run import Run
from fastsemi.tools.export import export_run
from fastsemi.tools.export.card import write_card
from fastsemi.tools.export.contract import write_script

TERMS = {"class_names": ["a", "b"], "image_size": 24, "crop": 0.8, "mean": [0.4] * 3, "std": [0.2] * 3}


@pytest.fixture
def pictures(tmp_path, photo):
    """Files of the kinds that are easily fed otherwise, below val/a/."""
    folder = tmp_path / "pictures" / "val" / "a"
    folder.mkdir(parents=True)
    lying = Image.Exif()
    lying[274] = 6
    photo(61, 40).save(folder / "lying.jpg", exif=lying, quality=95)
    photo(40, 61, 1).convert("L").save(folder / "grey.png")
    clear = photo(33, 33, 2)
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "clear.png")
    Image.fromarray(np.linspace(0, 60_000, 50 * 47).reshape(50, 47).astype(np.uint16)).save(
        folder / "deep.png"
    )
    photo(5, 90, 3).save(folder / "tall.webp", lossless=True)
    return folder


@pytest.mark.parametrize(("exif", "resize"), [("ignore", "square"), ("apply", "shorter_side")])
def test_the_script_gives_the_pixels_of_the_loader_without_fastsemi(
    pictures, tmp_path, monkeypatch, exif, resize
):
    script = tmp_path / "preprocess.py"
    write_script(script, {**TERMS, "exif": exif, "resize": resize})
    options = {"root": pictures.parents[1], "train": "val", "exif": exif, "image_size": 24}
    options["eval_resize"] = resize
    config = configuration.load([], [f"--data.{key}={value}" for key, value in options.items()])
    data = Data(config.data, replace(config.loader, engine="reference"))
    with data.load(
        data.train, evaluation_batches(data.train.index, data.train.ids, 5, 0.8, config.data.resized_to)
    ) as loader:
        (batch,) = loader
        loaded = (batch.images[0].numpy() / np.float32(255) - np.float32(0.4)) / np.float32(0.2)
    data.close()
    monkeypatch.setitem(sys.modules, "fastsemi", None)  # as Python marks a package that is not there
    alone = runpy.run_path(str(script))
    for i, expected in zip(batch.plan.ids, loaded, strict=True):
        found = alone["preprocess"](data.train.index.path(i), alone["CONTRACT"])
        assert found.dtype == np.float32 and found.shape == (3, 24, 24)
        # Pillow rounds between its two passes; of a resized image the loader makes the window alone.
        levels = 1.01 if resize == "shorter_side" else 1e-4
        np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=0, atol=levels / 255 / 0.2)


def test_exports_of_a_run_are_tried_on_its_files(tiny, tmp_path, capsys):
    config = tiny("--stages", "[finetune]", "--finetune.eval_every", "8 steps")
    output = ["--output", str(config.output)]
    Run(config, Progress(Console(quiet=True))).train(config.stages)
    assert main(["export", "--format", "pt2", "--with_normalisation", "--check", "30", *output]) == 0
    assert (
        "30 evaluation images read from their files by Pillow: the same class in 30"
        in capsys.readouterr().out
    )
    script = runpy.run_path(str(config.output / "model_pt2_preprocess.py"))
    assert script["CONTRACT"]["mean"] == [0.0, 0.0, 0.0], "the file subtracts the mean itself"
    assert main(["export", "--format", "pt2", "--data.root", str(tmp_path / "gone"), *output]) == 0
    assert "not tried on evaluation images" in capsys.readouterr().out
    assert main(["export", "--format", "pt2", "--check", "-1", *output]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    folder = tmp_path / "hub"
    assert main(["export", "--format", "timm", "--to", str(folder), *output]) == 0
    card = (folder / "README.md").read_text()
    assert "| after finetune |" in card and "`cross`" in card and "random ones" in card
    assert runpy.run_path(str(folder / "preprocess.py"))["CONTRACT"]["class_names"] == ["bar", "cross", "dot"]
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"].get("license") is None


def test_a_folder_with_odd_class_names_is_whole_or_not_there(untrained, tmp_path, monkeypatch):
    classes, folder = ("bar", "cross", "dot\udcff"), tmp_path / "hub"
    config = untrained(classes=classes)
    (config.output / "summary.json").write_text('{"stages": {}}')
    with monkeypatch.context() as patched:
        patched.setattr(export_run, "write_script", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_run.export_run(config, "timm", folder, with_normalisation=False)
    assert not list(folder.iterdir())
    export_run.export_run(config, "timm", folder, with_normalisation=False)
    assert "`dot\\udcff`" in (folder / "README.md").read_text()
    script = runpy.run_path(str(folder / "preprocess.py"))
    assert script["CONTRACT"]["class_names"] == list(classes)
    assert {"README.md", "preprocess.py", "config.json"} < {path.name for path in folder.iterdir()}
    with pytest.raises(UserError, match="there is no format foo; give one of onnx, pt2, timm"):
        export_run.export_run(config, "foo", folder, with_normalisation=False)


def _card(tmp_path, *options):
    config = configuration.load([], [f"--output={tmp_path / 'run'}", *options])
    write_card(tmp_path / "README.md", config, {"stages": {}}, ["a`b", "<script>", "c|d\n# e"])
    return (tmp_path / "README.md").read_text()


def test_the_card_names_the_licence_of_the_weights_that_it_started_from(tmp_path):
    mae = _card(tmp_path, "--model.name=vit_base_patch16_224", "--model.pretrained=mae")
    front = yaml.safe_load(mae.split("---")[1])
    assert front["license"] == licence("vit_base_patch16_224.mae") == "cc-by-nc-4.0"
    assert front["base_model"] == "timm/vit_base_patch16_224.mae" and "cc-by-nc-4.0" in mae.split("---")[2]
    own = _card(tmp_path, "--model.weights=/somewhere/mine.pth")
    assert "license" not in yaml.safe_load(own.split("---")[1]), "what is not known is not claimed"
    assert "`mine.pth`" in own and "/somewhere" not in own
    assert "`` a`b ``, `<script>`, `c|d # e`" in own, "names stay names"
    assert "Not measured." in own
