"""Which part of an image a view shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TRIES = 10  # of random-resized-crop and of erasing, as in torchvision and timm


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


def resized_centre(
    sizes: NDArray[np.int32], fraction: float, image_size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Evaluation by torchvision's Resize and CenterCrop: the shorter side to image_size / fraction, then cut.

    Returns:
        [B, 2] width and height of the resized images, rounded down, and [B, 4] left, top, width, height of
        the window in them.
    """
    shorter = int(image_size / fraction)
    side = np.maximum(sizes.min(1, keepdims=True), 1)  # 0 of images that cannot be read
    resized = (shorter * sizes.astype(np.int64) // side).astype(np.int32)
    corner = np.rint((resized - image_size) / 2).astype(np.int32)
    return resized, np.concatenate([corner, np.full_like(corner, image_size)], axis=1)


def centre_crop(sizes: NDArray[np.int32], fraction: float) -> NDArray[np.int32]:
    """Evaluation windows: a centred square of `fraction` of the shorter side.

    The same pixels as `resized_centre`, but for windows of whole pixels of the source.

    Returns:
        [B, 4] left, top, width, height.
    """
    side = np.maximum(np.rint(sizes.min(1) * fraction), 1).astype(np.int32)
    corner = (sizes - side[:, None]) // 2
    return np.stack([corner[:, 0], corner[:, 1], side, side], axis=1).astype(np.int32)
