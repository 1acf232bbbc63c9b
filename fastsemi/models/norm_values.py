"""Whether batch norm sees enough numbers to train on."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastsemi.common.errors import UserError


@torch.no_grad()
def require_norm_values(model: nn.Module, name: str, size: int, where: str) -> None:
    """Refuse to train on one image at a time where a batch norm of the network then has one number a channel.

    Args:
        model: The network, on the meta device: nothing is computed. It is left in training mode.
        name: Of the network, for the message.
        size: Smallest side of an image, in pixels.
        where: The setting that makes it one image, for the message.

    Raises:
        UserError: A batch norm has one number.
    """
    model.train()
    if not any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        return
    try:
        with torch.device("meta"):
            model(torch.empty(1, 3, size, size))
    except (AssertionError, RuntimeError, TypeError):
        return  # of another cause: the stage says so
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            return
        raise UserError(
            f"{where} gives {name} one image of {size} pixels at a time, from which its batch norm has one "
            "number a channel and learns nothing; set it to 2 or more, data.image_size higher, or "
            "model.batch_norm to frozen"
        ) from error
