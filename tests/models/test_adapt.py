"""What depends on the network: position embeddings, the last norm, and formats that timm converts."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from fastsemi.common.errors import UserError
from fastsemi.models.create import create_model
from fastsemi.models.formats import recognise
from fastsemi.models.settings import ModelConfig
from fastsemi.models.weights import load_backbone, read_weights


def test_position_embeddings_are_interpolated(vit):
    source = vit.randomise(vit.plain())
    model = vit.ours(size=32)
    report = load_backbone(model, recognise(vit.encoder_of(source)), where="x")
    reference = vit.plain(size=32)
    table = resample_abs_pos_embed(source.pos_embed, [8, 8], num_prefix_tokens=1)
    state = {**vit.encoder_of(source), "pos_embed": table}
    reference.load_state_dict(state, strict=False)
    torch.testing.assert_close(vit.features(model, 32), vit.features(reference, 32), rtol=1e-5, atol=1e-5)
    assert report.changed == ("pos_embed [1, 17, 48] -> [1, 65, 48]",)
    assert torch.equal(model.pos_embed[:, 0], source.pos_embed[:, 0])


def test_a_fixed_position_embedding_takes_the_files_and_stays_fixed(vit):
    source = vit.randomise(vit.plain())
    model = vit.ours(pos_embed="sincos")
    load_backbone(model, recognise(vit.encoder_of(source)), where="x")
    assert torch.equal(model.pos_embed, source.pos_embed) and not model.pos_embed.requires_grad


def test_a_norm_after_the_pooling_becomes_one_before_it(vit):
    source = vit.randomise(vit.plain(pool="avg"))
    model = vit.ours("token")
    report = load_backbone(model, source.state_dict(), where="x")
    assert torch.equal(model.norm.weight, source.fc_norm.weight) and report.changed == ("fc_norm -> norm",)


def test_a_file_without_the_last_norm_leaves_it_at_initial_values(vit):
    encoder = vit.encoder_of(vit.randomise(vit.plain()))
    del encoder["norm.weight"], encoder["norm.bias"]
    report = load_backbone(vit.ours("avg"), encoder, where="x")
    assert set(report.initial) == {"fc_norm.weight", "fc_norm.bias", *vit.HEAD}


def without_head(model) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}


def dinov2(registers: int):
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    return {"name": name, "patch_size": 4}


def official_dinov2(model) -> dict[str, torch.Tensor]:
    """timm's names undone: with registers, the class token's position is a row of the embedding again."""
    state = without_head(model)
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        row = torch.randn(1, 1, 48)
        state["cls_token"] = state["cls_token"] - row
        state["pos_embed"] = torch.cat([row, state["pos_embed"]], 1)
    return {**state, "mask_token": torch.zeros(1, 48)}


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_through_timm(vit, registers, pool):
    source = vit.randomise(vit.plain(pool=pool, **dinov2(registers)))
    weights = official_dinov2(source)
    if pool == "avg":
        weights |= {f"norm.{kind}": weights.pop(f"fc_norm.{kind}") for kind in ("weight", "bias")}
    model = vit.ours(pool, **dinov2(registers))
    report = load_backbone(model, weights, where="x")
    torch.testing.assert_close(vit.features(model), vit.features(source), rtol=1e-5, atol=1e-5)
    assert report.format == "DINOv2" and "mask_token" in report.dropped


DINOV3 = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 4}


def official_dinov3(model) -> dict[str, torch.Tensor]:
    """Its names, with the key's bias and its mask, which have no effect."""
    state = without_head(model)
    renamed = {"storage_tokens": state.pop("reg_token"), "mask_token": torch.zeros(1, 48)}
    renamed["rope_embed.periods"] = torch.ones(4)
    for name, tensor in state.items():
        if name.endswith(("q_bias", "v_bias")):
            continue
        renamed[name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")] = tensor
    for i in range(2):
        q, v = (state.get(f"blocks.{i}.attn.{n}_bias", torch.zeros(48)) for n in "qv")
        renamed[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.full((48,), 7.0), v])
        renamed[f"blocks.{i}.attn.qkv.bias_mask"] = torch.full((144,), float("nan"))
    return renamed


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
def test_dinov3_through_timm(vit, name, capsys):
    source = vit.randomise(timm.create_model(name, num_classes=5, img_size=vit.SIZE, **DINOV3))
    config = ModelConfig(name, DINOV3, pool="default")
    model = create_model(config, num_classes=3, image_size=vit.SIZE).eval()
    report = load_backbone(model, official_dinov3(source), where="x")
    torch.testing.assert_close(vit.features(model), vit.features(source), rtol=1e-5, atol=1e-5)
    assert report.format == "DINOv3" and {"mask_token", "rope_embed.periods"} <= set(report.dropped)
    assert not capsys.readouterr().out


