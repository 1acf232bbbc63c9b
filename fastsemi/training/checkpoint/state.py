"""What a checkpoint holds of a stage, as flat names: tensors, which may be shards, and plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class TrainingState:
    """Model, what the stage holds besides it, and optimizer.

    Optimizer tensors are named by their parameter, so they find it whatever the grouping on a device.

    Args:
        model: What is trained.
        extra: Nested dictionaries of tensors and plain values; `Stage.extra_state()`.
        optimizer: Its groups have `names`, as `fastsemi.training.optim.parameter_groups` makes them.
    """

    def __init__(self, model: nn.Module, extra: dict[str, Any], optimizer: torch.optim.Optimizer):
        self._model, self._extra, self._optimizer = model, extra, optimizer

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves, not copies, by name."""
        found = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        found |= {k: v for k, v in _flatten(self._extra, "extra") if isinstance(v, Tensor)}
        for name, parameter in self._parameters():
            for key, value in self._optimizer.state[parameter].items():
                found[f"optimizer.{key}.{name}"] = value
        return {name: tensor.detach() for name, tensor in found.items()}

    def values(self) -> dict[str, Any]:
        """The rest: plain values by name, and the optimizer's settings by group."""
        groups = self._optimizer.param_groups
        return {
            "extra": {k: v for k, v in _flatten(self._extra, "extra") if not isinstance(v, Tensor)},
            "groups": [{k: v for k, v in g.items() if k not in ("params", "names")} for g in groups],
        }

    def prepare(self, shapes: Mapping[str, torch.Size]) -> None:
        """Make room for the tensors of an optimizer that has not stepped yet.

        Args:
            shapes: Of a checkpoint's tensors, by name.
        """
        parameters = dict(self._parameters())
        for full, shape in shapes.items():
            kind, _, rest = full.partition(".")
            key, _, name = rest.partition(".")
            if kind != "optimizer" or name not in parameters:
                continue
            parameter = parameters[name]
            like = shape == parameter.shape and key != "step"
            room = (
                torch.zeros_like(parameter) if like else torch.zeros(shape, device=self._counts_on(parameter))
            )
            self._optimizer.state[parameter][key] = room.detach()

    def restore(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Take back what `values` gave; returns `extra` with it."""
        for group, saved in zip(self._optimizer.param_groups, values["groups"], strict=True):
            group.update(saved)
        return _replaced(self._extra, values["extra"], "extra")

    def _counts_on(self, parameter: Tensor) -> torch.device | str:
        """Where the optimizer counts a parameter's steps: unless it is fused, the host reads them."""
        return parameter.device if self._optimizer.defaults.get("fused") else "cpu"

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        for group in self._optimizer.param_groups:
            yield from zip(group["names"], group["params"], strict=True)


def _flatten(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value


def _replaced(tree: Mapping[str, Any], values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tree with `values`, by flat name, in the place of its own."""
    return {
        key: _replaced(value, values, f"{prefix}.{key}")
        if isinstance(value, Mapping)
        else values.get(f"{prefix}.{key}", value)
        for key, value in tree.items()
    }
