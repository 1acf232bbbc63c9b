"""Every random choice about data, as a pure function of (seed, pass, sample id, view, draw).

Nothing here has state: a batch can be planned on any rank, in any order, any number of times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from fastsemi.errors import UserError
from fastsemi.loaders.batch import (
    RANDAUGMENT_OPS,
    ColorPlan,
    ErasePlan,
    MixPlan,
    RandAugmentPlan,
    ViewPlan,
)
from fastsemi.loaders.philox import uniform, words

TRIES = 10  # of random-resized-crop and of erasing, as in torchvision and timm


class View(IntEnum):
    """Which view of a sample the draws are for."""

    WEAK = 0
    STRONG = 1
    LABELLED = 2
    PRETRAIN = 3


class Purpose(IntEnum):
    """What the draws of a view are for. Each has its own counters, so adding one moves no other."""

    WINDOW = 0
    COLOR = 1
    RANDAUGMENT = 2
    ERASE = 3
    MIX = 4
    ORDER = 5


def _uniforms(
    seed: int, epoch: NDArray[np.int64], ids: NDArray[np.int64], view: View, purpose: Purpose, count: int
) -> NDArray[np.float64]:
    return uniform(words(seed, epoch, ids, view << 8 | purpose, count))


@dataclass(frozen=True)
class AugmentConfig:
    """Random augmentation of one view. The defaults are the paper's strong view."""

    area: tuple[float, float] = (0.08, 1.0)
    """Area of the random-resized-crop window as a fraction of the image: smallest, largest."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio (width / height) of the window: smallest, largest."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    color_jitter: float = 0.0
    """Strength j of colour jitter: brightness, contrast and saturation factors uniform in [1 - j, 1 + j]."""
    randaugment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment policy in timm's notation (increasing transforms: inc1); empty for none."""
    erase: float = 0.25
    """Probability of random erasing (one box of 2 % to 33 % of the area, per-pixel normal noise)."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        for name, (low, high), top in (("area", self.area, 1.0), ("ratio", self.ratio, np.inf)):
            if not 0 < low <= high <= top:
                raise UserError(
                    f"{name} is ({low}, {high}); give 0 < smallest <= largest" + " <= 1" * (top == 1)
                )
        for name, value in (("flip", self.flip), ("erase", self.erase), ("color_jitter", self.color_jitter)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} is {value}; it must lie in [0, 1]")
        parse_randaugment(self.randaugment)


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


def epoch_order(seed: int, view: View, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of one pass over `count` samples: a permutation of 0..count-1."""
    ids = np.arange(count)
    pair = words(seed, epoch, ids, view << 8 | Purpose.ORDER, 2)
    return np.argsort(pair[:, 0] << np.uint64(32) | pair[:, 1], kind="stable")


def plan_view(
    config: AugmentConfig,
    *,
    seed: int,
    epoch: NDArray[np.int64],
    ids: NDArray[np.int64],
    view: View,
    sizes: NDArray[np.int32],
    image_size: int,
) -> ViewPlan:
    """Plan one view of a batch.

    Args:
        config: How strong the view is.
        seed: The run's seed.
        epoch: [B] pass of each sample.
        ids: [B] sample ids.
        view: Which view.
        sizes: [B, 2] width and height of each source image in pixels.
        image_size: Side of the view in pixels.

    Returns:
        The view's windows, flips and augmentation parameters.
    """

    def draw(purpose: Purpose, count: int) -> NDArray[np.float64]:
        return _uniforms(seed, epoch, ids, view, purpose, count)

    u = draw(Purpose.WINDOW, 2 * TRIES + 3)
    policy = parse_randaugment(config.randaugment)
    return ViewPlan(
        window=random_resized_crop(u, sizes, config.area, config.ratio),
        flip=u[:, -1] < config.flip,
        color=_color(draw(Purpose.COLOR, 4), config.color_jitter) if config.color_jitter else None,
        randaugment=_randaugment(draw(Purpose.RANDAUGMENT, 5 * policy.layers), policy) if policy else None,
        erase=_erase(
            words(seed, epoch, ids, view << 8 | Purpose.ERASE, 2 * TRIES + 5), config.erase, image_size
        )
        if config.erase
        else None,
    )


