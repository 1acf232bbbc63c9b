"""Which sides of its input a network takes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fastsemi.common.errors import UserError


@torch.no_grad()
def require_image_sizes(model: nn.Module, name: str, sizes: Iterable[int], where: str) -> None:
    """Refuse sides of the input that a network does not take.

    Args:
        model: The network, on the meta device: nothing is computed. It is left in evaluation mode.
        name: Of the network, for the message.
        sizes: In pixels.
        where: The setting that has them, for the message.

    Raises:
        UserError: Names the first side.
    """
    model.eval()
    for size in sizes:
        try:
            with torch.device("meta"):
                model(torch.empty(2, 3, size, size))
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise UserError(
                f"{where} has {size}, and {name} does not take images of that side ({reason}); use a CNN, a "
                "ViT with model.args.dynamic_img_size true and multiples of its patches, or set it to []"
            ) from error
