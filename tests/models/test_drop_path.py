"""Drop path with its rate in a tensor draws as timm's does."""

import copy

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from fastsemi.models.create import create_model
from fastsemi.models.drop_path import SharedDropPath, share_drop_path
from fastsemi.models.settings import ModelConfig

VIT = ModelConfig("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 1})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.97])
@pytest.mark.parametrize("shape", [(64, 3, 2), (1, 4), (7, 2, 3, 3)])
def test_values_gradients_and_draws_are_timms(rate, shape, dtype):
    tokens = torch.randn(shape, dtype=dtype)
    found = []
    for path in (DropPath(rate), SharedDropPath(rate)):
        leaf = tokens.clone().requires_grad_()
        torch.manual_seed(3)
        output = path.train()(leaf)
        output.sum().backward()
        found.append((output, leaf.grad, torch.random.get_rng_state()))
        assert path.eval()(tokens) is tokens
    assert all(torch.equal(theirs, ours) for theirs, ours in zip(*found, strict=True))


def test_a_network_keeps_its_names_mode_and_losses():
    network = create_model(VIT, num_classes=3, image_size=8, drop_path=0.5).train()
    shared = copy.deepcopy(network)
    share_drop_path(list(shared.blocks))
    assert all(isinstance(block.drop_path1, SharedDropPath) for block in shared.blocks)
    assert shared.state_dict().keys() == network.state_dict().keys()
    outputs = []
    for each in (network, shared, copy.deepcopy(shared)):
        torch.manual_seed(0)
        outputs.append(each(torch.ones(8, 3, 8, 8)))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    share_drop_path(list(shared.eval().blocks))  # again: nothing is left to do
    assert not any(path.training for block in shared.blocks for path in (block.drop_path1, block.drop_path2))


def test_blocks_without_drop_path_and_with_another_one_stay_as_they_are():
    for network in (create_model(VIT, num_classes=3, image_size=8), nn.Module()):
        network.drop_path = DropPath(0.2, scale_by_keep=False)
        before = [type(module) for module in network.modules()]
        share_drop_path([network, *getattr(network, "blocks", [])])
        assert [type(module) for module in network.modules()] == before
