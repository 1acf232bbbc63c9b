"""Parameter groups: layers against timm and the paper's code, and what has no weight decay."""

import sys

import pytest
import timm
import torch
from timm.models import group_parameters

from fastsemi.common.errors import UserError
from fastsemi.models.layers import layer_ids
from fastsemi.models.mae import MaskedAutoencoder
from fastsemi.training.checkpoint.state import TrainingState
from fastsemi.training.optim import create_optimizer, parameter_groups, set_lr

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_classes": 5}


def vit(**args):
    return timm.create_model("vit_tiny_patch16_224", **{**VIT, **args})


def scales(model, decay=0.5):
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=decay)
    return {name: group["lr_scale"] for group in groups for name in group["names"]}


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_vit_layers_are_stem_blocks_and_head_with_the_last_norm(pool):
    """The rule of BEiT, MAE and the paper's code: norm and head are the layer after the last block."""
    model = vit(global_pool=pool)
    scale = scales(model)
    assert scale.keys() == dict(model.named_parameters()).keys()
    for name, value in scale.items():
        if name.startswith("blocks."):
            layer = 1 + int(name.split(".")[1])
        else:
            layer = 0 if name.startswith(("patch_embed.", "cls_token", "pos_embed")) else 4
        assert value == 0.5 ** (4 - layer), name


def test_convnext_layers_are_stem_each_block_with_its_downsampling_and_head():
    model = timm.create_model("convnext_tiny", **CONVNEXT)
    first_block = {"0.0": 1, "1.0": 2, "2.0": 3, "2.1": 4, "3.0": 5}
    for name, value in scales(model).items():
        parts = name.split(".")
        if parts[0] == "stages":
            block = f"{parts[1]}.0" if parts[2] == "downsample" else f"{parts[1]}.{parts[3]}"
            layer = first_block[block]
        else:
            layer = {"stem": 0, "head": 6}[parts[0]]
        assert value == 0.5 ** (6 - layer), name


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_tiny_patch16_224", {"depth": 2}),
        ("deit3_small_patch16_224", {"depth": 2}),
        ("beit_base_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
        ("vit_small_patch16_dinov3", {"depth": 2, "embed_dim": 48, "num_heads": 3}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
        ("convnext_tiny", CONVNEXT),
        ("resnet10t", {}),
        ("efficientnet_b0", {}),
        ("regnety_002", {}),
    ],
)
def test_layers_are_timms_but_for_the_last_norm(name, args):
    model = timm.create_model(name, **{"num_classes": 5, **args})
    theirs = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    ours, top = layer_ids(model), max(theirs.values())
    norms = [name for name in theirs if name.startswith(("norm.", "fc_norm."))]
    assert ours == theirs | dict.fromkeys(norms, top)
    assert top > 2


def test_networks_without_a_grouping_get_timms_automatic_one():
    model = timm.create_model("poolformer_s12", num_classes=3)
    assert not hasattr(model, "group_matcher")
    ids = layer_ids(model)
    assert ids.keys() == dict(model.named_parameters()).keys()
    top = max(ids.values())
    assert top > 2 and ids["head.fc.weight"] == top and ids["stem.conv.weight"] == 0


def test_layer_decay_of_unknown_layers_is_refused():
    model = torch.nn.Linear(2, 2)
    assert parameter_groups(model, weight_decay=0.05, layer_decay=1.0)
    with pytest.raises(UserError, match=r"layer_decay is 0\.75, but the layers of Linear are not known"):
        parameter_groups(model, weight_decay=0.05, layer_decay=0.75)


@pytest.mark.parametrize(
    "model",
    [
        vit(),
        vit(global_pool="avg"),
        timm.create_model("vit_small_patch14_reg4_dinov2", **{**VIT, "num_classes": 5}),
        timm.create_model("deit_tiny_distilled_patch16_224", **VIT),
        timm.create_model("convnext_tiny", **CONVNEXT),
        timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=24),
        timm.create_model("resnet10t"),
        MaskedAutoencoder(vit(global_pool="avg"), decoder_dim=32, decoder_depth=1, decoder_heads=2),
    ],
    ids=["token", "avg", "registers", "distilled", "convnext", "swin", "resnet", "mae"],
)
def test_only_matrices_and_kernels_decay(model):
    """Biases, norms, layer scales, tokens, position embeddings and position biases do not."""
    matrices = set()
    for module_name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            matrices.add(f"{module_name}.weight")
    for group in parameter_groups(model, weight_decay=0.05, layer_decay=1.0):
        for name in group["names"]:
            assert group["weight_decay"] == (0.05 if name in matrices else 0.0), name


