"""Activation checkpointing: the gradients of the network without it, drop path and masks included."""

import copy

import pytest
import torch

from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress, QuietConsole
from fastsemi.models.create import checkpoint_activations, create_model
from fastsemi.models.mae import MaskedAutoencoder
from fastsemi.models.settings import ModelConfig
from fastsemi.run.run import Run

CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def gradients(network, images, seed=3):
    torch.manual_seed(seed)
    network.zero_grad()
    result = network(images)
    (result if result.ndim == 0 else result.square().sum()).backward()
    return result.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def networks(vit, kind):
    """A network, how many blocks it has, and the side of its images."""
    if kind == "convnext":
        config = ModelConfig("convnext_tiny", CONVNEXT, pool="default")
        return create_model(config, num_classes=3, image_size=32, drop_path=0.5), 5, 32
    encoder = create_model(ModelConfig(vit.NAME, vit.ARGS), num_classes=3, image_size=vit.SIZE, drop_path=0.5)
    if kind == "vit":
        return encoder, 2, vit.SIZE
    decoder = {"decoder_dim": 16, "decoder_depth": 3, "decoder_heads": 2}
    return MaskedAutoencoder(encoder, **decoder), 2 + 3, vit.SIZE


@pytest.mark.parametrize("kind", ["vit", "convnext", "mae"])
def test_gradients_are_the_same_with_drop_path(vit, kind):
    network, blocks, size = networks(vit, kind)
    network.train()
    again = copy.deepcopy(network)
    checkpoint_activations(again, kind)
    passes = []
    for module in again.modules():
        if type(module).__name__ in ("Block", "ConvNeXtBlock"):
            module.register_forward_pre_hook(lambda *_: passes.append(1))
    images = torch.randn(4, 3, size, size)
    (loss, expected), (value, got) = gradients(network, images), gradients(again, images)
    assert len(passes) == 2 * blocks, "each block runs once forward and once more for the backward pass"
    torch.testing.assert_close(value, loss, rtol=0, atol=0)
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0)
    other, _ = gradients(network, images, seed=4)
    assert not torch.equal(other, loss), "drop path or the mask must be at work"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crossvit_tiny_240", "has no activation checkpointing in timm"),
        ("resnet18", "batch norm of resnet18"),
    ],
)
def test_a_model_that_cannot_is_refused(name, message):
    with torch.device("meta"):
        model = create_model(ModelConfig(name, pool="default"), num_classes=3, image_size=240)
    with pytest.raises(UserError, match=message):
        checkpoint_activations(model, name)


def test_a_run_learns_the_same_weights(tiny, tmp_path):
    results = []
    for enabled in ("false", "true"):
        config = tiny("--model.activation_checkpointing", enabled, "--output", str(tmp_path / enabled))
        run = Run(config, Progress(QuietConsole(quiet=True)))
        run.train(list(config.stages))
        results.append(torch.load(run.folder.result("semi"), weights_only=True)["model"])
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=0, atol=0)
