"""Weights of a known format made to fit a network: timm's own conversions, and the last norm's name."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from fastsemi.common.errors import UserError
from fastsemi.models.formats import Weights

# The two names of a ViT's last norm: before the pooling, or after it where patches are averaged.
_LAST_NORMS = ("norm", "fc_norm")


@dataclass(frozen=True)
class Adapted:
    """Tensors under the network's names."""

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    """Names that the conversion left out."""
    changed: tuple[str, ...]
    """What was converted, in words."""


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that give the logits, such as `head`, `head.fc` or, distilled, two of them."""
    heads = classifiers(model)
    return tuple(name for name, module in model.named_modules() if name and any(module is h for h in heads))


def classifiers(model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules that give the logits."""
    found = model.get_classifier()  # type: ignore[operator]
    return tuple(found) if isinstance(found, tuple | list | nn.ModuleList) else (found,)


def adapt(model: nn.Module, weights: Weights, where: str, *, fresh_norm: bool = False) -> Adapted:
    """Convert what depends on the network: names, the position embedding's size, the last norm.

    timm's own conversion of the network's family does most of it; it interpolates position embeddings
    (bicubic, antialiased, class and register tokens apart) and renames DINOv2, DINOv3 and ConvNeXt.

    Args:
        model: A timm model.
        weights: What to convert.
        where: What the weights are, for errors.
        fresh_norm: Leave a last norm out that the weights have before the pooling and the network behind it.

    Raises:
        UserError: The weights are of a network that only looks alike, or cannot be converted.
    """
    before = weights.tensors
    _check_patches(model, before, where)
    _check_heads(model, weights, where)
    tensors = _without_zero_biases(model, before, where) if weights.format == "DINOv3" else dict(before)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert:
        try:
            tensors = convert(tensors, model)
        except (RuntimeError, ValueError, LookupError, AttributeError, TypeError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{where} ({weights.format}) does not fit the network: {reason}; check model.name, "
                "model.args and data.image_size"
            ) from error
    changed = [
        f"{name} {list(before[name].shape)} -> {list(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in before and before[name].shape != tensor.shape
    ]
    used = {tensor.data_ptr() for tensor in tensors.values()}
    dropped = tuple(n for n, t in before.items() if n not in tensors and t.data_ptr() not in used)
    return Adapted(_rename_last_norm(model, tensors, changed, fresh_norm), dropped, tuple(changed))


def _rename_last_norm(
    model: nn.Module, tensors: dict[str, Tensor], changed: list[str], fresh: bool
) -> dict[str, Tensor]:
    """`norm.*` becomes `fc_norm.*`, or the reverse, where the network has only the other one."""
    ours = {name for name in _LAST_NORMS if f"{name}.weight" in model.state_dict()}
    theirs = {name for name in _LAST_NORMS if f"{name}.weight" in tensors}
    if len(ours) != 1 or len(theirs) != 1 or ours == theirs:
        return tensors
    (new,), (old,) = ours, theirs
    if fresh and new == "fc_norm":
        return tensors
    changed.append(f"{old} -> {new}")
    return {
        f"{new}.{name.removeprefix(f'{old}.')}" if name.startswith(f"{old}.") else name: tensor
        for name, tensor in tensors.items()
    }


def _check_patches(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """timm would resample patch weights silently; patches of another size are another network."""
    kernel = tensors.get("patch_embed.proj.weight")
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    if kernel is None or kernel.ndim != 4 or not isinstance(projection, nn.Conv2d):
        return
    theirs, ours = tuple(kernel.shape[2:]), tuple(projection.weight.shape[2:])
    if theirs != ours:
        raise UserError(
            f"{where} has patches of {theirs[0]} pixels, the network of {ours[0]}; set model.name or "
            f"model.args.patch_size to {theirs[0]}"
        )


def _check_heads(model: nn.Module, weights: Weights, where: str) -> None:
    """MoCo-v3's ViT-S has 12 attention heads, timm's 6; no tensor's shape shows it (its `vits.py`)."""
    kernel = weights.tensors.get("patch_embed.proj.weight")
    if weights.format != "MoCo-v3" or kernel is None or kernel.shape[0] != 384:
        return
    heads = {int(module.num_heads) for module in model.modules() if isinstance(module, Attention)}
    if heads - {12}:
        raise UserError(
            f"{where} is MoCo-v3's ViT-S, which has 12 attention heads, the network {min(heads)}; "
            "set model.args.num_heads to 12"
        )


def _without_zero_biases(model: nn.Module, tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """DINOv3 keeps biases of query and value that are zero in most sizes; timm's networks then have none."""
    biases = [name for name in tensors if name.endswith(".qkv.bias")]
    if not biases or any(name.endswith(".q_bias") for name, _ in model.named_parameters()):
        return dict(tensors)
    for name in biases:
        query, _, value = tensors[name].chunk(3)  # the key's has no effect and is masked
        if query.any() or value.any():
            raise UserError(
                f"{where} has attention biases ({name}) that the network lacks; set model.name to timm's "
                "variant with them, *_dinov3_qkvb"
            )
    return {name: tensor for name, tensor in tensors.items() if name not in biases}