def test_dinov3_biases_are_not_lost(vit):
    source = vit.randomise(timm.create_model("vit_small_patch16_dinov3_qkvb", img_size=vit.SIZE, **DINOV3))
    config = ModelConfig("vit_small_patch16_dinov3", DINOV3, pool="default")
    model = create_model(config, num_classes=3, image_size=vit.SIZE)
    with pytest.raises(UserError, match=r"attention biases .*_qkvb"):
        load_backbone(model, official_dinov3(source), where="x")


CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def official_convnext(model) -> dict[str, torch.Tensor]:
    """The names of ConvNeXt's own code, which the paper's code has too."""
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("stem.", "downsample_layers.0.")
        name = name.replace("head.norm", "norm").replace("head.fc", "head")
        if ".downsample." in name:
            _, i, _, rest = name.split(".", 3)
            name = f"downsample_layers.{i}.{rest}"
        name = name.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        state[name] = tensor
    return state


@pytest.mark.parametrize("write", [official_convnext, torch.nn.Module.state_dict])
def test_convnext_in_timms_and_in_its_own_names(vit, tmp_path, write):
    source = vit.randomise(timm.create_model("convnext_tiny", num_classes=5, **CONVNEXT))
    torch.save({"model": write(source), "model_ema": write(source), "epoch": 3}, tmp_path / "checkpoint.pth")
    config = ModelConfig("convnext_tiny", CONVNEXT)
    weights = read_weights(tmp_path / "checkpoint.pth")
    model = create_model(config, num_classes=5, image_size=64).eval()
    load_backbone(model, weights, where="x", keep_head=True)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), source(images), rtol=1e-5, atol=1e-5)

    other = create_model(config, num_classes=3, image_size=64)
    report = load_backbone(other, weights, where="x")
    assert set(report.initial) == {"head.fc.weight", "head.fc.bias"}
    assert torch.equal(other.head.norm.weight, source.head.norm.weight)


def test_batch_norm_networks_take_statistics_also_of_files_without_counters(vit):
    source = vit.randomise(timm.create_model("resnet10t", num_classes=5))
    state = {name: t for name, t in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    model = create_model(ModelConfig("resnet10t"), num_classes=5, image_size=32).eval()
    report = load_backbone(model, state, where="x", keep_head=True)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), source(images), rtol=1e-5, atol=1e-5)
    assert all(name.endswith("num_batches_tracked") for name in report.initial)


def test_moco_v3_small_needs_twelve_heads(vit):
    width = {"embed_dim": 384, "depth": 1}
    source = vit.randomise(vit.plain(**width, num_heads=12))
    weights = recognise({"state_dict": vit.with_prefix(vit.encoder_of(source), "module.base_encoder.")})
    with pytest.raises(UserError, match=r"has 12 attention heads, the network 6; set model\.args\.num_heads"):
        load_backbone(vit.ours(**width, num_heads=6), weights, where="x")
    model = vit.ours(**width, num_heads=12)
    load_backbone(model, weights, where="x")
    torch.testing.assert_close(vit.features(model), vit.features(source), rtol=1e-5, atol=1e-5)
