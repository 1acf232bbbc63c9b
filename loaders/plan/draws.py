"""Every random choice about data, as a pure function of (seed, pass, sample id, view, draw).

Nothing here has state: a batch can be planned on any rank, in any order, any number of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.plan.philox import uniform, words
from fastsemi.loaders.plan.randaugment import draw_randaugment, parse_randaugment
from fastsemi.loaders.plan.types import ColorPlan, ErasePlan, MixPlan, ViewPlan
from fastsemi.loaders.plan.windows import TRIES, random_resized_crop


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
    CLASSES = 6


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
            if not 0 < low <= high <= top or high == np.inf:
                rule = "0 < smallest <= largest" + (" <= 1" if top == 1 else ", both finite")
                raise UserError(f"{name} is ({low}, {high}); give {rule}")
        for name, value in (("flip", self.flip), ("erase", self.erase), ("color_jitter", self.color_jitter)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} is {value}; it must lie in [0, 1]")
        parse_randaugment(self.randaugment)


def epoch_order(seed: int, view: View, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of one pass over `count` samples: a permutation of 0..count-1."""
    return shuffled(seed, view, epoch, np.arange(count), Purpose.ORDER)


def shuffled(
    seed: int, view: View, epoch: int, ids: NDArray[np.int64], purpose: Purpose
) -> NDArray[np.int64]:
    """A permutation of 0..len(ids)-1, drawn by the ids."""
    pair = words(seed, epoch, ids, view << 8 | purpose, 2)
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
    ops = draw_randaugment(draw(Purpose.RANDAUGMENT, 5 * policy.layers), policy) if policy else None
    return ViewPlan(
        window=random_resized_crop(u, sizes, config.area, config.ratio),
        flip=u[:, -1] < config.flip,
        color=_color(draw(Purpose.COLOR, 4), config.color_jitter) if config.color_jitter else None,
        randaugment=ops,
        erase=_erase(
            words(seed, epoch, ids, view << 8 | Purpose.ERASE, 2 * TRIES + 5), config.erase, image_size
        )
        if config.erase
        else None,
    )


def _color(u: NDArray[np.float64], strength: float) -> ColorPlan:
    orders = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    factor = 1 + strength * (2 * u[:, :3] - 1)
    return ColorPlan(factor=factor.astype(np.float32), order=orders[(u[:, 3] * 6).astype(np.int64)])


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
    config: MixConfig,
    *,
    seed: int,
    epoch: NDArray[np.int64],
    ids: NDArray[np.int64],
    view: View,
) -> MixPlan | None:
    """Plan mixing inside a micro-batch.

    Args:
        config: How images are mixed.
        seed: The run's seed.
        epoch: [B] pass of each sample.
        ids: [B] sample ids.
        view: Which view is mixed.

    Returns:
        The plan, or None when both are off. Where both are on, either is taken with probability 1/2: by each
        sample, or by all of them where one draw, that of the first sample, holds for the micro-batch.
    """
    mixup, cutmix = config.mixup, config.cutmix
    if not mixup and not cutmix:
        return None
    w = words(seed, epoch, ids, view << 8 | Purpose.MIX, 5)
    u = uniform(np.repeat(w[:1], len(w), axis=0) if config.per_batch else w)
    use_cutmix = u[:, 1] < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = np.where(use_cutmix, cutmix, mixup)
    reverse = np.arange(len(w))[::-1].copy()
    return MixPlan(
        partner=reverse if config.partners == "reversed" else np.argsort(w[:, 0], kind="stable"),
        cutmix=use_cutmix,
        centre=u[:, 2:4].astype(np.float32),
        lam=_beta(alpha, u[:, 4]).astype(np.float32),
        even=config.box == "even",
    )


def _beta(alpha: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws from Beta(alpha, alpha) by the inverse of its distribution function."""
    if (alpha == 1).all():
        return u  # the uniform distribution, which needs no SciPy
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, u)
