"""Point-wise colour operations and the 3x3 sharpness filter on batches of uint8 images.

Each function matches the Pillow operation that timm's RandAugment and torchvision's ColorJitter call,
bit for bit. Images are `[b, H, W, 3]` uint8 and are not modified; `arg` is `[b]`, one value an image.
Nothing waits for the device.

Arithmetic is preferred over table lookups: on a CPU a lookup costs about 1.5 ns a byte, a chain of
vectorised passes over the same bytes a fifth of that. Only autocontrast and equalize need tables.
"""

import torch
from torch import Tensor


def truncate_to_uint8(values: Tensor) -> Tensor:
    """Clip float `values` to [0, 255] in place and drop the fraction, as Pillow's `(UINT8)` casts do.

    The detour through int16 is there because PyTorch vectorises both conversions on a CPU, but not the
    direct one.
    """
    return values.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def invert(images: Tensor, arg: Tensor) -> Tensor:
    """255 - x (PIL.ImageOps.invert). `arg` is unused."""
    return images.bitwise_not()


def posterize(images: Tensor, arg: Tensor) -> Tensor:
    """Keep the `arg` highest bits, 0 to 8 (PIL.ImageOps.posterize; 0 bits give black, 8 the same image)."""
    bits = arg.to(torch.int32)
    mask = (torch.full_like(bits, 0xFF00) >> bits) & 0xFF
    return images & _per_image(mask.to(torch.uint8))


def solarize(images: Tensor, arg: Tensor) -> Tensor:
    """Invert values >= the threshold `arg`, 0 to 256; 256 inverts none (PIL.ImageOps.solarize)."""
    threshold = _per_image(arg.ceil().to(torch.int16))
    values = images.to(torch.int16)
    # The sign of (threshold - 1 - x) is the mask, 0 or -1; after the cast to a byte x ^ -1 is 255 - x.
    return (values ^ ((threshold - 1 - values) >> 15)).to(torch.uint8)


def solarize_add(images: Tensor, arg: Tensor) -> Tensor:
    """Add `arg`, 0 to 128, to values < 128 (timm's solarize_add; such a sum cannot exceed 255)."""
    dark = 1 - (images >> 7)
    return dark.mul_(_per_image(arg.to(torch.uint8))).add_(images)


def brightness(images: Tensor, arg: Tensor) -> Tensor:
    """Blend with black by the factor `arg` >= 0 (PIL.ImageEnhance.Brightness)."""
    return truncate_to_uint8(images.float().mul_(_per_image(arg)))


def contrast(images: Tensor, arg: Tensor) -> Tensor:
    """Blend with the image's mean grey, rounded, by the factor `arg` (PIL.ImageEnhance.Contrast)."""
    pixels = images.shape[1] * images.shape[2]
    grey = _grey(*(plane.float() for plane in images.unbind(-1)))
    total = grey.sum(2).sum(1, dtype=torch.int64)  # the sum of a row is exact in float32
    mean = torch.div(2 * total + pixels, 2 * pixels, rounding_mode="floor")
    return _blend(_per_image(mean.float()), images.float(), _per_image(arg))


def color(images: Tensor, arg: Tensor) -> Tensor:
    """Blend with the grey image by the factor `arg` (PIL.ImageEnhance.Color, ColorJitter's saturation)."""
    planes = [plane.float() for plane in images.unbind(-1)]
    grey, factor = _grey(*planes), arg.view(-1, 1, 1)
    out = torch.empty_like(images, memory_format=torch.contiguous_format)
    # One channel at a time: broadcasting the grey over an innermost axis of three is slower on a CPU.
    for channel, plane in zip(out.unbind(-1), planes, strict=True):
        channel.copy_(plane.sub_(grey).mul_(factor).add_(grey).clamp_(0, 255))
    return out


def sharpness(images: Tensor, arg: Tensor) -> Tensor:
    """Blend with the smoothed image by the factor `arg` (PIL.ImageEnhance.Sharpness).

    The filter is PIL.ImageFilter.SMOOTH, (1 1 1, 1 5 1, 1 1 1) / 13; border pixels stay as they are.
    """
    rows = images.flatten(2).to(torch.int16)  # [b, H, 3W]: horizontal neighbours are three bytes apart
    centre = rows[:, 1:-1, 3:-3]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    total = total[..., :-6] + total[..., 3:-3] + total[..., 6:] + 4 * centre
    # 13 is odd, so no quotient lies on a rounding boundary, and float32 gives the rounded integer exactly.
    smooth = total.float().add_(6.5).mul_(1 / 13).floor_()
    out = images.clone(memory_format=torch.contiguous_format)
    out.flatten(2)[:, 1:-1, 3:-3] = _blend(smooth, centre.float(), arg.view(-1, 1, 1))
    return out


