"""The contrastive term against a slow transcription, and its effect on a step."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fastsemi.common.errors import UserError
from fastsemi.kernels.dispatch import select
from fastsemi.models.create import create_model
from fastsemi.models.layers import layer_ids
from fastsemi.models.projected import DIMENSIONS, Projected, classifier_of, split
from fastsemi.models.settings import ModelConfig
from fastsemi.stages.contrast import contrastive_loss
from fastsemi.stages.pseudo_mixup import Pairs

VIT = ModelConfig(
    name="vit_tiny_patch16_224", args={"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}
)
CNN = ModelConfig(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}, pool="default")


@pytest.mark.parametrize("reduced", [False, True], ids=["fp32", "bf16"])
def test_the_loss_is_the_mean_of_mixed_cross_entropies_over_the_batch(reduced):
    torch.manual_seed(0)
    student, teacher = (F.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    lam, partner = torch.rand(5), torch.tensor([1, 0, 4, 2, 3])
    wanted = 0.0
    for i in range(5):
        similar = torch.stack([student[i] @ teacher[k] / 0.2 for k in range(5)])
        logs = similar.log_softmax(0)
        wanted -= float(lam[i] * logs[i] + (1 - lam[i]) * logs[partner[i]]) / 5
    pairs = Pairs(partner, lam, torch.ones(5))
    with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        found = contrastive_loss(student, teacher, lam, pairs, 0.2, select("torch", "cpu"))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("config", [VIT, CNN], ids=["vit", "cnn"])
def test_logits_are_the_classifiers_and_projections_have_unit_length(config):
    model = create_model(config, num_classes=3, image_size=16).eval()
    both = Projected(model).eval()
    images = torch.randn(2, 3, 16, 16)
    logits, projections = split(both(images))
    assert_close(logits, model(images))
    assert projections.shape == (2, DIMENSIONS)
    assert_close(projections.norm(dim=1), torch.ones(2))
    assert classifier_of(both) is model and classifier_of(model) is model


@pytest.mark.parametrize("config", [VIT, CNN], ids=["vit", "cnn"])
def test_layers_are_the_classifiers_and_the_projector_belongs_to_the_head(config):
    model = create_model(config, num_classes=3, image_size=16)
    plain, both = layer_ids(model), layer_ids(Projected(model))
    assert {f"classifier.{name}": layer for name, layer in plain.items()}.items() <= both.items()
    top = max(plain.values())
    assert {layer for name, layer in both.items() if name.startswith("projector.")} == {top}


def test_a_network_without_a_linear_head_is_refused():
    model = create_model(CNN, num_classes=3, image_size=16)
    model.fc = torch.nn.Sequential(model.fc)
    with pytest.raises(UserError, match=r"semi\.contrast"):
        Projected(model)
