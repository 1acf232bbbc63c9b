"""From loaded uint8 views to the network's input, on the device."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fastsemi.common.spans import record
from fastsemi.kernels.dispatch import Kernels
from fastsemi.kernels.reference.mix import PixelArgs
from fastsemi.loaders.plan.packing import planned_arrays, upload
from fastsemi.loaders.plan.types import LoadedBatch, ViewPlan
from fastsemi.loaders.settings import DataConfig

_MIX = ("partner", "cutmix", "centre", "lam")  # arrays of `MixPlan`


@dataclass(frozen=True)
class DeviceMix:
    """`MixPlan` on the device."""

    partner: Tensor  # [B] int64, a permutation
    cutmix: Tensor  # [B] bool
    centre: Tensor  # [B, 2] of the cutmix box
    lam: Tensor  # [B]
    even: bool = False


@dataclass(frozen=True)
class DeviceErase:
    """`ErasePlan` on the device, and which samples have a box."""

    box: Tensor  # [B, 4]
    key: Tensor  # [B, 2]
    rows: Tensor  # [N]


def _erase(tensors: dict[str, Tensor], view: int) -> DeviceErase | None:
    prefix = f"views.{view}.erase."
    if prefix + "rows" not in tensors:
        return None
    return DeviceErase(*(tensors[prefix + f.name] for f in fields(DeviceErase)))


@dataclass(frozen=True)
class DeviceBatch:
    """A loaded batch on the device, not yet augmented."""

    images: Tensor  # [V, B, S, S, 3] uint8
    labels: Tensor  # [B] int64, -1 where unknown
    valid: Tensor  # [B] bool, False for the stand-ins of broken files
    ids: Tensor  # [B] int64 position in the index
    mix: DeviceMix | None
    plans: tuple[ViewPlan, ...]  # on the host
    erase: tuple[DeviceErase | None, ...]  # of each view; None where nothing is erased
    hide: Tensor | None = None  # [B, N] what chooses a masked autoencoder's patches, where it is planned


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

    def to_device(self, batch: LoadedBatch) -> DeviceBatch:
        """A batch on the device: copied now, unless the loader has copied it already."""
        with record("copy"):
            tensors = batch.tensors
            if tensors is None:
                tensors = upload(planned_arrays(batch.plan, batch.valid), self.device)
            mix = None
            if batch.plan.mix is not None:
                partner, cutmix, centre, lam = (tensors[f"mix.{name}"] for name in _MIX)
                mix = DeviceMix(partner, cutmix, centre, lam, batch.plan.mix.even)
            return DeviceBatch(
                images=batch.images.to(self.device, non_blocking=True),
                labels=tensors["labels"],
                valid=tensors["valid"],
                ids=tensors["ids"],
                mix=mix,
                plans=batch.plan.views,
                erase=tuple(_erase(tensors, v) for v in range(len(batch.plan.views))),
                hide=tensors.get("hide"),
            )

    def augment(self, batch: DeviceBatch, view: int) -> Tensor:
        """Colour jitter and RandAugment of a view, [B, S, S, 3] uint8."""
        with record("augment"):
            return self.kernels.augment(batch.images[view], batch.plans[view], fill=self._config.fill)

    def normalise(
        self, images: Tensor, erase: DeviceErase | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Normalise uint8 images [B, S, S, 3] to [B, 3, S, S] and erase boxes.

        `dtype` replaces the network's input type.
        """
        args = self._pixels(erase)
        args["dtype"] = dtype or self._dtype
        with record("mix"):
            return self.kernels.normalise(images, **args)

    def mix(self, images: Tensor, mix: DeviceMix, erase: DeviceErase | None = None) -> tuple[Tensor, Tensor]:
        """Normalise uint8 images [B, S, S, 3], erase boxes and mix pairs (eq. 3).

        Returns:
            [B, 3, S, S], and the weight of each sample in its mixed image, [B]: after cutmix the share of the
            pixels that were kept.
        """
        with record("mix"):
            return self.kernels.mix(
                images, mix.partner, mix.lam, mix.cutmix, mix.centre, even=mix.even, **self._pixels(erase)
            )

    def _pixels(self, erase: DeviceErase | None) -> PixelArgs:
        args: PixelArgs = {"mean": self._config.mean, "std": self._config.std, "dtype": self._dtype}
        if erase is not None:
            args["erase_box"], args["erase_key"] = erase.box, erase.key
            args["erase_index"] = erase.rows
        return args
