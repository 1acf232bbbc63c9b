"""Rotation, shear and translation of batches of uint8 images, as Pillow's affine transform does them.

Output pixel (x, y) takes its value at `(m0 (x+½) + m1 (y+½) + m2, m3 (x+½) + m4 (y+½) + m5)` of the input,
whose pixel centres lie at half-integers. A position outside [0, W) x [0, H) gives the fill colour; taps
beyond the border repeat the border. The cubic kernel is Keys' with a = -1 (Pillow's Geometry.c; its resize
uses -0.5). Coordinates are float64, as in Pillow; pixels are interpolated in float32 (Pillow: double) and
truncated, so that a few values in 10^4 of a rotation, and fewer of the others, are off by 1.

Images are `[b, H, W, 3]` uint8 and are not modified; `arg` is `[b]`, one value an image; `fill` is the colour
outside. Nothing waits for the device. Inside, a pixel is one int32, its bytes R, G, B, 0, so that one gather
moves a whole pixel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsemi.kernels.reference.color import truncate_to_uint8

_TAPS = 4  # of the kernel along one axis

# Added before the fraction is dropped, where weights add up to 1 but for float32's rounding: flat areas stay.
_ROUNDING = 2.0**-13

Fill = tuple[int, int, int]


def rotate(images: Tensor, arg: Tensor, *, fill: Fill) -> Tensor:
    """Rotate by `arg` degrees counter-clockwise around the centre (PIL.Image.rotate without expand)."""
    b, h, w, _ = images.shape
    # Multiples of 90 degrees become exact permutations of pixels because of the rounding, as in Pillow.
    angle = torch.remainder(arg.double(), 360.0).mul_(-math.pi / 180)
    cos, sin = angle.cos().round(decimals=15), angle.sin().round(decimals=15)
    centre_x, centre_y = w / 2, h / 2
    shift_x = cos * -centre_x + sin * -centre_y + centre_x
    shift_y = -sin * -centre_x + cos * -centre_y + centre_y
    x = (torch.arange(w, device=images.device, dtype=torch.float64) + 0.5).view(1, 1, w)
    y = (torch.arange(h, device=images.device, dtype=torch.float64) + 0.5).view(1, h, 1)
    cos, sin, shift_x, shift_y = (v.view(b, 1, 1) for v in (cos, sin, shift_x, shift_y))
    source_x = (cos * x + sin * y).add_(shift_x)
    source_y = (-sin * x + cos * y).add_(shift_y)
    return _unpack(_sample(_pack(images), source_x, source_y, fill))


def shear_x(images: Tensor, arg: Tensor, *, fill: Fill) -> Tensor:
    """Shear along x: PIL's affine matrix (1, arg, 0, 0, 1, 0)."""
    row = torch.arange(images.shape[1], device=images.device) + 0.5
    return _unpack(_shift_rows(_pack(images), arg.double()[:, None] * row, fill))


def shear_y(images: Tensor, arg: Tensor, *, fill: Fill) -> Tensor:
    """Shear along y: PIL's affine matrix (1, 0, 0, arg, 1, 0)."""
    column = torch.arange(images.shape[2], device=images.device) + 0.5
    return _shift_columns(images, arg.double()[:, None] * column, fill)


def translate_x(images: Tensor, arg: Tensor, *, fill: Fill) -> Tensor:
    """Move left by the fraction `arg` of the width: PIL's affine matrix (1, 0, arg * W, 0, 1, 0)."""
    _, h, w, _ = images.shape
    return _unpack(_shift_rows(_pack(images), (arg.double() * w)[:, None].expand(-1, h), fill))


def translate_y(images: Tensor, arg: Tensor, *, fill: Fill) -> Tensor:
    """Move up by the fraction `arg` of the height: PIL's affine matrix (1, 0, 0, 0, 1, arg * H)."""
    _, h, w, _ = images.shape
    return _shift_columns(images, (arg.double() * h)[:, None].expand(-1, w), fill)


def _pack(images: Tensor) -> Tensor:
    """[b, H, W, 3] uint8 -> [b, H, W] int32."""
    red, green, blue = images.unbind(-1)
    return torch.add(red, torch.add(green, blue.int(), alpha=256), alpha=256)


def _unpack(pixels: Tensor) -> Tensor:
    """[b, H, W] int32 -> [b, H, W, 3] uint8."""
    channels = pixels[..., None].contiguous().view(torch.uint8).unbind(-1)
    return torch.stack(channels[:3], -1)


def _channels(pixels: Tensor) -> Tensor:
    """[..., n] int32 -> [..., 4n] float32, four values a pixel."""
    return pixels.view(torch.uint8).float()


