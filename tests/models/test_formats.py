"""Weights of every format, written here from random networks, must give the source network's features."""

import argparse

import pytest
import timm
import torch
from safetensors.torch import save_file

from fastsemi.models.formats import recognise
from fastsemi.models.weights import load_backbone, read_weights

DECODER = {"mask_token": torch.randn(1, 1, 32), "decoder_pos_embed": torch.randn(1, 17, 32)} | {
    f"decoder_{name}": torch.randn(32) for name in ("embed.weight", "blocks.0.norm1.weight", "norm.bias")
}
PROJECTOR = {"head.mlp.0.weight": torch.randn(8, 48), "head.last_layer.weight_v": torch.randn(9, 8)}


def with_prefix(state, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def noise_like(state) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


def mae(encoder):
    return {"model": encoder}


def mae_with_decoder(encoder):
    return {"model": {**encoder, **DECODER}, "epoch": 3, "args": argparse.Namespace(lr=1.0)}


def dino_bare(encoder):
    return encoder


def dino_full(encoder):
    student = noise_like(encoder)
    return {
        "student": with_prefix({**with_prefix(student, "backbone."), **PROJECTOR}, "module."),
        "teacher": {**with_prefix(encoder, "backbone."), **PROJECTOR},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []},
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 9)},
        "epoch": 3,
    }


def moco_v3(encoder):
    momentum = noise_like(encoder)
    projector = {"head.0.weight": torch.randn(8, 48), "head.1.running_mean": torch.randn(8)}
    return {
        "epoch": 300,
        "arch": "vit_small",
        "best_acc1": torch.tensor(1.0),
        "state_dict": {
            **with_prefix({**encoder, **projector}, "module.base_encoder."),
            **with_prefix({**momentum, **projector}, "module.momentum_encoder."),
            "module.predictor.0.weight": torch.randn(8, 8),
        },
    }


def moco_v3_momentum(encoder):
    return {"state_dict": with_prefix(encoder, "module.momentum_encoder.")}


def compiled_and_parallel(encoder):
    return {"state_dict": with_prefix(encoder, "module._orig_mod.")}


TRANSFORMERS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def transformers_vit(encoder):
    """ViTForImageClassification: its names, and query, key and value apart."""
    state = {"pooler.dense.weight": torch.randn(48, 48)}
    for name, tensor in encoder.items():
        module, _, leaf = name.rpartition(".")
        if name in TRANSFORMERS:
            state[TRANSFORMERS[name]] = tensor
        elif module in TRANSFORMERS:
            state[f"{TRANSFORMERS[module]}.{leaf}"] = tensor
        else:
            _, i, inner = module.split(".", 2)
            layer = f"encoder.layer.{i}."
            if inner != "attn.qkv":
                state[f"{layer}{TRANSFORMERS[inner]}.{leaf}"] = tensor
                continue
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[f"{layer}attention.attention.{part}.{leaf}"] = rows.clone()
    return {**with_prefix(state, "vit."), "classifier.weight": torch.randn(7, 48)}


FORMATS = {
    mae: "MAE",
    mae_with_decoder: "MAE",
    dino_bare: "bare encoder (DINO, timm)",
    dino_full: "DINO, teacher",
    moco_v3: "MoCo-v3",
    moco_v3_momentum: "MoCo-v3",
    compiled_and_parallel: "timm checkpoint",
    transformers_vit: "transformers",
}


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_encoders_give_the_source_networks_features(vit, tmp_path, write, pool):
    source = vit.randomise(vit.plain())
    torch.save(write(vit.encoder_of(source)), tmp_path / "weights.pth")
    model = vit.ours(pool)
    report = load_backbone(model, read_weights(tmp_path / "weights.pth"), where="weights.pth")

    reference, encoder = vit.plain(pool=pool), vit.encoder_of(source)
    if pool == "avg":
        encoder |= {f"fc_norm.{kind}": encoder.pop(f"norm.{kind}") for kind in ("weight", "bias")}
    missing = reference.load_state_dict(encoder, strict=False).missing_keys
    assert set(missing) == set(vit.HEAD)
    torch.testing.assert_close(vit.features(model), vit.features(reference), rtol=1e-5, atol=1e-5)
    assert report.format == FORMATS[write]
    assert set(report.loaded) == set(encoder) and set(report.initial) == set(vit.HEAD)
    assert report.changed == (("norm -> fc_norm",) if pool == "avg" else ())


