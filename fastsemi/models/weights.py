"""Weights in: from a file or from the stage before, with a list of what did not fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from fastsemi import checkpoint
from fastsemi.errors import UserError


@dataclass(frozen=True)
class LoadReport:
    """What happened to each tensor."""

    loaded: tuple[str, ...]
    """Taken from the file."""
    dropped: tuple[str, ...]
    """In the file, but not in the network or of another shape."""
    initial: tuple[str, ...]
    """In the network, but not in the file: left at initial values."""


def load_backbone(model: nn.Module, state: dict[str, Tensor], *, where: str) -> LoadReport:
    """Copy a state dict into a classifier, all but its head.

    Args:
        model: A timm model.
        state: Its tensors by name; names of a head are dropped.
        where: What the state is, for the error.

    Raises:
        UserError: Tensors of the backbone are missing or of another shape.
    """
    head = ("head.", "fc.", "classifier.")
    ours = model.state_dict()
    fits = {
        name: tensor
        for name, tensor in state.items()
        if name in ours and ours[name].shape == tensor.shape and not name.startswith(head)
    }
    missing = [name for name in ours if name not in fits and not name.startswith(head)]
    if missing:
        raise UserError(
            f"{where} does not fit the network: {len(missing)} of {len(ours)} tensors are missing or of "
            f"another shape, the first {missing[0]}; check model.name and model.args"
        )
    model.load_state_dict({**ours, **fits})
    return LoadReport(
        loaded=tuple(fits),
        dropped=tuple(name for name in state if name not in fits),
        initial=tuple(name for name in ours if name not in fits),
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a .safetensors file or a PyTorch checkpoint, bare or under `model`.

    Raises:
        UserError: The file is missing or holds no tensors.
    """
    if path.suffix == ".safetensors":
        if not path.exists():
            raise UserError(f"weights {path} do not exist; check model.weights")
        return load_file(path)
    content = checkpoint.load(path)
    state = content.get("model", content)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"weights {path} hold no tensors; check model.weights")
    return tensors