def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_in_none():
    model = vit()
    model.pos_embed.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.65)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(n for n, p in model.named_parameters() if n != "pos_embed")
    for group in groups:
        assert [
            dict(model.named_parameters())[n] is p
            for n, p in zip(group["names"], group["params"], strict=True)
        ]


def test_learning_rates_are_scaled_layer_by_layer():
    model = vit()
    optimizer = create_optimizer(model, weight_decay=0.05, layer_decay=0.65, betas=(0.9, 0.95))
    set_lr(optimizer, 2e-3)
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert rates["head.weight"] == 2e-3
    assert rates["blocks.2.mlp.fc1.weight"] == pytest.approx(2e-3 * 0.65)
    assert rates["blocks.0.norm1.bias"] == pytest.approx(2e-3 * 0.65**3)
    assert rates["patch_embed.proj.weight"] == pytest.approx(2e-3 * 0.65**4)
    assert all(group["betas"] == (0.9, 0.95) for group in optimizer.param_groups)


def test_a_step_is_adamws_with_the_groups_rates():
    """One step of a matrix and a bias by hand: AdamW's first step is the sign of the gradient."""
    torch.manual_seed(0)
    model = vit()
    optimizer = create_optimizer(model, weight_decay=0.1, layer_decay=0.5, betas=(0.9, 0.999))
    set_lr(optimizer, 1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.randn(4, 3, 16, 16)).square().mean().backward()
    optimizer.step()
    for name, scale, decay in (("head.weight", 1.0, 0.1), ("blocks.0.mlp.fc1.bias", 0.125, 0.0)):
        parameter, lr = dict(model.named_parameters())[name], 1e-2 * scale
        gradient = parameter.grad
        expected = before[name] * (1 - lr * decay) - lr * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("backend", ["fused", "foreach"])
def test_back_ends_agree(backend):
    """Ten steps of either equal PyTorch's plain loop."""
    weights = {}
    for name, kind in ((backend, backend), ("loop", None)):
        torch.manual_seed(0)
        model = vit().double()  # elements without gradient follow the sign of their rounding errors
        if kind:
            optimizer = create_optimizer(
                model, weight_decay=0.05, layer_decay=0.5, betas=(0.9, 0.99), backend=kind
            )
        else:
            groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.5)
            optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), foreach=False, fused=False)
        for step in range(10):
            set_lr(optimizer, 1e-3 * (step + 1))
            model(torch.randn(2, 3, 16, 16, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights[name] = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights[backend], weights["loop"], rtol=1e-6, atol=1e-9)


def test_apex_that_is_not_installed_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "apex", None)
    with pytest.raises(UserError, match=r"not installed .*PyPI is something else.*NVIDIA/apex"):
        create_optimizer(vit(), weight_decay=0, layer_decay=1, betas=(0.9, 0.99), backend="apex")


def test_another_package_of_the_name_apex_is_told_from_nvidias(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "apex", raising=False)
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=rf"{tmp_path}/apex has no FusedAdam.*PyPI's"):
        create_optimizer(vit(), weight_decay=0, layer_decay=1, betas=(0.9, 0.99), backend="apex")
    monkeypatch.delitem(sys.modules, "apex", raising=False)


@pytest.mark.gpu
def test_apex_equals_fused():
    pytest.importorskip("amp_C", reason="needs NVIDIA's Apex")
    weights = {}
    for backend in ("fused", "apex"):
        torch.manual_seed(0)
        model = vit().cuda()
        optimizer = create_optimizer(
            model, weight_decay=0.05, layer_decay=0.5, betas=(0.9, 0.99), backend=backend
        )
        for _ in range(10):
            set_lr(optimizer, 1e-3)
            model(torch.randn(2, 3, 16, 16, device="cuda")).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights[backend] = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights["apex"], weights["fused"], rtol=1e-4, atol=1e-5)


def test_a_resumed_optimizer_counts_steps_where_a_new_one_does():
    """On the host unless it is fused: PyTorch reads the count of each parameter in each step."""
    with torch.device("meta"):  # stands for a GPU
        network = torch.nn.Linear(2, 3, bias=False)
        network.weight.grad = torch.zeros(3, 2)
    optimizers = []
    for _ in range(2):
        groups = [{"params": [network.weight], "names": ["weight"]}]
        optimizers.append(torch.optim.AdamW(groups, foreach=True))
    new, resumed = optimizers
    new.step()
    state = new.state[network.weight]
    names = {f"optimizer.{key}.weight": value.shape for key, value in state.items()}
    TrainingState(network, {}, resumed).prepare(names)
    again = resumed.state[network.weight]
    assert {key: value.device for key, value in again.items()} == {k: v.device for k, v in state.items()}
    assert again["step"].device.type == "cpu"
