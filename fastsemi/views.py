"""From loaded uint8 views to the network's input, on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastsemi.data import DataConfig
from fastsemi.kernels.reference.mix import MixWeights, mix_images
from fastsemi.loaders.augment import augment_view
from fastsemi.loaders.batch import LoadedBatch, MixPlan, ViewPlan


@dataclass(frozen=True)
class DeviceMix:
    """`MixPlan` on the device; all [B] or [B, 2]."""

    partner: Tensor
    cutmix: Tensor
    centre: Tensor
    lam: Tensor


@dataclass(frozen=True)
class DeviceBatch:
    """A loaded batch on the device, not yet augmented."""

    images: Tensor  # [V, B, S, S, 3] uint8
    labels: Tensor  # [B] int64, -1 where unknown
    valid: Tensor  # [B] bool, False for the stand-ins of broken files
    mix: DeviceMix | None
    plans: tuple[ViewPlan, ...]  # on the host


class Views:
    """Augments, normalises and mixes batches on a device.

    Args:
        config: Mean, deviation and fill colour.
        device: Where the network runs.
    """

    def __init__(self, config: DataConfig, device: torch.device):
        self._config, self.device = config, device

    def tensor(self, array: NDArray) -> Tensor:
        """A small planned array on the device, without waiting for the copy."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)

    def to_device(self, batch: LoadedBatch) -> DeviceBatch:
        """Copy a batch to the device."""
        plan = batch.plan
        return DeviceBatch(
            images=batch.images.to(self.device, non_blocking=True),
            labels=self.tensor(plan.labels),
            valid=self.tensor(batch.valid),
            mix=self._mix(plan.mix) if plan.mix else None,
            plans=plan.views,
        )

    def _mix(self, mix: MixPlan) -> DeviceMix:
        return DeviceMix(*(self.tensor(a) for a in (mix.partner, mix.cutmix, mix.centre, mix.lam)))

    def augment(self, batch: DeviceBatch, view: int) -> Tensor:
        """Colour jitter and RandAugment of a view, [B, S, S, 3] uint8."""
        return augment_view(batch.images[view], batch.plans[view], fill=self._config.fill)

    def normalise(
        self, images: Tensor, plan: ViewPlan | None = None, weights: MixWeights | None = None
    ) -> Tensor:
        """Normalise uint8 images, erase their planned boxes and mix them.

        Args:
            images: [B, S, S, 3] uint8.
            plan: Where to erase; None for nowhere.
            weights: How to mix; None for not at all.

        Returns:
            [B, 3, S, S] float32.
        """
        erase = plan.erase if plan else None
        boxed = np.flatnonzero(erase.box[:, 2]) if erase else np.empty(0, np.int64)
        if erase is None or not len(boxed):
            return mix_images(images, weights, mean=self._config.mean, std=self._config.std)
        return mix_images(
            images,
            weights,
            erase_box=self.tensor(erase.box),
            erase_key=self.tensor(erase.key),
            erase_index=self.tensor(boxed),
            mean=self._config.mean,
            std=self._config.std,
        )
