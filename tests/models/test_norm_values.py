"""One image at a time, and what batch norm makes of it."""

import pytest
import torch

from fastsemi.common.errors import UserError
from fastsemi.models.create import create_model
from fastsemi.models.norm_values import require_norm_values
from fastsemi.models.settings import ModelConfig


def network(name):
    with torch.device("meta"):
        return create_model(ModelConfig(name), num_classes=3, image_size=32)


def test_one_number_a_channel_is_refused():
    said = r"^finetune\.batch gives resnet10t one image of 32 pixels at a time, .* set it to 2 or more"
    with pytest.raises(UserError, match=said):
        require_norm_values(network("resnet10t"), "resnet10t", 32, "finetune.batch")


@pytest.mark.parametrize(("name", "size"), [("resnet10t", 64), ("vit_tiny_patch16_224", 32)])
def test_more_numbers_and_other_norms_are_not(name, size):
    require_norm_values(network(name), name, size, "finetune.batch")
