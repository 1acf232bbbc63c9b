"""RandAugment: the policy in timm's notation, and the operations it draws."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS, RandAugmentPlan


@dataclass(frozen=True)
class RandAugmentPolicy:
    """A parsed RandAugment policy."""

    magnitude: float = 10.0
    std: float = 0.0
    layers: int = 2
    prob: float = 0.5


@lru_cache
def parse_randaugment(text: str) -> RandAugmentPolicy | None:
    """Parse timm's notation `rand-m9-n2-p0.5-mstd0.5-inc1`; None for an empty text.

    Raises:
        UserError: An unknown part, or a policy without `inc1`.
    """
    if not text:
        return None
    head, *parts = text.split("-")
    fields = {"m": "magnitude", "mstd": "std", "n": "layers", "p": "prob"}
    found: dict[str, float] = {}
    cure = "write it as rand-m9-mstd0.5-inc1 (m magnitude, mstd its deviation, n layers, p probability)"
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
        if not match or match[1] not in {*fields, "inc"}:
            raise UserError(f"RandAugment policy {text!r} has an unknown part {part!r}; {cure}")
        found[match[1]] = float(match[2])
    if head != "rand" or not found.pop("inc", 0):
        raise UserError(f"RandAugment policy {text!r} is not an increasing one; {cure}")
    values = {fields[key]: value for key, value in found.items()}
    layers = int(values.pop("layers", 2))
    return RandAugmentPolicy(layers=layers, **values)


def draw_randaugment(u: NDArray[np.float64], policy: RandAugmentPolicy) -> RandAugmentPlan:
    """Operations and arguments as timm's `rand-...-inc1` draws them."""
    u = u.reshape(len(u), policy.layers, 5)
    op = (u[..., 0] * len(RANDAUGMENT_OPS)).astype(np.int64)
    normal = np.sqrt(-2 * np.log(u[..., 1])) * np.cos(2 * np.pi * u[..., 2])  # Box-Muller
    level = np.clip(policy.magnitude + policy.std * normal, 0, 10) / 10
    sign = np.where(u[..., 3] < 0.5, -1.0, 1.0)
    enhance = np.maximum(0.1, 1 + sign * level * 0.9)
    by_name = {
        "rotate": sign * level * 30,
        "posterize": 4 - np.floor(level * 4),
        "solarize": 256 - np.minimum(256, np.floor(level * 256)),
        "solarize_add": np.minimum(128, np.floor(level * 110)),
        "color": enhance,
        "contrast": enhance,
        "brightness": enhance,
        "sharpness": enhance,
        "shear_x": sign * level * 0.3,
        "shear_y": sign * level * 0.3,
        "translate_x": sign * level * 0.45,
        "translate_y": sign * level * 0.45,
    }
    unused = np.zeros_like(level)
    arg = np.stack([by_name.get(name, unused) for name in RANDAUGMENT_OPS])
    arg = np.take_along_axis(arg, op[None], axis=0)[0]
    return RandAugmentPlan(op=np.where(u[..., 4] < policy.prob, op, -1), arg=arg.astype(np.float32))
