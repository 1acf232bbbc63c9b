"""Which sides of its input a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fastsemi.common.errors import UserError


@torch.no_grad()
def require_image_sizes(model: nn.Module, name: str, sizes: Sequence[int], where: str) -> None:
    """Refuse sides of the input that a network does not take.

    Args:
        model: The network, on the meta device: nothing is computed. It is left in evaluation mode.
        name: Of the network, for the message.
        sizes: In pixels; the last is that of evaluation.
        where: The setting that has them, for the message.

    Raises:
        UserError: Names the first side.
    """
    model.eval()
    *smaller, last = sizes
    if _refused(model, last):
        return  # of another cause than the side: the stage says so
    for size in smaller:
        if error := _refused(model, size):
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise UserError(
                f"{where} has {size}, and {name} does not take images of that side ({reason}); use a CNN, a "
                "ViT with model.args.dynamic_img_size true and multiples of its patches, or set it to []"
            ) from error


def _refused(model: nn.Module, size: int) -> Exception | None:
    """What a network says of images of a side, if it does not take them."""
    try:
        with torch.device("meta"):
            model(torch.empty(2, 3, size, size))
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        return error
    return None
