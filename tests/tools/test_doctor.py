"""The checks of this machine, and of parts that are missing or broken."""

import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.tools.doctor import machine, software
from fastsemi.tools.doctor.check import examine, problem
from fastsemi.tools.doctor.data import check_data
from fastsemi.tools.estimate.dry_run import dry_run

ABSENT = Namespace(train_images=None, classes=None, unlabelled_images=None)


@pytest.fixture
def preset(tiny, tmp_path):
    tiny()
    return tmp_path / "tiny.yaml"


def _found(checks):
    return {check.name: check for check in checks}


def test_this_machine_works(preset, capsys):
    assert main(["doctor", "--config", str(preset), "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    names = [check["name"] for check in checks]
    assert {"PyTorch", "native operator", "engine auto", "evaluation images", "stage semi"} <= set(names)
    assert all(check["cure"] for check in checks if check["state"] != "ok")
    assert main(["doctor"]) == 0
    assert "evaluation images" not in capsys.readouterr().out


def test_missing_images_are_a_problem_with_a_cure(preset, capsys):
    assert main(["doctor", "--config", str(preset), "--data.root", "/nowhere", "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["labelled images"]["state"] == "problem"
    assert "/nowhere/train" in checks["labelled images"]["found"] and checks["labelled images"]["cure"]


def test_broken_beginnings_are_counted(tiny, shapes, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(shapes, root)
    for i in (3, 4):
        (root / "val" / "dot" / f"00{i}.png").write_bytes(b"no image")
    check = _found(check_data(tiny("--data.root", str(root))))["evaluation images"]
    assert check.state == "problem"
    assert "2 cannot be read" in check.found and "dot/003.png" in check.found
    assert "data.max_bad to 2" in check.cure
    lenient = tiny("--data.root", str(root), "--data.max_bad", "2")
    assert _found(check_data(lenient))["evaluation images"].state == "note"


def test_an_image_that_breaks_off_is_found_by_decoding(tiny, shapes, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(shapes, root)
    path = root / "val" / "bar" / "000.png"
    path.write_bytes(path.read_bytes()[:-200])
    check = _found(check_data(tiny("--data.root", str(root))))["evaluation images"]
    assert check.state == "problem" and str(path) in check.found


def test_batches_larger_than_the_data_are_found(tiny):
    check = _found(check_data(tiny("--finetune.batch", "13")))["stage finetune"]
    assert check.state == "problem" and "13" in check.found and check.cure


def test_a_missing_operator_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastsemi._native", None)
    monkeypatch.setenv("PATH", "/nowhere")
    check = software.native()
    assert check.state == "note" and "no C++ compiler" in check.found
    assert "libjpeg" in check.cure and "apt install" in check.cure


def test_an_apex_of_pypi_is_told_apart(tmp_path, monkeypatch):
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        check = software.apex()
    finally:
        sys.modules.pop("apex", None)
    assert check.state == "note" and "PyPI" in check.found and "github.com/NVIDIA/apex" in check.cure


def test_the_table_cuts_nothing_off(tiny, shapes, tmp_path, capsys, monkeypatch):
    tiny()
    monkeypatch.setenv("COLUMNS", "80")
    long = tmp_path / ("a-folder-of-images-with-a-long-name" * 3)
    assert main(["doctor", "--config", str(tmp_path / "tiny.yaml"), "--data.root", str(long)]) == 1
    printed = capsys.readouterr().out
    table, _, cures = printed.rpartition("┘\n")
    assert max(map(len, table.splitlines())) <= 80 and "…" not in table
    assert "problem, labelled images: correct the path" in cures


def test_an_old_pytorch(monkeypatch):
    monkeypatch.setattr("torch.__version__", "2.6.0+cpu")
    check = software.pytorch()
    assert check.state == "problem" and check.cure == "pip install 'torch>=2.11,<2.16'"


def test_an_output_that_cannot_be_written():
    check = machine.disk(Path("/proc/nowhere/run"))
    assert check.state == "problem" and "/proc" in check.found and "--output" in check.cure


def test_a_low_limit_of_open_files(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda kind: (256, 512))
    check = machine.open_files()
    assert check.state == "note" and check.cure == "ulimit -n 512"


def test_a_container_with_less_cpu_than_cores(monkeypatch):
    monkeypatch.setattr("fastsemi.common.hardware.cpu_limit", lambda: 0.5)
    check = machine.cpu()
    assert check.state == "note" and "loader.threads to 1" in check.cure


def test_what_a_check_raises_is_a_problem():
    def wrong():
        raise UserError("device cuda:7 is not there; use --device auto")

    assert examine("GPU", wrong) == problem("GPU", "device cuda:7 is not there; use --device auto")
    assert problem("GPU", "device cuda:7 is not there; use --device auto").cure == "use --device auto"

    def broken():
        raise RuntimeError("libcuda\nis broken")

    check = examine("GPU", broken)
    assert check.state == "problem" and check.found == "RuntimeError: libcuda is broken" and check.cure


def test_weights_that_do_not_fit_are_a_problem_and_look_alikes_a_note(tiny, tmp_path):
    """And so are parts that are not there to train; nothing is trained, nothing is written."""
    path, options = tmp_path / "weights.pth", ("--stages", "[finetune]", "--model.weights")
    args = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    state = timm.create_model("vit_tiny_patch16_224", num_classes=5, **args).state_dict()
    torch.save(state, path)
    config = tiny(*options, str(path))
    check = _found(check_data(config))["weights"]
    assert check.state == "note" and check.found.startswith(f"{path}: timm: 30 tensors loaded")
    assert "learnt from images with data.mean [0.5, 0.5, 0.5]" in check.found and "set both" in check.cure
    same = tiny(*options, str(path), *("--data.mean", "[0.5, 0.5, 0.5]", "--data.std", "[0.5, 0.5, 0.5]"))
    assert _found(check_data(same))["weights"].state == "ok"
    said = {"input_size": [3, 16, 16], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": said}))
    check = _found(check_data(tiny(*options, str(path))))["weights"]
    assert check.state == "ok" and check.found.endswith(
        "; data.mean and data.std as config.json beside it says"
    )
    torch.save({**state, "blocks.1.attn.proj.weight": torch.zeros(32, 31)}, path)
    for look in (lambda: _found(check_data(config))["weights"].found, lambda: _refusal(config)):
        assert "blocks.1.attn.proj.weight, is [32, 32] in the network and [32, 31] there" in look()
    lacking = tiny(*options, str(tmp_path / "none.pth"))
    assert "do not exist" in _found(check_data(lacking))["weights"].found
    assert dry_run(lacking, ["finetune"], ABSENT)[0], "of what is not here yet nothing is said"
    resnet = ("--model.name", "resnet10t", "--model.args", "{}", "--model.adapt", "lora", *options, str(path))
    torch.save(timm.create_model("resnet10t", num_classes=3).state_dict(), path)
    assert "needs a vision transformer" in _found(check_data(tiny(*resnet)))["weights"].found
    assert "needs a vision transformer" in _refusal(tiny(*resnet))
    torch.save(timm.create_model("efficientnet_lite0", num_classes=3).state_dict(), path)
    lite = ("--model.name", "tf_efficientnet_lite0", "--model.args", "{}", *options, str(path))
    check = _found(check_data(tiny(*lite)))["weights"]
    assert check.state == "note" and "efficientnet_lite0 look alike" in check.found and check.cure
    assert not config.output.exists()


def test_published_weights_are_not_downloaded(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "fastsemi.models.pretrained._require_connection", lambda address: pytest.fail(address)
    )
    check = _found(check_data(tiny("--model.args", "{}", "--model.pretrained", "true")))["weights"]
    assert check.state == "note" and "vit_tiny_patch16_224 are not on this machine" in check.found


def _refusal(config):
    with pytest.raises(UserError) as caught:
        dry_run(config, ["finetune"], ABSENT)
    assert "\n" not in str(caught.value)
    return str(caught.value)
