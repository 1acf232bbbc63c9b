"""The layers of a network, from the stem to the head."""

from __future__ import annotations

from timm.models import group_parameters
from timm.optim import auto_group_layers
from torch import nn

from fastsemi.models.projected import Projected


def layer_ids(model: nn.Module, *, coarse: bool = False) -> dict[str, int]:
    """The layer of each parameter, 0 the stem; the last layer is the head with the norm before it.

    From timm's own grouping (`group_matcher`, else `auto_group_layers`), so it holds for any timm model. One
    thing differs: a last norm before the pooling (`norm`) belongs to the head's layer like one after it
    (`fc_norm`), as BEiT, MAE and the paper's code have it; timm counts it to the last block.

    Args:
        model: A network.
        coarse: Stages of a convolutional network in place of its blocks.
    """
    if isinstance(model, Projected):
        ids = {
            f"classifier.{name}": layer for name, layer in layer_ids(model.classifier, coarse=coarse).items()
        }
        return {name: ids.get(name, max(ids.values(), default=0)) for name, _ in model.named_parameters()}
    if not hasattr(model, "group_matcher"):
        return auto_group_layers(model)
    matcher = model.group_matcher(coarse=coarse)  # type: ignore[operator]
    ids = group_parameters(model, matcher, reverse=True)
    top = max(ids.values(), default=0)
    return {name: top if name.split(".")[0] in ("norm", "fc_norm") else layer for name, layer in ids.items()}
