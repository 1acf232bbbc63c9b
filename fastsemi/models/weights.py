"""Weights in: from a file or from the stage before, with a list of what did not fit."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastsemi.common.errors import UserError
from fastsemi.common.files import UNREADABLE, code_in
from fastsemi.models.adapt import adapt, classifier_names
from fastsemi.models.formats import Weights, recognise


@dataclass(frozen=True)
class LoadReport:
    """What happened to each tensor."""

    loaded: tuple[str, ...]
    """Taken from the file, by the network's names."""
    dropped: tuple[str, ...]
    """In the file but not used: heads, decoders, projectors."""
    initial: tuple[str, ...]
    """In the network, but not in the file: left at initial values."""
    format: str = "timm"
    """What kind of file it was."""
    changed: tuple[str, ...] = ()
    """Tensors that were not taken as they are, for example a position embedding of another size."""

    def summary(self) -> str:
        """The report in one line."""
        text = f"{self.format}: {len(self.loaded)} tensors loaded"
        if self.changed:
            text += f" ({'; '.join(self.changed)})"
        for title, names in (("dropped", self.dropped), ("left at initial values", self.initial)):
            text += f", {len(names)} {title}" + (f" ({_by_module(names)})" if names else "")
        return text


def _by_module(names: Iterable[str], most: int = 6) -> str:
    """Names counted by the module they belong to, for example `head 2, decoder_blocks 96`."""
    counts = Counter(name.split(".")[0] for name in names)
    shown = [f"{name} {count}" if count > 1 else name for name, count in counts.most_common(most)]
    return ", ".join(shown + [f"{len(counts) - most} more"] * (len(counts) > most))


def load_backbone(
    model: nn.Module,
    weights: Weights | Mapping[str, Tensor],
    *,
    where: str,
    keep_head: bool = False,
    fresh_norm: bool = False,
) -> LoadReport:
    """Copy weights into a classifier, all but its head.

    Args and errors are those of `fit_backbone`.
    """
    fits, report = fit_backbone(model, weights, where=where, keep_head=keep_head, fresh_norm=fresh_norm)
    model.load_state_dict({**model.state_dict(), **fits})
    return report


def fit_backbone(
    model: nn.Module,
    weights: Weights | Mapping[str, Tensor],
    *,
    where: str,
    keep_head: bool = False,
    fresh_norm: bool = False,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Weights under the names of a classifier, all but its head, which stays as it is.

    Args:
        model: A timm model; of its tensors only names and shapes count, so it may be on the meta device.
        weights: What `read_weights` gave, or a state dict in any format that it knows.
        where: What the weights are, for errors.
        keep_head: Take the classifier too.
        fresh_norm: Leave a ViT's norm behind the average of the patches as it is where the weights have their
            last norm before it.

    Raises:
        UserError: Tensors of the backbone are missing, of another shape, or would be lost; or the head is to
            be kept and does not fit.
    """
    weights = weights if isinstance(weights, Weights) else recognise(weights)
    adapted = adapt(model, weights, where, fresh_norm=fresh_norm)
    ours, theirs = model.state_dict(), adapted.tensors
    heads = tuple(f"{name}." for name in classifier_names(model))
    fits = {
        name: tensor
        for name, tensor in theirs.items()
        if name in ours and ours[name].shape == tensor.shape and (keep_head or not name.startswith(heads))
    }
    if keep_head:
        _check_head({name: ours[name] for name in ours if name.startswith(heads)}, theirs, where)
    _check_backbone(model, ours, theirs, fits, heads, where)
    report = LoadReport(
        loaded=tuple(fits),
        dropped=(*weights.dropped, *adapted.dropped, *(name for name in theirs if name not in fits)),
        initial=tuple(name for name in ours if name not in fits),
        format=weights.format,
        changed=adapted.changed,
    )
    return fits, report


def _check_head(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in ours.items():
        if name not in theirs or theirs[name].shape != tensor.shape:
            has = list(theirs[name].shape) if name in theirs else "missing"
            raise UserError(
                f"cannot keep the head of {where}: {name} is {has} there and {list(tensor.shape)} in the "
                "network; start with a new head, or use the classes that it was trained on"
            )


def _check_backbone(
    model: nn.Module,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    fits: Mapping[str, Tensor],
    heads: tuple[str, ...],
    where: str,
) -> None:
    """Refuse weights that the network has no full use for, or that do not fill it."""
    # A last norm may be absent on one side (pooling decides), and old batch-norm states have no counter.
    spared = (*heads, "norm.", "fc_norm.")
    cure = "check model.name, model.args and the weights"
    missing = [n for n in ours if n not in fits and not n.startswith(spared) and n.split(".")[-1] != _COUNTER]
    unknown = [n for n in theirs if n not in ours and not n.startswith(spared)]
    if missing:
        name = missing[0]
        first = f"the first, {name}, is {list(ours[name].shape)} in the network and "
        first += f"{list(theirs[name].shape)} there" if name in theirs else "missing there"
        if unknown:
            first += f", which has {unknown[0]} of {list(theirs[unknown[0]].shape)} that the network lacks"
        raise UserError(
            f"{where} ({len(theirs)} tensors) does not fit the network: {len(missing)} of {len(ours)} "
            f"tensors are missing or of another shape; {first}; {cure}"
        )
    modules = {name for name, _ in model.named_children()} | {"cls_token", "reg_token", "dist_token"}
    lost = [n for n in unknown if n.split(".")[0] in modules]
    if lost:
        raise UserError(
            f"{where} holds {len(lost)} tensors of the backbone that the network lacks, the first {lost[0]} "
            f"of {list(theirs[lost[0]].shape)}; {cure}"
        )


_COUNTER = "num_batches_tracked"


def read_weights(path: Path, *, ema: bool = True) -> Weights:
    """Read the tensors of a .safetensors file or a PyTorch checkpoint in any format of `recognise`.

    No code from the file is run: besides tensors and plain values only `argparse.Namespace`, in which
    training scripts keep their options, is accepted.

    Args:
        path: The file; its kind is told from its content, not from its name.
        ema: Prefer averaged weights where there are two.

    Raises:
        UserError: The file is missing, damaged, would run code, or holds no tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
        content: Any = load_file(path) if start[8:] == b"{" else _load_torch(path, mmap=start[:2] == b"PK")
    except FileNotFoundError:
        raise UserError(f"weights {path} do not exist; check model.weights") from None
    except (*UNREADABLE, SafetensorError) as error:
        raise UserError(_refusal(path, error)) from None
    weights = recognise(content if isinstance(content, Mapping) else {}, ema=ema)
    if not weights.tensors:
        raise UserError(f"weights {path} hold no tensors by name; save a state dict or .safetensors")
    return weights


def _load_torch(path: Path, *, mmap: bool) -> Any:
    """A torch file on the CPU; mapped where possible, so that an optimizer's state in it is never read."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _refusal(path: Path, error: BaseException) -> str:
    if code := code_in(error):
        return (
            f"weights {path} are refused: reading them would run Python code ({code}); save the tensors "
            "alone, as .safetensors or a state dict"
        )
    reason = (
        "it is damaged or no weight file" if not isinstance(error, OSError) else error.strerror or str(error)
    )
    return f"cannot read weights {path}: {reason}; give a .safetensors file or a PyTorch checkpoint"
