"""Networks by name: pooling, position embeddings, heads and exports against plain timm."""

import pytest
import timm
import torch
from timm.layers import PatchDropout

from fastsemi.common.errors import UserError
from fastsemi.models.create import create_model, scale_head, use_fused_attention
from fastsemi.models.patch_drop import patch_drop_rate
from fastsemi.models.settings import ModelConfig
from fastsemi.models.timm_folder import export_timm

CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


@pytest.mark.parametrize("pool", ["avg", "token", "default"])
def test_pooling_equals_its_definition(vit, pool):
    model = vit.randomise(vit.ours(pool))
    images = torch.randn(2, 3, vit.SIZE, vit.SIZE)
    tokens = model._pos_embed(model.patch_embed(images))
    for block in model.blocks:
        tokens = block(tokens)
    if pool == "avg":
        expected = model.head(model.fc_norm(tokens[:, 1:].mean(1)))
    else:
        expected = model.head(model.norm(tokens)[:, 0])
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "embed_dim", "depth", "num_heads", "patch"),
    [
        ("vit_small_patch16_224", 384, 12, 6, 16),
        ("vit_base_patch16_224", 768, 12, 12, 16),
        ("vit_large_patch16_224", 1024, 24, 16, 16),
        ("vit_huge_patch14_224", 1280, 32, 16, 14),
    ],
)
def test_the_papers_vits_have_its_sizes(name, embed_dim, depth, num_heads, patch):
    with torch.device("meta"):
        model = create_model(ModelConfig(name), num_classes=1000, image_size=224, drop_path=0.1)
    assert (model.embed_dim, len(model.blocks)) == (embed_dim, depth)
    assert model.blocks[0].attn.num_heads == num_heads and model.patch_embed.patch_size == (patch, patch)
    assert isinstance(model.fc_norm, torch.nn.LayerNorm) and model.fc_norm.eps == 1e-6
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.1 * i / (depth - 1) for i in range(depth)])


@pytest.mark.parametrize(
    ("name", "blocks"), [("convnext_tiny", (3, 3, 9, 3)), ("convnext_small", (3, 3, 27, 3))]
)
def test_the_papers_convnexts_have_its_sizes(name, blocks):
    with torch.device("meta"):
        model = create_model(ModelConfig(name), num_classes=1000, image_size=224, drop_path=0.1)
    assert tuple(len(stage.blocks) for stage in model.stages) == blocks
    assert [stage.blocks[0].conv_dw.in_channels for stage in model.stages] == [96, 192, 384, 768]


def sincos(grid: int, dim: int) -> torch.Tensor:
    """[grid * grid, dim], patches rows first: sin(row), sin(column), cos(row), cos(column) by frequency."""
    table = torch.zeros(grid, grid, dim, dtype=torch.float64)
    quarter = dim // 4
    for row in range(grid):
        for column in range(grid):
            for k in range(quarter):
                for part, coordinate in enumerate((row, column)):
                    angle = torch.tensor(coordinate / 10000 ** (k / quarter), dtype=torch.float64)
                    table[row, column, part * quarter + k] = angle.sin()
                    table[row, column, (2 + part) * quarter + k] = angle.cos()
    return table.reshape(grid * grid, dim).float()


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_sincos_position_embeddings_are_fixed_and_equal_their_formula(vit, pool):
    model = vit.ours(pool, pos_embed="sincos")
    assert not model.pos_embed.requires_grad and not model.pos_embed[:, 0].any()
    torch.testing.assert_close(model.pos_embed[0, 1:].data, sincos(4, 48))
    assert vit.ours(pool).pos_embed.requires_grad


@pytest.mark.parametrize(
    ("name", "args", "size"),
    [
        ("deit3_small_patch16_224", {"embed_dim": 48, "depth": 1, "num_heads": 3}, 32),
        ("beit_base_patch16_224", {"embed_dim": 48, "depth": 1, "num_heads": 3}, 32),
        ("vit_small_patch16_dinov3", {"embed_dim": 48, "depth": 1, "num_heads": 3}, 32),
        ("convnext_tiny", CONVNEXT, 32),
        ("resnet10t", {}, 32),
        ("mobilenetv3_small_050", {}, 32),
        ("dla46_c", {}, 32),
    ],
)
def test_other_networks_of_timm_average_too(name, args, size):
    model = create_model(ModelConfig(name, args), num_classes=4, image_size=size).eval()
    assert model(torch.randn(2, 3, size, size)).shape == (2, 4)
    assert getattr(model, "global_pool", "avg") != "token"


def test_the_head_and_only_the_head_is_scaled(vit):
    for model in (
        vit.ours(),
        create_model(ModelConfig("convnext_tiny", CONVNEXT), num_classes=3, image_size=32),
        vit.ours("default", name="deit_tiny_distilled_patch16_224"),
        create_model(ModelConfig("mobilenetv3_small_050"), num_classes=3, image_size=32),
    ):
        vit.randomise(model)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        scale_head(model, 0.001)
        heads = ("head.weight", "head.bias", "head.fc.", "head_dist.", "classifier.")
        scaled = [name for name in before if name.startswith(heads)]
        assert len(scaled) in (2, 4)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, before[name] * (0.001 if name in scaled else 1))


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 48, "depth": 1, "num_heads": 3}),
        ModelConfig("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 48, "depth": 1}, pool="token"),
        ModelConfig("vit_tiny_patch16_224", {"patch_size": 8, "depth": 1}, pos_embed="sincos"),
        ModelConfig("convnext_tiny", CONVNEXT),
        ModelConfig("resnet10t"),
    ],
    ids=["avg", "token", "sincos", "convnext", "resnet"],
)
def test_an_export_gives_the_same_logits_in_plain_timm(vit, tmp_path, config):
    model = create_model(config, num_classes=3, image_size=32, drop_path=0.1)
    vit.randomise(model)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    names = ("a", "b", "c")
    export_timm(
        model, tmp_path, config=config, class_names=names, image_size=32, mean=mean, std=std, crop=0.9
    )
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    torch.testing.assert_close(vit.logits(loaded, 32), vit.logits(model, 32), rtol=1e-5, atol=1e-5)
    data = timm.data.resolve_model_data_config(loaded)
    assert tuple(data["input_size"]) == (3, 32, 32) and data["crop_pct"] == 0.9
    assert (tuple(data["mean"]), tuple(data["std"])) == (mean, std)