def random_resized_crop(
    u: NDArray[np.float64],
    sizes: NDArray[np.int32],
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int32]:
    """Windows of torchvision's RandomResizedCrop: ten tries, then the largest centred one of allowed ratio.

    Args:
        u: [B, 22 or more] uniforms: ten areas, ten ratios, left, top.
        sizes: [B, 2] width, height.
        area: Smallest and largest fraction of the area.
        ratio: Smallest and largest width / height.

    Returns:
        [B, 4] left, top, width, height.
    """
    full = sizes.astype(np.float64)
    target = full.prod(1, keepdims=True) * (area[0] + (area[1] - area[0]) * u[:, :TRIES])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + (high - low) * u[:, TRIES : 2 * TRIES])
    # [B, 10, 2] candidate width and height
    sides = np.rint(np.sqrt(np.stack([target * aspect, target / aspect], axis=-1)))
    fits = ((sides > 0) & (sides <= full[:, None, :])).all(-1)
    chosen = sides[np.arange(len(u)), fits.argmax(1)]

    w, h = full[:, 0], full[:, 1]
    widest = np.stack([np.minimum(w, np.rint(h * ratio[1])), np.minimum(h, np.rint(w / ratio[0]))], axis=-1)
    found = fits.any(1)[:, None]
    side = np.where(found, chosen, np.maximum(widest, 1))
    room = full - side
    position = np.where(found, np.floor(u[:, 2 * TRIES : 2 * TRIES + 2] * (room + 1)), np.floor(room / 2))
    return np.concatenate([position, side], axis=1).astype(np.int32)


def centre_crop(sizes: NDArray[np.int32], fraction: float) -> NDArray[np.int32]:
    """Evaluation windows: a centred square of `fraction` of the shorter side.

    The same pixels as resizing the shorter side to image_size / fraction and cropping the centre.

    Returns:
        [B, 4] left, top, width, height.
    """
    side = np.maximum(np.rint(sizes.min(1) * fraction), 1).astype(np.int32)
    corner = (sizes - side[:, None]) // 2
    return np.stack([corner[:, 0], corner[:, 1], side, side], axis=1).astype(np.int32)


def _color(u: NDArray[np.float64], strength: float) -> ColorPlan:
    orders = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    factor = 1 + strength * (2 * u[:, :3] - 1)
    return ColorPlan(factor=factor.astype(np.float32), order=orders[(u[:, 3] * 6).astype(np.int64)])


def _randaugment(u: NDArray[np.float64], policy: RandAugmentPolicy) -> RandAugmentPlan:
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


def _erase(w: NDArray[np.uint64], prob: float, size: int) -> ErasePlan:
    """Boxes of timm's RandomErasing: area 2 % to 1/3, ratio 0.3 to 1/0.3, smaller than the image."""
    u = uniform(w[:, : 2 * TRIES + 3])
    target = (0.02 + (1 / 3 - 0.02) * u[:, :TRIES]) * size * size
    low = np.log(0.3)
    aspect = np.exp(low - 2 * low * u[:, TRIES : 2 * TRIES])  # height / width
    sides = np.rint(np.sqrt(np.stack([target / aspect, target * aspect], axis=-1)))
    fits = ((sides < size) & (sides > 0)).all(-1)
    side = sides[np.arange(len(u)), fits.argmax(1)]
    corner = np.floor(u[:, 2 * TRIES : 2 * TRIES + 2] * (size - side + 1))
    wanted = (u[:, 2 * TRIES + 2] < prob) & fits.any(1)
    box = np.where(wanted[:, None], np.concatenate([corner, side], axis=1), 0)
    return ErasePlan(box=box.astype(np.int64), key=w[:, -2:].astype(np.int64))


def plan_mix(
    *,
    seed: int,
    epoch: NDArray[np.int64],
    ids: NDArray[np.int64],
    view: View,
    mixup: float,
    cutmix: float,
) -> MixPlan | None:
    """Plan mixing inside a micro-batch.

    Args:
        seed: The run's seed.
        epoch: [B] pass of each sample.
        ids: [B] sample ids.
        view: Which view is mixed.
        mixup: alpha of the Beta distribution of mixup; 0 turns mixup off.
        cutmix: alpha of the Beta distribution of cutmix; 0 turns cutmix off.

    Returns:
        The plan, or None when both are off. Where both are on, each sample takes either with probability 1/2.
    """
    if not mixup and not cutmix:
        return None
    w = words(seed, epoch, ids, view << 8 | Purpose.MIX, 5)
    u = uniform(w)
    use_cutmix = u[:, 1] < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = np.where(use_cutmix, cutmix, mixup)
    return MixPlan(
        partner=np.argsort(w[:, 0], kind="stable"),
        cutmix=use_cutmix,
        centre=u[:, 2:4].astype(np.float32),
        lam=betaincinv(alpha, alpha, u[:, 4]).astype(np.float32),
    )
