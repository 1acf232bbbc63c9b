"""Layers in bfloat16 on a CPU: the same values, by the faster way."""

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from timm.layers import Conv2dSame, PatchEmbed
from torch import nn

from fastsemi.common.precision import multiplies_bf16
from fastsemi.models.cpu_layers import use_cpu_layers
from fastsemi.models.create import create_model, use_fused_attention
from fastsemi.models.settings import ModelConfig

pytestmark = pytest.mark.skipif(
    not multiplies_bf16(),
    reason="PyTorch has no oneDNN with bfloat16 here",
)
VIT = ModelConfig("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2})
CNN = ModelConfig("tf_efficientnet_lite0", pool="default")


def faster(network: nn.Module) -> nn.Module:
    """A copy of a network with the faster layers."""
    found = copy.deepcopy(network)
    use_cpu_layers(found)
    return found


def passes(
    network: nn.Module, images: torch.Tensor, dtype: torch.dtype = torch.bfloat16
) -> list[torch.Tensor]:
    """Output and gradients, of the images first."""
    leaf = images.clone().requires_grad_()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        output = network(leaf)
    wanted = [leaf, *(p for p in network.parameters() if p.requires_grad)]
    weight = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return [output, *torch.autograd.grad((output.float() * weight).sum(), wanted)]


def alike(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether all are the same to the bit, types included."""
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (1, 7), (0, 7)])
@pytest.mark.parametrize("trains", [("weight", "bias"), ("bias",), ()])
def test_a_linear_layer_is_autocasts_to_the_bit(shape, bias, trains):
    layer = nn.Linear(7, 19, bias=bias)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name in trains)
    images = torch.randn(shape)
    assert alike(passes(layer, images), passes(faster(layer), images))
    assert alike(passes(layer, images, torch.float32), passes(faster(layer), images, torch.float32))


@pytest.mark.parametrize("args", [{}, {"qk_norm": True}, {"attn_drop_rate": 0.5}])
def test_a_vit_trains_as_before_to_the_bit(args):
    network = create_model(
        replace(VIT, args={**VIT.args, **args}), num_classes=5, image_size=16, drop_path=0.2
    )
    use_fused_attention(network.train(), False)
    quick = faster(network)
    kinds = Counter(type(m).__name__ for m in quick.modules())
    assert (kinds["CpuLinear"], kinds["CpuAttention"], kinds["CpuConv2d"]) == (9, 0 if args else 2, 1)
    quick.patch_embed.proj.__class__ = nn.Conv2d  # rounds otherwise
    images, used = torch.randn(6, 3, 16, 16), []
    quick.blocks[0].attn.proj.register_forward_pre_hook(lambda _, tokens: used.append(tokens[0].grad_fn))
    assert alike(passes(network, images), passes(quick, images))
    assert ("_Attention" in used[0].name()) == (not args)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), quick.eval()(images))
        with torch.autocast("cpu", torch.bfloat16):
            mask = torch.ones(17, 17).tril().bool()
            tokens = torch.randn(2, 17, 24)
            for each in ({}, {"attn_mask": mask}):
                assert torch.equal(
                    network.blocks[0].attn(tokens, **each), quick.blocks[0].attn(tokens, **each)
                )


def test_a_compiler_sees_the_layers_of_pytorch():
    graphs = []
    quick = torch.compile(
        faster(nn.Linear(4, 4)), backend=lambda graph, _: graphs.append(graph.code) or graph
    )
    with torch.autocast("cpu", torch.bfloat16):
        quick(torch.ones(2, 4))
    assert len(graphs) == 1 and "mkldnn" not in graphs[0] and "linear" in graphs[0]


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_depthwise_convolution_is_autocasts_and_its_gradients_are_closer(
    kind, kernel, stride, bias, memory_format
):
    layer = kind(16, 16, kernel, stride, kernel // 2, groups=16, bias=bias).to(memory_format=memory_format)
    images = torch.randn(4, 16, 9, 9).bfloat16().float().contiguous(memory_format=memory_format)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter.bfloat16())
    output, *found = passes(faster(layer), images)
    same, *autocast = passes(layer, images)
    _, *exact = passes(copy.deepcopy(layer).double(), images.double(), torch.float64)
    assert torch.equal(output, same)
    for ours, theirs, true in zip(found, autocast, exact, strict=True):
        assert ours.dtype == torch.float32 and ours.shape == true.shape
        # What comes in is rounded to bfloat16 by both.
        assert (ours - true).abs().max() <= (theirs - true).abs().max() + 2**-7 * true.abs().max()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("patch", [4, (2, 8)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_patch_embedding_is_as_close_as_autocasts(bias, patch, memory_format):
    layer = PatchEmbed((16, 24), patch, 3, 40, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter.bfloat16())
    images = torch.randn(5, 3, 16, 24).bfloat16().float().contiguous(memory_format=memory_format)
    quick = faster(layer)
    assert alike(passes(layer, images, torch.float32), passes(quick, images, torch.float32))
    found, autocast = passes(quick, images), passes(layer, images)
    exact = passes(copy.deepcopy(layer).double(), images.double(), torch.float64)
    for ours, theirs, true in zip(found, autocast, exact, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == true.shape
        assert (ours - true).abs().max() <= (theirs - true).abs().max() + 2**-9 * true.abs().max()
    with torch.autocast("cpu", torch.bfloat16):  # pixels that fill no patch are left out
        assert torch.equal(quick.proj(images[..., :-1]), layer.proj(images[..., :-1]))


def test_only_what_is_slow_is_replaced_and_all_else_stays():
    network = create_model(CNN, num_classes=3, image_size=32)
    quick = faster(network)
    assert quick.state_dict().keys() == network.state_dict().keys()
    for (name, before), after in zip(network.named_modules(), quick.modules(), strict=True):
        assert isinstance(after, type(before))
        slow = isinstance(before, nn.Conv2d) and before.groups > 1
        slow = slow and (before.kernel_size != (3, 3) or before.stride != (1, 1))
        assert (type(after) is not type(before)) == (slow or isinstance(before, nn.Linear)), name
    kinds = [type(m) for m in quick.modules()]
    assert [type(m) for m in faster(quick).modules()] == kinds  # again: nothing is left to do
    odd = nn.Conv2d(4, 4, 5, padding="same", groups=4)
    assert type(faster(odd)) is nn.Conv2d
