"""A plan as arrays by name and back, for files that other programs read or write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsemi.loaders.plan.types import ColorPlan, ErasePlan, MixPlan, PlannedBatch, RandAugmentPlan, ViewPlan

_PARTS = {"color": ColorPlan, "randaugment": RandAugmentPlan, "erase": ErasePlan}  # of a view


def to_arrays(plan: PlannedBatch) -> dict[str, NDArray]:
    """All that a plan says: `ids`, `labels`, `mix.lam`, `views.0.window`, `views.1.erase.box` and so on."""
    parts: dict[str, Any] = {"": plan, "mix.": plan.mix}
    for v, view in enumerate(plan.views):
        parts[f"views.{v}."] = view
        parts |= {f"views.{v}.{name}.": getattr(view, name) for name in _PARTS}
    found = {}
    for prefix, part in parts.items():
        for field in fields(part) if part is not None else ():
            value = getattr(part, field.name)
            if isinstance(value, np.ndarray | bool):
                found[prefix + field.name] = np.asarray(value)
    return found


def from_arrays(arrays: Mapping[str, NDArray]) -> PlannedBatch:
    """The plan of which `to_arrays` made these.

    Raises:
        KeyError: One is missing.
    """
    count = 0
    while f"views.{count}.window" in arrays:
        count += 1
    mix = _part(MixPlan, arrays, "mix.", even=bool(arrays["mix.even"])) if "mix.lam" in arrays else None
    return PlannedBatch(
        arrays["ids"],
        arrays["labels"],
        tuple(_view(arrays, f"views.{v}.") for v in range(count)),
        mix,
        arrays.get("hide"),
    )


def _view(arrays: Mapping[str, NDArray], prefix: str) -> ViewPlan:
    parts = {
        name: _part(kind, arrays, f"{prefix}{name}.")
        for name, kind in _PARTS.items()
        if any(key.startswith(f"{prefix}{name}.") for key in arrays)
    }
    return ViewPlan(arrays[f"{prefix}window"], arrays[f"{prefix}flip"], **parts)


def _part(kind: Any, arrays: Mapping[str, NDArray], prefix: str, **known: Any) -> Any:
    found = {field.name: arrays[prefix + field.name] for field in fields(kind) if field.name not in known}
    return kind(**found, **known)