def test_fused_attention_switches_and_changes_no_logits(vit):
    model = vit.randomise(vit.ours())
    expected = vit.logits(model)
    for enabled in (False, True):
        use_fused_attention(model, enabled)
        assert all(block.attn.fused_attn is enabled for block in model.blocks)
        torch.testing.assert_close(vit.logits(model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (ModelConfig("vit_bse_patch16_224"), 32, r"did you mean vit_base_patch16_224"),
        (ModelConfig("?"), 32, r"timm\.list_models\(\) prints all names"),
        (ModelConfig("vit_tiny_patch16_224.none"), 32, r"leave out the tag"),
        (
            ModelConfig("vit_tiny_patch16_224", {"depth": 1}),
            40,
            r"40 does not divide .* 16 pixels .* 32 or 48",
        ),
        (ModelConfig("vit_tiny_patch16_224", {"depth": 1}), 8, r"use 16"),
        (ModelConfig("vit_small_patch16_dinov3", {"depth": 1}), 40, r"use 32 or 48"),
        (ModelConfig("vit_tiny_patch16_224", {"deep": 1}), 32, r"refuses its arguments .*deep"),
        (ModelConfig("vit_tiny_patch16_224", {"num_heads": 5}), 32, r"refuses its arguments .*num_heads"),
        (ModelConfig("vit_tiny_patch16_224", {"num_heads": 0}), 32, r"refuses its arguments"),
        (ModelConfig("resnet10t", pool="token"), 32, r"global_pool.*token"),
        (ModelConfig("resnet10t", pos_embed="sincos"), 32, r"sincos needs a ViT"),
        (
            ModelConfig("vit_tiny_patch16_224", {"embed_dim": 42, "depth": 1}, pos_embed="sincos"),
            32,
            r"not 42",
        ),
    ],
)
def test_wrong_models_end_in_one_line(config, size, message):
    with pytest.raises(UserError, match=message) as caught:
        create_model(config, num_classes=3, image_size=size)
    assert "\n" not in str(caught.value)


def test_drop_path_is_refused_where_the_family_has_none():
    with pytest.raises(UserError, match=r"dla46_c refuses .* drop_path 0\.1"):
        create_model(ModelConfig("dla46_c"), num_classes=3, image_size=32, drop_path=0.1)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "deit_tiny_distilled_patch16_224"]
)
def test_some_patches_are_left_out_in_training_mode_alone(name):
    args = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    pool = "default" if "distilled" in name else "avg"
    config, images = ModelConfig(name, args, pool=pool), torch.randn(3, 3, 16, 16)
    torch.manual_seed(0)
    some = create_model(config, num_classes=3, image_size=16, keep_tokens=0.4)
    torch.manual_seed(0)
    every = create_model(config, num_classes=3, image_size=16)
    assert some.state_dict().keys() == every.state_dict().keys()
    entered = []
    some.blocks[0].register_forward_pre_hook(lambda _, given: entered.append(given[0].detach()))
    torch.testing.assert_close(some.eval()(images), every.eval()(images))
    logits = some.train()(images)
    whole, kept = entered
    prefix = some.num_prefix_tokens
    assert whole.shape[1] == prefix + 16 and kept.shape[1] == prefix + 6, "of 16 patches 6.4, rounded down"
    torch.testing.assert_close(kept[:, :prefix], whole[:, :prefix])
    same = (kept[:, prefix:, None] == whole[:, None, prefix:]).all(-1)  # [B, 6, 16]
    assert same.sum(-1).eq(1).all() and same.sum(1).le(1).all(), "six different patches, positions included"
    assert not torch.equal(same[0].any(0), same[1].any(0)), "each image has its own"
    if name.startswith("vit_tiny"):
        tokens = every.blocks(kept)
        torch.testing.assert_close(logits, every.head(every.fc_norm(tokens[:, prefix:].mean(1))))


def test_a_share_of_the_patches_is_not_rounded_twice():
    """1 - (1 - 0.2) is less than 0.2."""
    tokens = torch.zeros(1, 1 + 100, 1)
    for share in range(1, 100):
        kept = PatchDropout(patch_drop_rate(share / 100)).train()(tokens)
        assert kept.shape[1] == 1 + share
    assert patch_drop_rate(1.0) is None


@pytest.mark.parametrize("name", ["resnet10t", "beit_base_patch16_224", "samvit_base_patch16_224"])
def test_networks_that_always_see_all_patches_refuse_to_leave_some_out(name):
    with pytest.raises(
        UserError, match=rf"semi\.keep_tokens is 0\.5, and {name} cannot leave .*; set it to 1$"
    ):
        create_model(ModelConfig(name), num_classes=3, image_size=32, keep_tokens=0.5)