def _finish(values: Tensor, outside: Tensor, fill: Fill) -> Tensor:
    """[..., 4n] float32 -> [..., n] int32, with `fill` where `outside`."""
    red, green, blue = fill
    return truncate_to_uint8(values).view(torch.int32).masked_fill_(outside, red + 256 * green + 65536 * blue)


def _shift_rows(pixels: Tensor, offset: Tensor, fill: Fill) -> Tensor:
    """Sample row r of image i at x + offset[i, r], of packed `pixels` [b, R, W]; `offset` [b, R] is float64.

    Shears and translations along x leave y at pixel centres, where Pillow's vertical interpolation is the
    identity, and all of a row has the same weights.
    """
    width = pixels.shape[2]
    whole = offset.floor()
    column = torch.arange(-1, width + 2, device=pixels.device)
    index = (column + whole.long()[..., None]).clamp_(0, width - 1)
    row = _channels(pixels.gather(2, index))  # [b, R, 4 (W + 3)]
    base = row[..., 4 : 4 * (1 + width)]
    step = row[..., :-4] - row[..., 4:]
    fraction = (offset - whole).float()[..., None]
    # The kernel in differences p_k - p_{k+1}: flat areas stay exact, and as the tap before the position is an
    # integer, it is the small sum of differences that is rounded, not the large result.
    product = fraction * (1 - fraction)
    below = step[..., : 4 * width] * (product * (1 - fraction))
    below.addcmul_(step[..., 4 : 4 * (1 + width)], fraction)
    below.addcmul_(step[..., 8 : 4 * (2 + width)], product * -fraction)
    values = base - below.ceil_()
    position = offset[..., None] + (column[1 : 1 + width] + 0.5)
    return _finish(values, (position < 0) | (position >= width), fill)


def _shift_columns(images: Tensor, offset: Tensor, fill: Fill) -> Tensor:
    """As `_shift_rows` along y, on images [b, H, W, 3]; `offset` is [b, W]."""
    columns = _pack(images).transpose(1, 2).contiguous()
    return _unpack(_shift_rows(columns, offset, fill).transpose(1, 2))


def _sample(pixels: Tensor, source_x: Tensor, source_y: Tensor, fill: Fill) -> Tensor:
    """Sample packed `pixels` [b, H, W] at float64 positions [b, H, W]; overwrites the positions."""
    b, h, w = pixels.shape
    outside = (source_x < 0) | (source_x >= w) | (source_y < 0) | (source_y >= h)
    left, weights_x = _split(source_x, w)
    top, weights_y = _split(source_y, h)

    # With the border repeated, all taps of a position lie at fixed distances from its first one.
    pad = _TAPS // 2
    y = torch.arange(-pad, h + pad, device=pixels.device).clamp_(0, h - 1)
    x = torch.arange(-pad, w + pad, device=pixels.device).clamp_(0, w - 1)
    padded = pixels.index_select(1, y).index_select(2, x)
    pitch = w + 2 * pad
    image = torch.arange(b, device=pixels.device).view(b, 1, 1) * padded[0].numel()
    first = top.add_(1).mul_(pitch).add_(left.add_(1)).long().add_(image).view(-1, 1)
    index = first + pitch * torch.arange(_TAPS, device=pixels.device)  # [n, 4], n = b * H * W

    # An embedding bag is a weighted sum of rows of a table. Here a row is four neighbouring pixels, and the
    # sum interpolates all of them along y; then a row is one of those pixels, and the sum goes along x.
    runs = _channels(padded.flatten().unfold(0, _TAPS, 1).contiguous())
    columns = F.embedding_bag(index, runs, per_sample_weights=weights_y, mode="sum").view(-1, 4)
    index = torch.arange(len(columns), device=pixels.device).view(-1, _TAPS)
    values = F.embedding_bag(index, columns, per_sample_weights=weights_x, mode="sum")
    return _finish(values.add_(_ROUNDING).view(b, h, 4 * w), outside, fill)


def _split(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Split positions into the tap before and the weights of the taps; overwrites `position`.

    Args:
        position: [b, H, W] float64.
        size: Pixels of the image along this axis.

    Returns:
        Tap left of (above) each position, [b, H, W] float64 in [-1, size - 1], and weights
        [b * H * W, 4] float32.
    """
    position.sub_(0.5)
    whole = position.floor()
    d = position.sub_(whole).float().flatten()
    whole.clamp_(-1, size - 1)
    product = d * (1 - d)
    outer_left, outer_right = product * (1 - d), product * d
    pairs = torch.complex(-outer_left, 1 - d + outer_left), torch.complex(d + outer_right, -outer_right)
    # Four columns side by side: torch.stack, but vectorised on a CPU, where complex numbers are copied whole.
    wide = torch.complex(*(pair.view(torch.float64) for pair in pairs))
    return whole, wide.view(torch.float32).view(-1, 4)
