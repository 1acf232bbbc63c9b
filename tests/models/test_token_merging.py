"""Merging of tokens against a slow loop over images, written from the definition."""

import copy
import math

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from fastsemi.common.errors import UserError
from fastsemi.models.cpu_layers import use_cpu_layers
from fastsemi.models.create import create_model, use_fused_attention
from fastsemi.models.lora import add_lora
from fastsemi.models.projected import Projected
from fastsemi.models.settings import ModelConfig
from fastsemi.models.token_merging import match, merge, merging, new_positions, prepare_merging, take

ARGS = {"patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}
VIT = ModelConfig("vit_tiny_patch16_224", ARGS)


def network(config: ModelConfig = VIT, image_size: int = 16) -> nn.Module:
    """In evaluation mode, with weights that tell tokens apart."""
    torch.manual_seed(0)
    model = create_model(config, num_classes=5, image_size=image_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def slow_match(keys, count, prefix):
    """Of one image: {position in A: position in B} of the most similar pairs."""
    patches = range(prefix, len(keys))
    a, b = patches[::2], patches[1::2]
    pairs = []
    for i in a:
        similarities = [float(cosine_similarity(keys[i], keys[j], dim=0)) for j in b]
        best = max(range(len(b)), key=similarities.__getitem__)
        pairs.append((similarities[best], i, b[best]))
    return {i: j for _, i, j in sorted(pairs, reverse=True)[:count]}


def slow_merge(tokens, sizes, pairs, prefix):
    """Of one image: the tokens that are left, their sizes, and where each token went."""
    length = len(tokens)
    order = [*range(prefix), *range(prefix, length, 2), *range(prefix + 1, length, 2)]
    order = [i for i in order if i not in pairs]
    left, left_sizes = [], []
    for i in order:
        group = [i, *(a for a, b in pairs.items() if b == i)]
        size = sum(int(sizes[k]) for k in group)
        left.append(sum(int(sizes[k]) * tokens[k] for k in group) / size)
        left_sizes.append(size)
    where = [order.index(pairs.get(i, i)) for i in range(length)]
    return torch.stack(left), torch.tensor(left_sizes), torch.tensor(where)


@torch.no_grad()
def slow_logits(model, images, count):
    """Logits of a ViT that averages patches by size, or reads its class token, image by image."""
    prefix, logits = model.num_prefix_tokens, []
    for image in images:
        x = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0]
        sizes = torch.ones(len(x), dtype=torch.long)
        for block in model.blocks:
            layer, seen = block.attn, block.norm1(x)
            three = layer.qkv(seen).view(len(x), 3, layer.num_heads, layer.head_dim)
            query, key = layer.q_norm(three[:, 0]), layer.k_norm(three[:, 1])
            heads = []
            for h in range(layer.num_heads):
                scores = query[:, h] @ key[:, h].T / math.sqrt(layer.head_dim) + sizes.log()
                heads.append(scores.softmax(-1) @ three[:, 2, h])
            x = x + block.ls1(layer.proj(torch.cat(heads, -1)))
            least = min(count, (len(x) - prefix) // 2)
            x, sizes, _ = slow_merge(x, sizes, slow_match(key.mean(1), least, prefix), prefix)
            x = x + block.ls2(block.mlp(block.norm2(x)))
        x = model.norm(x)
        if model.global_pool == "avg":
            features = (sizes[prefix:, None] * x[prefix:]).sum(0) / sizes[prefix:].sum()
            logits.append(model.head(model.fc_norm(features)))
        elif hasattr(model, "head_dist"):
            logits.append((model.head(x[0]) + model.head_dist(x[1])) / 2)
        else:
            logits.append(model.head(model.fc_norm(x[0])))
    return torch.stack(logits)


@pytest.mark.parametrize(
    ("length", "prefix", "count"), [(17, 1, 3), (17, 1, 8), (16, 0, 5), (12, 5, 3), (4, 1, 1), (2, 0, 1)]
)
def test_tokens_are_merged_as_the_loop_over_images_does(length, prefix, count):
    generator = torch.Generator().manual_seed(length + count)
    keys = torch.randn(3, length, 7, generator=generator)
    tokens = torch.randn(3, length, 5, generator=generator)
    sizes = torch.randint(1, 5, (3, length), generator=generator)
    found = match(keys, count, prefix)
    left, left_sizes = merge(tokens, sizes, found, prefix)
    where = new_positions(found)
    for i in range(3):
        expected = slow_merge(tokens[i], sizes[i], slow_match(keys[i], count, prefix), prefix)
        assert_close(left[i], expected[0])
        assert torch.equal(left_sizes[i], expected[1]) and torch.equal(where[i], expected[2])
    assert left.shape == (3, length - count, 5)
    assert torch.equal(left_sizes.sum(1), sizes.sum(1)), "sizes add up"
    assert torch.equal(left[:, :prefix], tokens[:, :prefix]), "the prefix is left alone"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_merges_with_nothing_stays_to_the_bit(dtype):
    tokens, sizes = torch.randn(4, 13, 6).to(dtype), torch.randint(1, 4, (4, 13))
    found = match(torch.randn(4, 13, 3), 2, 1)
    left, left_sizes = merge(tokens, sizes, found, 1)
    alone = left_sizes == sizes.gather(1, found.stay)
    assert left.dtype == dtype and 0 < int((~alone).sum()) <= 8
    assert torch.equal(left[alone], take(tokens, found.stay)[alone])


def test_no_token_to_merge_is_the_identity_to_the_bit():
    tokens, sizes = torch.randn(2, 9, 6), torch.randint(1, 4, (2, 9))
    found = match(torch.randn(2, 9, 3), 0, 1)
    left, left_sizes = merge(tokens, sizes, found, 1)
    assert torch.equal(left, tokens) and torch.equal(left_sizes, sizes)
    assert torch.equal(new_positions(found), torch.arange(9).expand(2, -1))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("name", "pool", "further"),
    [
        ("vit_tiny_patch16_224", "avg", {}),
        ("vit_tiny_patch16_224", "avg", {"fc_norm": False, "class_token": False}),
        ("vit_tiny_patch16_224", "token", {"qk_norm": True, "init_values": 0.5, "reg_tokens": 4}),
        ("deit_tiny_distilled_patch16_224", "default", {}),
    ],
)
@pytest.mark.parametrize("count", [3, 100])
def test_a_network_is_that_of_the_loop_over_images(name, pool, further, fused, count):
    """With 100 each block merges half of the patches that it gets: 16, 8, 4, 2."""
    model = network(ModelConfig(name, {**ARGS, **further}, pool=pool))
    images = torch.randn(3, 3, 16, 16)
    expected = slow_logits(model, images, count)
    plain = model(images)
    prepared = copy.deepcopy(model)
    prepare_merging(prepared, count)
    use_fused_attention(prepared, fused)
    with torch.no_grad(), merging(prepared):
        assert_close(prepared(images), expected, rtol=1e-4, atol=1e-5)
    assert (expected - plain).abs().max() > 1e-3, "merging changes something"


def test_elsewhere_the_network_is_the_same_to_the_bit():
    model = network()
    prepared, images = copy.deepcopy(model), torch.randn(3, 3, 16, 16)
    prepare_merging(prepared, 3)
    with merging(prepared):
        assert not torch.equal(prepared(images), model(images))
    assert torch.equal(prepared(images), model(images))
    assert list(prepared.state_dict()) == list(model.state_dict())
    with pytest.raises(ZeroDivisionError), merging(prepared):
        raise ZeroDivisionError
    assert torch.equal(prepared(images), model(images)), "an error switches it off too"


def test_a_single_patch_merges_with_none():
    model = network(image_size=4)
    prepared, images = copy.deepcopy(model), torch.randn(2, 3, 4, 4)
    prepare_merging(prepared, 3)
    with merging(prepared):
        assert_close(prepared(images), model(images))


def test_lora_a_projection_and_half_precision():
    """The layers are called, not read: products of LoRA, and what is quicker on a CPU, count."""
    model = network()
    add_lora(model, 4, 8.0, seed=0)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.lora_b.normal_()
    images = torch.randn(3, 3, 16, 16)
    expected = slow_logits(model, images, 3)
    both = Projected(model).eval()
    prepare_merging(both, 3)
    use_fused_attention(both, False)
    use_cpu_layers(both)
    with torch.no_grad(), merging(both):
        assert_close(both(images)[:, :5], expected, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert both(images).isfinite().all()
        half = both.bfloat16()(images.bfloat16())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_images_of_another_side():
    model = network(ModelConfig("vit_tiny_patch16_224", {**ARGS, "dynamic_img_size": True}))
    images = torch.randn(2, 3, 24, 24)
    expected = slow_logits(model, images, 5)
    prepare_merging(model, 5)
    with torch.no_grad(), merging(model):
        assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_it_compiles_into_one_graph_beside_the_plain_one():
    torch._dynamo.reset()
    model, images = network(), torch.randn(4, 3, 16, 16)
    prepare_merging(model, 3)
    with torch.no_grad():
        plain = model(images)
        with merging(model):
            merged = model(images)
        counter = CompileCounter()
        model.compile(backend=counter, fullgraph=True)
        for _ in range(2):
            assert_close(model(images), plain)
            with merging(model):
                assert_close(model(images), merged)
    assert counter.frame_count == 2
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "args", "kind"),
    [
        ("resnet10t", {}, "ResNet"),
        ("beit_base_patch16_224", {}, "Beit"),
        ("eva02_tiny_patch14_224", {}, "Eva"),
        ("vit_relpos_small_patch16_224", {}, "VisionTransformerRelPos"),
        ("vit_small_plus_patch16_dinov3", {}, "Eva"),
        ("vit_tiny_patch16_224", {"scale_attn_norm": True}, "VisionTransformer"),
        ("vit_tiny_patch16_224", {"attn_layer": "diff"}, "VisionTransformer"),
        ("deit3_small_patch16_224", {"block_fn": "ResPostBlock"}, "VisionTransformer"),
    ],
)
def test_other_networks_are_refused(name, args, kind):
    if "block_fn" in args:
        from timm.models.vision_transformer import ResPostBlock

        args = {"block_fn": ResPostBlock}
    with torch.device("meta"):
        model = create_model(ModelConfig(name, args, pool="default"), num_classes=3, image_size=224)
    before = [type(module) for module in model.modules()]
    with pytest.raises(UserError, match=rf"^semi\.merge_tokens is 8, but {kind} does not .*; set it to 0$"):
        prepare_merging(model, 8)
    assert [type(module) for module in model.modules()] == before