def test_what_was_dropped_is_listed_by_name(vit):
    encoder = vit.encoder_of(vit.randomise(vit.plain()))

    def dropped(content):
        return set(load_backbone(vit.ours(), recognise(content), where="x").dropped)

    assert dropped(mae_with_decoder(encoder)) == set(DECODER)
    assert dropped(dino_full(encoder)) == set(PROJECTOR)
    moco = dropped(moco_v3(encoder))
    assert {"head.0.weight", "head.1.running_mean", "predictor.0.weight"} <= moco
    assert {f"momentum_encoder.{name}" for name in encoder} <= moco
    assert dropped(transformers_vit(encoder)) == {"head.weight", "pooler.dense.weight"}


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_timm_weights_give_the_same_logits_with_the_head_kept(vit, tmp_path, kind, pool):
    source = vit.randomise(vit.plain(pool=pool))
    path = tmp_path / f"model.{kind}"
    (torch.save if kind == "pth" else save_file)(source.state_dict(), path)
    model = vit.ours(pool, classes=5)
    report = load_backbone(model, read_weights(path), where=str(path), keep_head=True)
    torch.testing.assert_close(vit.logits(model), vit.logits(source), rtol=1e-5, atol=1e-5)
    assert report.format == "timm" and not report.dropped and not report.initial

    fresh = vit.ours(pool, classes=5)
    head = fresh.head.weight.clone()
    report = load_backbone(fresh, read_weights(path), where=str(path))
    assert torch.equal(fresh.head.weight, head)
    assert set(report.initial) == set(report.dropped) == set(vit.HEAD)


def authors_checkpoint(student, average):
    """As the paper's code writes it."""
    return {
        "model": student.state_dict(),
        "model_ema": average.state_dict(),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 99,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(blr=1e-3, model_ema=True),
    }


def timm_checkpoint(student, average):
    return {
        "epoch": 9,
        "arch": "vit_tiny_patch16_224",
        "state_dict": with_prefix(student.state_dict(), "module."),
        "state_dict_ema": average.state_dict(),
        "args": argparse.Namespace(lr=1.0),
        "metric": 71.0,
    }


@pytest.mark.parametrize("write", [authors_checkpoint, timm_checkpoint])
@pytest.mark.parametrize("ema", [True, False])
def test_training_checkpoints_give_the_average_or_the_student(vit, tmp_path, write, ema):
    student, average = (vit.randomise(vit.plain(pool="avg"), seed) for seed in (1, 2))
    torch.save(write(student, average), tmp_path / "checkpoint.pth")
    model = vit.ours("avg", classes=5)
    weights = read_weights(tmp_path / "checkpoint.pth", ema=ema)
    load_backbone(model, weights, where="checkpoint.pth", keep_head=True)
    expected = average if ema else student
    torch.testing.assert_close(vit.logits(model), vit.logits(expected), rtol=1e-5, atol=1e-5)
    assert weights.format.endswith(", EMA") == ema


def test_without_an_average_the_weights_are_taken(vit):
    encoder = vit.encoder_of(vit.plain())
    assert recognise({"model_ema": {}, "model": encoder}).tensors.keys() == encoder.keys()
    assert recognise({"teacher": encoder}, ema=False).tensors.keys() == encoder.keys()
    assert recognise(dino_full(encoder), ema=False).format == "DINO, student"


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
def test_efficientnets_of_the_older_package_give_timms_logits(name, tmp_path):
    """Its blocks are counted through, and their convolutions have names of their own."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    theirs = {}
    names = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    inside = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    inside |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    inside |= {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    first = inside | {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
    for key, tensor in model.state_dict().items():
        module, _, kind = key.rpartition(".")
        block = next((b for b in names if module.startswith(f"{b}.")), None)
        if block:
            part = module.removeprefix(f"{block}.")
            number = names.index(block)
            theirs[f"_blocks.{number}.{(first if number == 0 else inside)[part]}.{kind}"] = tensor
        else:
            theirs[f"{outside.get(module, '_fc')}.{kind}"] = tensor
    torch.save(theirs, tmp_path / "old.pth")
    other = timm.create_model(name, num_classes=5).eval()
    weights = read_weights(tmp_path / "old.pth")
    assert weights.format == "EfficientNet-PyTorch"
    load_backbone(other, weights, where="old.pth", keep_head=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)
