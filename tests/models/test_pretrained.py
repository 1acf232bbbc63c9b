"""Published weights: from the hub's cache as it lies on disk, and one line where they cannot be had."""

import socket

import pytest
import timm
import torch
from safetensors.torch import save_file

from fastsemi.common.errors import UserError
from fastsemi.models import pretrained
from fastsemi.models.create import create_model
from fastsemi.models.pretrained import (
    is_cached,
    look_alikes,
    preprocessing,
    published_name,
    published_weights,
)
from fastsemi.models.settings import ModelConfig
from fastsemi.models.weights import load_backbone
from fastsemi.run import config as configuration

NAME = "vit_tiny_patch16_224"
HUB = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, in huggingface_hub's own layout."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    if hasattr(file_download, "HF_HUB_CACHE"):  # older ones hold it by name
        monkeypatch.setattr(file_download, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_weights_come_out_of_the_hubs_cache(hub, monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    revision = "0" * 40
    folder = hub / f"models--{HUB.replace('/', '--')}"
    (folder / "snapshots" / revision).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    save_file(model.state_dict(), folder / "snapshots" / revision / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert is_cached(NAME) and not is_cached("vit_small_patch16_224")
    weights = published_weights(NAME)
    ours = create_model(ModelConfig(NAME, pretrained=True), num_classes=3, image_size=224)
    report = load_backbone(ours, weights, where=NAME)
    assert not [name for name in report.initial if not name.startswith("head.")]
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.eval().forward_features(images), model.eval().forward_features(images)
        )


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("tf_efficientnet_lite0", ["efficientnet_lite0"]),
        ("efficientnet_b0.ra_in1k", ["tf_efficientnet_b0"]),
        ("vit_base_patch16_clip_224", ["vit_base_patch16_clip_quickgelu_224"]),
        ("vit_base_patch16_clip_quickgelu_224", ["vit_base_patch16_clip_224"]),
        ("resnet50", []),
        ("vit_small_patch16_224", []),
    ],
)
def test_networks_that_look_alike_are_known(name, others):
    assert look_alikes(name) == others
    with torch.device("meta"):
        shapes = [
            {key: tensor.shape for key, tensor in timm.create_model(n, num_classes=3).state_dict().items()}
            for n in (name, *others)
        ]
    assert all(other == shapes[0] for other in shapes)


def test_without_a_connection_one_line_says_so_at_once(hub, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr(pretrained, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(UserError, match=r"cannot be had from https://.*no network here.*model\.weights"):
        published_weights(NAME)


def test_an_unknown_tag_names_those_that_are_known():
    with pytest.raises(UserError, match=r"give model\.pretrained one of .*augreg_in21k"):
        published_weights(published_name(NAME, "nothing"))
    with pytest.raises(UserError, match="timm has no published weights for resnet9000"):
        preprocessing("resnet9000")


def test_images_are_prepared_as_the_weights_learnt_them_unless_told_otherwise(tmp_path):
    name = ["--model.name", "tf_efficientnet_lite0"]
    plain = configuration.load([], name)
    assert (plain.data.image_size, plain.data.mean[0]) == (224, 0.485)
    fitted = configuration.load([], [*name, "--model.pretrained", "true"])
    assert fitted.data.mean == fitted.data.std == (0.5, 0.5, 0.5) and fitted.data.eval_crop == 0.875
    told = configuration.load([], [*name, "--model.pretrained", "true", "--data.image_size", "96"])
    assert (told.data.image_size, told.data.mean) == (96, (0.5, 0.5, 0.5))
    file = tmp_path / "preset.yaml"
    file.write_text("data: {mean: [0.1, 0.1, 0.1]}\n")
    assert configuration.load([file], [*name, "--model.pretrained", "true"]).data.mean == (0.1, 0.1, 0.1)
    file.write_text(configuration.to_yaml(told))
    assert configuration.load([file], []) == told, "a saved configuration means itself"
