"""LoRA against its equation; networks without the layers it needs; the plain weights it leaves."""

import copy

import pytest
import timm
import torch
from torch.nn.functional import linear

from fastsemi.common.errors import UserError
from fastsemi.models.lora import LoraLinear, add_lora, merged
from fastsemi.models.settings import ModelConfig
from fastsemi.models.trainable import choose_trained
from fastsemi.stages.teacher import EMATeacher
from fastsemi.training.optim import parameter_groups

LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@pytest.fixture
def adapted(vit):
    """A small ViT, and the same one with LoRA of rank 4 and alpha 8."""
    plain = vit.randomise(vit.plain())
    model = copy.deepcopy(plain)
    choose_trained(model, "lora")
    add_lora(model, 4, 8.0, seed=1)
    return plain, model


def move(model):
    """As training would."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def test_it_starts_as_the_same_network_and_trains_four_layers_a_block_and_the_head(vit, adapted):
    plain, model = adapted
    assert torch.equal(vit.logits(model), vit.logits(plain))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = [f"blocks.{block}.{layer}" for block in range(2) for layer in LAYERS]
    assert trained == {f"{name}.{part}" for name in layers for part in ("lora_a", "lora_b")} | set(vit.HEAD)
    assert model.blocks[0].mlp.fc1.lora_a.shape == (4, 48)
    assert model.blocks[0].mlp.fc1.lora_b.shape == (192, 4)
    assert model.blocks[0].mlp.fc1.lora_a.abs().max() <= 48**-0.5


def test_a_layer_is_equation_3(adapted):
    _, model = adapted
    move(model)
    layer, x = model.blocks[1].attn.qkv, torch.randn(5, 48)
    a, b = layer.lora_a.double(), layer.lora_b.double()
    expected = linear(x.double(), layer.weight.double() + 8 / 4 * b @ a, layer.bias.double())
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_merged_weights_are_plain_timms(vit, adapted):
    plain, model = adapted
    move(model)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain.load_state_dict(merged(model, model.state_dict()))
    theirs, ours = vit.logits(plain), vit.logits(model)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5 * float(ours.abs().max()))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    state = plain.state_dict()
    assert merged(plain, state) == state


def test_its_draw_is_the_seeds_alone(vit):
    found = []
    for seed, disturbance in ((1, 0), (1, 5), (2, 0)):
        model = vit.plain()
        torch.manual_seed(disturbance)
        add_lora(model, 4, 8.0, seed=seed)
        found.append(model.blocks[0].attn.proj.lora_a)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_teacher_averages_the_products_factors_and_shares_the_trunk(adapted):
    _, student = adapted
    teacher = EMATeacher(student, 0.5, "bf16")
    ours, theirs = student.blocks[0].attn.qkv, teacher.model.blocks[0].attn.qkv
    assert theirs.weight is ours.weight and theirs.lora_b is not ours.lora_b
    move(student)
    teacher.update(student)
    torch.testing.assert_close(theirs.lora_b.data, 0.5 * ours.lora_b.data)
    assert torch.equal(teacher.runner.blocks[0].attn.qkv.lora_b, theirs.lora_b.bfloat16())


def test_its_matrices_have_the_learning_rate_of_their_block_and_weight_decay(adapted):
    _, model = adapted
    groups = parameter_groups(model, weight_decay=0.1, layer_decay=0.5)
    found = {name: group for group in groups for name in group["names"]}
    for part in ("lora_a", "lora_b"):
        first, last = (found[f"blocks.{block}.mlp.fc2.{part}"] for block in range(2))
        assert first["weight_decay"] == last["weight_decay"] == 0.1
        assert first["lr_scale"] == last["lr_scale"] / 2 == 0.25


def test_activations_may_be_computed_again(vit, adapted):
    _, model = adapted
    move(model)
    images, found = torch.randn(2, 3, vit.SIZE, vit.SIZE), []
    for again in (False, True):
        model.set_grad_checkpointing(again)
        model.train().zero_grad()
        model(images).square().sum().backward()
        found.append(model.blocks[0].attn.qkv.lora_a.grad.clone())
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("name", "args", "rank", "message"),
    [
        ("resnet10t", {}, 8, "needs a vision transformer .* ResNet has not; set model.adapt to norm"),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}, 4, "ConvNeXt has not"),
        ("beit_base_patch16_224", {"depth": 1, "embed_dim": 48, "num_heads": 3}, 8,
         "cannot reach blocks.0.attn.qkv, whose weights Beit reads without calling it"),
        ("vit_tiny_patch16_224", {"depth": 1, "embed_dim": 48}, 49,
         r"lora_rank is 49, but blocks.0.attn.qkv has weights of \[144, 48\]; give less"),
    ],
)  # fmt: skip
def test_networks_that_it_cannot_reach_are_refused(name, args, rank, message):
    model = timm.create_model(name, num_classes=3, **args)
    with pytest.raises(UserError, match=message):
        add_lora(model, rank, 16.0, seed=0)
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"lora_rank": 0}, "lora_rank is 0; it must be at least 1"), ({"lora_alpha": 0.0}, "lora_alpha is 0.0"),
     ({"lora_alpha": float("inf")}, "positive and finite"), ({"adapt": "lora"}, "random weights")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**settings)
