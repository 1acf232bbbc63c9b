"""The operations of RandAugment and colour jitter by name; the specification of their fused forms.

They follow timm's `timm.data.auto_augment` on Pillow images: exact for everything in
`fastsemi.kernels.reference.color`, and within 1/255 (a few values in 10^4 differ) for the geometric
ones in `fastsemi.kernels.reference.warp`.
"""

from torch import Tensor

from fastsemi.kernels.reference import color, warp

# (images [b, H, W, 3] uint8, arg [b] float32) -> uint8 of the same shape
COLOR_OPS = {
    "autocontrast": color.autocontrast,
    "equalize": color.equalize,
    "invert": color.invert,
    "posterize": color.posterize,
    "solarize": color.solarize,
    "solarize_add": color.solarize_add,
    "color": color.color,
    "contrast": color.contrast,
    "brightness": color.brightness,
    "sharpness": color.sharpness,
}

# As above, with the keyword `fill`.
WARP_OPS = {
    "rotate": warp.rotate,
    "shear_x": warp.shear_x,
    "shear_y": warp.shear_y,
    "translate_x": warp.translate_x,
    "translate_y": warp.translate_y,
}


def apply_op(name: str, images: Tensor, arg: Tensor, *, fill: warp.Fill) -> Tensor:
    """Apply one operation to every image of a batch.

    Args:
        name: A key of `COLOR_OPS` or `WARP_OPS`.
        images: [b, H, W, 3] uint8, contiguous; not modified.
        arg: [b] float32 on the same device; its meaning: `loaders.plan.types.RANDAUGMENT_OPS`.
        fill: Colour outside the image, red, green, blue in 0..255.

    Returns:
        [b, H, W, 3] uint8.

    Raises:
        KeyError: The name is unknown.
    """
    if name in WARP_OPS:
        return WARP_OPS[name](images, arg, fill=fill)
    return COLOR_OPS[name](images, arg)
