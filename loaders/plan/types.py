"""What the plan hands to engines, device augmentation and kernels: plain arrays, one row a sample.

Every array here is drawn by `loaders.plan` before any byte is read. `B` is the size of the
micro-batch, `V` the number of views, `L` the number of RandAugment layers, `S` the side of a view in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# RandAugment operations in the order of timm's "increasing" set; `RandAugmentPlan.op` indexes this tuple.
# The meaning of `RandAugmentPlan.arg` for each is given beside it.
RANDAUGMENT_OPS = (
    "autocontrast",  # unused
    "equalize",  # unused
    "invert",  # unused
    "rotate",  # degrees, counter-clockwise, as PIL.Image.rotate
    "posterize",  # bits kept, 0 to 8
    "solarize",  # threshold, 0 to 256: pixels >= threshold are inverted
    "solarize_add",  # amount, 0 to 128, added to pixels < 128, clipped at 255
    "color",  # enhancement factor (0 = grey, 1 = original)
    "contrast",  # enhancement factor
    "brightness",  # enhancement factor
    "sharpness",  # enhancement factor
    "shear_x",  # shear factor, as the matrix (1, arg, 0, 0, 1, 0) of PIL's AFFINE
    "shear_y",  # shear factor, as the matrix (1, 0, 0, arg, 1, 0)
    "translate_x",  # fraction of the width, as (1, 0, arg * S, 0, 1, 0)
    "translate_y",  # fraction of the height, as (1, 0, 0, 0, 1, arg * S)
)


@dataclass(frozen=True)
class ColorPlan:
    """Colour jitter (brightness, contrast, saturation), applied in a random order per sample."""

    factor: NDArray[np.float32]  # [B, 3] brightness, contrast, saturation
    order: NDArray[np.int64]  # [B, 3] a permutation of 0, 1, 2: order[b, 0] is applied first


@dataclass(frozen=True)
class RandAugmentPlan:
    """RandAugment, layer 0 first."""

    op: NDArray[np.int64]  # [B, L] index into RANDAUGMENT_OPS, -1 for none
    arg: NDArray[np.float32]  # [B, L] the operation's argument, sign included


@dataclass(frozen=True)
class ErasePlan:
    """Random erasing with per-pixel standard normal noise on the normalised image."""

    box: NDArray[np.int64]  # [B, 4] left, top, width, height in view pixels; width 0 for none
    key: NDArray[np.int64]  # [B, 2] 32-bit key words of the counter-based noise (kernels.reference.noise)


@dataclass(frozen=True)
class ViewPlan:
    """One view of each of B images."""

    window: NDArray[np.int32]  # [B, 4] left, top, width, height in source pixels
    flip: NDArray[np.bool_]  # [B] horizontal flip after the resize
    color: ColorPlan | None = None
    randaugment: RandAugmentPlan | None = None
    erase: ErasePlan | None = None
    resize: NDArray[np.int32] | None = (
        None  # [B, 2] width, height of the whole image before the window is cut
    )


@dataclass(frozen=True)
class MixPlan:
    """Random part of mixup and cutmix inside a micro-batch; what depends on confidences is not here."""

    partner: NDArray[np.int64]  # [B] a permutation of 0..B-1: sample i is mixed with partner[i]
    cutmix: NDArray[np.bool_]  # [B] cutmix instead of mixup
    centre: NDArray[np.float32]  # [B, 2] centre (x, y) of the cutmix box as a fraction of the side, in [0, 1)
    lam: NDArray[np.float32]  # [B] Beta draw: weight of sample i where confidences do not decide it
    even: bool = False  # whether cutmix boxes have even sides, as `cutmix_box` of kernels.reference.mix says


@dataclass(frozen=True)
class PlannedBatch:
    """What an engine receives: which images, which windows. `views[v].window` belongs to view v."""

    ids: NDArray[np.int64]  # [B] position in the index
    labels: NDArray[np.int64]  # [B] class of each image, -1 where it has none
    views: tuple[ViewPlan, ...]
    mix: MixPlan | None = None
    hide: NDArray[np.float32] | None = (
        None  # [B, N] MAE hides the patches with the largest; None: drawn later
    )

    @property
    def windows(self) -> NDArray[np.int32]:
        """Windows of all views, [V, B, 4]."""
        return np.stack([v.window for v in self.views])

    @property
    def flips(self) -> NDArray[np.bool_]:
        """Horizontal flips of all views, [V, B]."""
        return np.stack([v.flip for v in self.views])


@dataclass
class LoadedBatch:
    """A planned batch with its pixels.

    `plan` may differ from the plan that was sent to the engine in `ids` and `labels` of broken
    images, which take those (and the pixels) of the next good one of the batch when `data.max_bad` allows it.
    """

    plan: PlannedBatch
    images: torch.Tensor  # [V, B, S, S, 3] uint8
    valid: NDArray[np.bool_]  # [B] False where the file was broken and the pixels are another image's
    tensors: dict[str, torch.Tensor] | None = None  # `packing.planned_arrays` beside the images on a device
