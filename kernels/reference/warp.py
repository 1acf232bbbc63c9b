"""Rotation, shear and translation of batches of uint8 images, as Pillow's affine transform does them.

Output pixel (x, y) takes its value at `(m0 (x+½) + m1 (y+½) + m2, m3 (x+½) + m4 (y+½) + m5)` of the input,
whose pixel centres lie at half-integers. A position outside [0, W) x [0, H) gives the fill colour; taps
beyond the border repeat the border. Coordinates are float64, as in Pillow; pixels are interpolated in
float32 (Pillow: double) and truncated, so that a few values in 10^4 are off by 1.

The cubic kernel is Keys' with a = -1 (Pillow's Geometry.c; its resize uses -0.5). It is evaluated on
differences of neighbours, `v = p1 - Σ w_k (p_k - p_{k+1})`, which keeps flat areas exact.

Images are `[b, H, W, 3]` uint8 and are not modified; `arg` is `[b]`, one value an image; `fill` is the colour
outside; `interpolation` is "bilinear" or "bicubic". Nothing waits for the device. Inside, a pixel is one
int32, its bytes R, G, B, 0, so that one gather moves a whole pixel.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastsemi.kernels.reference.color import truncate_to_uint8

# Taps of each kernel along one axis.
TAPS = {"bilinear": 2, "bicubic": 4}

Fill = tuple[int, int, int]


def rotate(images: Tensor, arg: Tensor, *, fill: Fill, interpolation: str) -> Tensor:
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
    return _unpack(_sample(_pack(images), source_x, source_y, fill, interpolation))


def shear_x(images: Tensor, arg: Tensor, *, fill: Fill, interpolation: str) -> Tensor:
    """Shear along x: PIL's affine matrix (1, arg, 0, 0, 1, 0)."""
    row = torch.arange(images.shape[1], device=images.device) + 0.5
    return _unpack(_shift_rows(_pack(images), arg.double()[:, None] * row, fill, interpolation))


def shear_y(images: Tensor, arg: Tensor, *, fill: Fill, interpolation: str) -> Tensor:
    """Shear along y: PIL's affine matrix (1, 0, 0, arg, 1, 0)."""
    column = torch.arange(images.shape[2], device=images.device) + 0.5
    return _shift_columns(images, arg.double()[:, None] * column, fill, interpolation)


def translate_x(images: Tensor, arg: Tensor, *, fill: Fill, interpolation: str) -> Tensor:
    """Move left by the fraction `arg` of the width: PIL's affine matrix (1, 0, arg * W, 0, 1, 0)."""
    _, h, w, _ = images.shape
    return _unpack(_shift_rows(_pack(images), (arg.double() * w)[:, None].expand(-1, h), fill, interpolation))


def translate_y(images: Tensor, arg: Tensor, *, fill: Fill, interpolation: str) -> Tensor:
    """Move up by the fraction `arg` of the height: PIL's affine matrix (1, 0, 0, 0, 1, arg * H)."""
    _, h, w, _ = images.shape
    return _shift_columns(images, (arg.double() * h)[:, None].expand(-1, w), fill, interpolation)


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


def _weights(fraction: Tensor, interpolation: str) -> tuple[Tensor, ...]:
    """Weights of the differences p_k - p_{k+1}; `fraction` is the distance from the tap before."""
    if interpolation == "bilinear":
        return (fraction,)
    rest = 1 - fraction
    product = fraction * rest
    return product * rest, fraction, -product * fraction


def _interpolate(taps: list[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """`p - Σ weights[k] (taps[k] - taps[k + 1])`, p being the tap before the position; overwrites `taps`."""
    before = len(taps) // 2 - 1
    values = taps[before].clone()
    for tap, following, weight in zip(taps[:-1], taps[1:], weights, strict=True):
        values.addcmul_(tap.sub_(following), weight, value=-1)
    return values


def _shift_rows(pixels: Tensor, offset: Tensor, fill: Fill, interpolation: str) -> Tensor:
    """Sample row r of image i at x + offset[i, r], of packed `pixels` [b, R, W]; `offset` [b, R] is float64.

    Shears and translations along x leave y at pixel centres, where Pillow's vertical interpolation is the
    identity, and all of a row has the same weights.
    """
    width, taps = pixels.shape[2], TAPS[interpolation]
    before = taps // 2 - 1
    whole = offset.floor()
    column = torch.arange(-before, width + taps // 2, device=pixels.device)
    index = (column + whole.long()[..., None]).clamp_(0, width - 1)
    row = _channels(pixels.gather(2, index))  # [b, R, 4 (W + taps - 1)]
    step = row[..., :-4] - row[..., 4:]
    weights = _weights((offset - whole).float()[..., None], interpolation)
    below = step[..., : 4 * width] * weights[0]
    for k, weight in enumerate(weights[1:], start=1):
        below.addcmul_(step[..., 4 * k : 4 * (k + width)], weight)
    # The tap is an integer: rounding the small difference instead of the sum keeps the digits that decide.
    values = row[..., 4 * before : 4 * (before + width)] - below.ceil_()
    position = offset[..., None] + (column[before : before + width] + 0.5)
    return _finish(values, (position < 0) | (position >= width), fill)


def _shift_columns(images: Tensor, offset: Tensor, fill: Fill, interpolation: str) -> Tensor:
    """As `_shift_rows` along y, on images [b, H, W, 3]; `offset` is [b, W]."""
    columns = _pack(images).transpose(1, 2).contiguous()
    return _unpack(_shift_rows(columns, offset, fill, interpolation).transpose(1, 2))


def _sample(pixels: Tensor, source_x: Tensor, source_y: Tensor, fill: Fill, interpolation: str) -> Tensor:
    """Sample packed `pixels` [b, H, W] at float64 positions [b, H, W]; overwrites the positions."""
    b, h, w = pixels.shape
    taps = TAPS[interpolation]
    outside = (source_x < 0) | (source_x >= w) | (source_y < 0) | (source_y >= h)
    left, weights_x = _split(source_x, w, interpolation)
    top, weights_y = _split(source_y, h, interpolation)

    # With the border repeated, tap (r, c) of all positions lies at one distance from tap (0, 0).
    pad = taps // 2
    y = torch.arange(-pad, h + pad, device=pixels.device).clamp_(0, h - 1)
    x = torch.arange(-pad, w + pad, device=pixels.device).clamp_(0, w - 1)
    padded = pixels.index_select(1, y).index_select(2, x)
    pitch = w + 2 * pad
    image = torch.arange(b, device=pixels.device).view(b, 1, 1) * padded[0].numel()
    first = top.add_(1).mul_(pitch).add_(left.add_(1)).long().add_(image).flatten()
    flat = padded.flatten()

    rows = []  # interpolated along x, one for each tap along y
    for start in range(0, taps * pitch, pitch):
        row = [_channels(flat[start + c :].index_select(0, first)).view(b, h, 4 * w) for c in range(taps)]
        rows.append(_interpolate(row, weights_x))
    values = _interpolate(rows, weights_y)
    return _finish(values, outside, fill)


def _split(position: Tensor, size: int, interpolation: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The tap left of (above) each position, float64 in [-1, size - 1], and weights [b, H, 4W] float32."""
    position.sub_(0.5)
    whole = position.floor()
    fraction = position.sub_(whole).float().repeat_interleave(4, -1)
    return whole.clamp_(-1, size - 1), _weights(fraction, interpolation)