def autocontrast(images: Tensor, arg: Tensor) -> Tensor:
    """Stretch each channel to 0..255 (PIL.ImageOps.autocontrast without cutoff). `arg` is unused."""
    rows = images.flatten(2)  # two passes: on a CPU aminmax takes thrice their time
    low, high = (v.unflatten(1, (-1, 3)) for v in (rows.amin(1), rows.amax(1)))
    low = low.amin(1)[..., None].double()  # [b, 3, 1]
    high = high.amax(1)[..., None].double()
    level = torch.arange(256, device=images.device, dtype=torch.float64)
    # Double precision in Pillow's order of operations: where 255 (x - low) / (high - low) is an integer,
    # the rounding of this very expression decides about the last bit. (PyTorch computes number / tensor as
    # number * (1 / tensor), which rounds twice.)
    scale = torch.full_like(low, 255.0) / (high - low)
    table = (level * scale).add_(-low * scale)
    table = torch.where(high > low, table.clamp_(0, 255), level)
    return _lookup(images, table.to(torch.uint8))


def equalize(images: Tensor, arg: Tensor) -> Tensor:
    """Equalise the histogram of each channel (PIL.ImageOps.equalize). `arg` is unused."""
    histogram = _histogram(images)  # [b, 3, 256] int64
    level = torch.arange(256, device=images.device)
    brightest = (level * (histogram > 0)).amax(-1, keepdim=True)
    pixels = images.shape[1] * images.shape[2]
    step = torch.div(pixels - histogram.gather(-1, brightest), 255, rounding_mode="floor")  # [b, 3, 1]
    below = histogram.cumsum(-1) - histogram
    table = torch.div(below + step // 2, step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    return _lookup(images, torch.where(step > 0, table, level).to(torch.uint8))


def _per_image(value: Tensor) -> Tensor:
    """[b] -> [b, 1, 1, 1]."""
    return value.view(-1, 1, 1, 1)


def _blend(degenerate: Tensor, values: Tensor, factor: Tensor) -> Tensor:
    """PIL.Image.blend: `degenerate + factor * (values - degenerate)` in float32; overwrites `values`."""
    return truncate_to_uint8(values.sub_(degenerate).mul_(factor).add_(degenerate))


def _grey(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """Pillow's "L" conversion, `(19595 R + 38470 G + 7471 B + 32768) >> 16`, of float32 channels.

    Every intermediate value is an integer below 2^24, hence exact in float32.
    """
    total = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471)
    return total.add_(32768).mul_(2.0**-16).floor_()


def _table_index(images: Tensor) -> Tensor:
    """Position of each byte in a flattened table [b, 3, 256]: [b * H * W * 3] int32."""
    b, _, w, _ = images.shape
    channel = torch.arange(3 * w, device=images.device, dtype=torch.int32).remainder_(3)
    image = torch.arange(b, device=images.device, dtype=torch.int32).view(b, 1, 1)
    return images.flatten(2).int().add_(768 * image + 256 * channel).flatten()


def _lookup(images: Tensor, table: Tensor) -> Tensor:
    """Replace each value by its entry in `table`, [b, 3, 256] uint8."""
    return table.flatten().index_select(0, _table_index(images)).view_as(images)


def _histogram(images: Tensor) -> Tensor:
    """Counts of the 256 levels of each channel: [b, 3, 256] int64."""
    index, bins = _table_index(images), len(images) * 768
    if images.device.type == "cpu":  # twice as fast here, but a GPU would wait for the largest index
        return torch.bincount(index, minlength=bins).view(-1, 3, 256)
    counts = torch.zeros(bins, dtype=torch.int64, device=images.device)
    one = torch.ones((), dtype=torch.int64, device=images.device)
    return counts.scatter_add_(0, index.long(), one.expand(len(index))).view(-1, 3, 256)
