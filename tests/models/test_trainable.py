"""What is trained of a network, batch norm that keeps its statistics, a head from elsewhere."""

import copy

import pytest
import timm
import torch

from fastsemi.common.errors import UserError
from fastsemi.models.settings import ModelConfig
from fastsemi.models.trainable import choose_trained, freeze_statistics, set_head

NETWORKS = ("resnet10t", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224")


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_head_alone_is_trained(name):
    model = timm.create_model(name, num_classes=3)
    head = {
        f"{n}.{p}"
        for n, m in model.named_modules()
        if m is model.get_classifier()
        for p in ("weight", "bias")
    }
    choose_trained(model, "head")
    assert trained(model) == head
    other = timm.create_model(name, num_classes=3)
    choose_trained(other, "norm")
    assert head < trained(other) and all(
        p.ndim == 1 for n, p in other.named_parameters() if n in trained(other) - head
    )


@pytest.mark.parametrize(
    ("name", "layers", "prefixes"),
    [
        ("vit_tiny_patch16_224", 2, ("blocks.10.", "blocks.11.", "norm.", "head.")),
        ("tf_efficientnet_lite0", 2, ("blocks.5.", "blocks.6.", "conv_head.", "bn2.", "classifier.")),
        ("resnet10t", 1, ("layer4.", "fc.")),
        ("convnext_atto", 1, ("stages.3.", "head.")),
    ],
)
def test_the_last_layers_are_trained_with_the_head(name, layers, prefixes):
    model = timm.create_model(name, num_classes=3)
    choose_trained(model, "top", layers)
    assert trained(model) == {n for n, _ in model.named_parameters() if n.startswith(prefixes)}


def test_more_layers_than_there_are_are_refused():
    with pytest.raises(UserError, match=r"model\.adapt_layers is 13, but the network has 13 layers"):
        choose_trained(timm.create_model("vit_tiny_patch16_224", num_classes=3), "top", 13)


def test_frozen_statistics_stay_and_their_weights_train():
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    assert freeze_statistics(model) > 10
    twin = copy.deepcopy(model)
    for network in (model, twin):
        network.train()
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        network(torch.randn(4, 3, 64, 64) * 3 + 1).sum().backward()
        assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
        assert network.bn1.weight.grad is not None
    ordinary = timm.create_model("tf_efficientnet_lite0", num_classes=3).train()
    before = ordinary.bn1.running_mean.clone()
    ordinary(torch.randn(4, 3, 64, 64) * 3 + 1)
    assert not torch.equal(before, ordinary.bn1.running_mean), "the test sees no statistics that move"


def test_a_head_must_fit():
    model = timm.create_model("resnet10t", num_classes=3)
    set_head(model, torch.ones(3, 512), torch.zeros(3))
    assert model.fc.weight.eq(1).all()
    with pytest.raises(UserError, match="head probe needs a network whose classifier is one linear"):
        set_head(model, torch.ones(3, 7), torch.zeros(3))


def test_two_sources_of_weights_and_a_frozen_random_trunk_are_refused(tmp_path):
    with pytest.raises(UserError, match="give one of them"):
        ModelConfig(pretrained=True, weights=tmp_path)
    with pytest.raises(UserError, match="starts from random weights"):
        ModelConfig(adapt="head")


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [({}, False), ({"pretrained": True}, True), ({"batch_norm": "frozen"}, True),
     ({"pretrained": True, "batch_norm": "train"}, False)],
)  # fmt: skip
def test_statistics_are_kept_where_they_came_with_the_weights(settings, frozen):
    assert ModelConfig(**settings).freezes_statistics is frozen
