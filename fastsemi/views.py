"""From loaded uint8 views to the network's input, on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastsemi.data import DataConfig
from fastsemi.kernels.dispatch import Kernels
from fastsemi.kernels.reference.mix import MixMode, MixWeights, PixelArgs
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
        kernels: Implementation of the device operations.
        dtype: Float type of the network's input.
    """

    def __init__(
        self,
        config: DataConfig,
        device: torch.device,
        kernels: Kernels | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        self._config, self.device, self._dtype = config, device, dtype
        self.kernels = kernels or Kernels()

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
        self, images: Tensor, plan: ViewPlan | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Normalise uint8 images [B, S, S, 3] to [B, 3, S, S] and erase the boxes of a plan.

        `dtype` replaces the network's input type.
        """
        args = self._pixels(plan)
        args["dtype"] = dtype or self._dtype
        return self.kernels.mix_images(images, None, **args)

    def mix_labelled(self, batch: DeviceBatch) -> tuple[Tensor, MixWeights | None]:
        """Augment the one view of labelled images, normalise, erase and mix it by drawn weights (eq. 3).

        Returns:
            [B, 3, S, S] and how they were mixed; None where the plan mixes nothing.
        """
        images, plan, mix = self.augment(batch, 0), batch.plans[0], batch.mix
        if mix is None:
            return self.normalise(images, plan), None
        return self.kernels.labelled_mix(
            images, mix.partner, mix.cutmix, mix.centre, mix.lam, **self._pixels(plan)
        )

    def mix_unlabelled(
        self, batch: DeviceBatch, strong: Tensor, mode: MixMode, confidence: Tensor, threshold: float
    ) -> tuple[Tensor, MixWeights]:
        """Normalise, erase and mix augmented strong views by their confidences (section 3).

        Args:
            batch: What the views belong to; view 1 is the strong one.
            strong: [B, S, S, 3] uint8.
            mode: Variant of pseudo mixup.
            confidence: [B] of the pseudo labels.
            threshold: Least confidence that counts.

        Returns:
            [B, 3, S, S], and how they were mixed.
        """
        mix = batch.mix
        assert mix is not None  # the stream of unlabelled images always plans it
        return self.kernels.mix(
            mode,
            strong,
            confidence,
            mix.partner,
            mix.cutmix,
            mix.centre,
            mix.lam,
            threshold,
            **self._pixels(batch.plans[1]),
        )

    def _pixels(self, plan: ViewPlan | None) -> PixelArgs:
        args: PixelArgs = {"mean": self._config.mean, "std": self._config.std, "dtype": self._dtype}
        erase = plan.erase if plan else None
        if erase is not None and erase.box[:, 2].any():
            args["erase_box"], args["erase_key"] = self.tensor(erase.box), self.tensor(erase.key)
            args["erase_index"] = self.tensor(np.flatnonzero(erase.box[:, 2]))
        return args
