"""Tiny networks: as timm alone builds them, and as fastsemi does."""

from types import SimpleNamespace

import pytest
import timm
import torch

from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig

NAME = "vit_tiny_patch16_224"
SIZE = 16
ARGS = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3}
HEAD = ("head.weight", "head.bias")


@pytest.fixture(scope="session")
def vit():
    """The helpers of this file, by name."""
    helpers = (plain, ours, randomise, features, logits, encoder_of, with_prefix)
    return SimpleNamespace(NAME=NAME, SIZE=SIZE, ARGS=ARGS, HEAD=HEAD, **{f.__name__: f for f in helpers})


def plain(classes=5, pool="token", size=SIZE, name=NAME, **args) -> torch.nn.Module:
    """As timm alone builds it."""
    return timm.create_model(name, num_classes=classes, global_pool=pool, img_size=size, **{**ARGS, **args})


def ours(pool="token", classes=3, size=SIZE, name=NAME, pos_embed="learn", **args) -> torch.nn.Module:
    """As `create_model` builds it."""
    config = ModelConfig(name, {**ARGS, **args}, pool=pool, pos_embed=pos_embed)
    return create_model(config, num_classes=classes, image_size=size).eval()


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every tensor random, so that no mix-up of two goes unseen: norms start as ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(0.2 * noise if tensor.ndim > 1 else 1 + 0.2 * noise)
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    return model.eval()


def images(size: int) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features(model: torch.nn.Module, size: int = SIZE) -> torch.Tensor:
    """What the classifier sees."""
    return model.eval().forward_head(model.forward_features(images(size)), pre_logits=True)


@torch.no_grad()
def logits(model: torch.nn.Module, size: int = SIZE) -> torch.Tensor:
    return model.eval()(images(size))


def encoder_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All but the head."""
    return {name: tensor for name, tensor in model.state_dict().items() if name not in HEAD}


def with_prefix(state, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}
