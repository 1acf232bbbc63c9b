"""Normalising, erasing and mixing of a micro-batch, the specification of `kernels.mix`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NotRequired, TypedDict, Unpack

import torch
from torch import Tensor

from fastsemi.kernels.reference.noise import erase_noise, pixel_noise

_SMALL = 32  # pixels a side: on a CPU calls cost more than work there
_DRAWN = 2**14  # pixels: noise of small boxes is drawn together on a CPU, since calls cost more than work


class PixelArgs(TypedDict):
    """How pixels become the network's input: the keyword arguments of `mix` and `normalise`."""

    erase_box: NotRequired[Tensor | None]
    """int64 [B, 4], left, top, width, height, width 0 for none; filled with `erase_noise` after
    normalisation, as RandomErasing of timm does in mode "pixel"."""
    erase_key: NotRequired[Tensor | None]
    """int64 [B, 2], keys of that noise; needed with `erase_box`."""
    erase_index: NotRequired[Tensor | None]
    """int64 [E], the samples that have a box, where the caller knows them (the plan does). Noise is then
    drawn for these alone; None draws it for all samples."""
    mean: tuple[float, float, float]
    """Of each channel, for pixel values in 0 to 1."""
    std: tuple[float, float, float]
    """Likewise."""
    dtype: NotRequired[torch.dtype]
    """Float type of the images; float32 where it is not given."""


def mix(
    images: Tensor,
    partner: Tensor,
    lam: Tensor,
    cutmix: Tensor,
    centre: Tensor,
    *,
    even: bool = False,
    **pixels: Unpack[PixelArgs],
) -> tuple[Tensor, Tensor]:
    """Normalise, erase and mix, in this order; computed in float32 and rounded once at the end.

    Equation 3 of the paper: mixup gives `lam x_i + (1 - lam) x_j`, cutmix takes the pixels inside a box from
    j and the others from i. The partner's pixels are erased, but not mixed.

    Args:
        images: uint8 [B, S, S, 3].
        partner: int64 [B], the sample j mixed into i; i itself for none.
        lam: float32 [B], weight of sample i; for cutmix the box has the area 1 - lam before it is clipped.
        cutmix: bool [B], cutmix instead of mixup.
        centre: float32 [B, 2], centre (x, y) of the cutmix box as a fraction of the side, in [0, 1).
        even: Whether cutmix boxes have even sides, as of `cutmix_box`.
        **pixels: As of `PixelArgs`.

    Returns:
        Images [B, 3, S, S] of type `dtype`, and the weight of sample i in them, float32 [B]: `lam` for mixup,
        the share of the pixels that are really kept for cutmix, 1 for a sample that is its own partner.
    """
    clean = _normalised(images, **pixels)
    lam, box = corrected(partner, lam, cutmix, centre, images.shape[1], even=even)
    one_by_one = images.device.type == "cpu" and images.shape[1] > _SMALL
    mix_them = _mix_one_by_one if one_by_one else _mix_at_once
    return mix_them(clean, partner, lam, box, pixels.get("dtype", torch.float32)), lam


def normalise(images: Tensor, **pixels: Unpack[PixelArgs]) -> Tensor:
    """`mix` of samples that are their own partners: uint8 [B, S, S, 3] to [B, 3, S, S] of type `dtype`."""
    return _normalised(images, **pixels).to(pixels.get("dtype", torch.float32))


def corrected(
    partner: Tensor, lam: Tensor, cutmix: Tensor, centre: Tensor, size: int, *, even: bool = False
) -> tuple[Tensor, Tensor]:
    """The weight that each sample really has, float32 [B], and its cutmix box, as of `cutmix_box`.

    Args are those of `mix`; `size` is the side S of the images in pixels.
    """
    alone = partner == torch.arange(len(partner), device=partner.device)
    box = cutmix_box(lam, centre, cutmix & ~alone, size, even=even)
    pixels = size * size
    kept = (pixels - box[:, 2] * box[:, 3]).to(torch.float32) / pixels  # after clipping
    return torch.where(alone, 1.0, torch.where(cutmix, kept, lam)), box


def cutmix_box(lam: Tensor, centre: Tensor, cutmix: Tensor, size: int, *, even: bool = False) -> Tensor:
    """Cutmix boxes: a square of `floor(S sqrt(1 - lam))` pixels around the centre, clipped at the border.

    The edges are those of timm's `rand_bbox` with margin 0: as it is since 0.9, or, even, as it was in 0.4.5,
    where an odd side is a pixel shorter.

    Args:
        lam: float32 [B], the weight that the unclipped box would leave to the sample.
        centre: float32 [B, 2], centre (x, y) as a fraction of the side, in [0, 1).
        cutmix: bool [B], samples that have a box at all.
        size: Side S of the images in pixels.
        even: Take the half of the side, rounded down, on both sides of the centre.

    Returns:
        int64 [B, 4]: left, top, width, height; all 0 where there is no box or it holds no pixel.
    """
    side = (size * torch.sqrt(1.0 - lam)).to(torch.int64)[:, None]  # [B, 1]
    middle = (size * centre).to(torch.int64).clamp(max=size - 1)  # [B, 2]; the product may round up to S
    low = (middle - side // 2).clamp(min=0)
    high = (middle + (side + (not even)) // 2).clamp(max=size)
    return torch.cat([low, high - low], dim=1) * (cutmix[:, None] & (side > int(even)))


def inside(box: Tensor, size: int) -> Tensor:
    """Pixels inside each box.

    Args:
        box: int64 [B, 4], left, top, width, height.
        size: Side S of the images in pixels.

    Returns:
        bool [B, S, S], indexed by row, then column.
    """
    position = torch.arange(size, device=box.device)
    low, extent = box[:, :2, None], box[:, 2:, None]
    hit = (position >= low) & (position < low + extent)  # [B, 2, S]: columns, then rows
    return hit[:, 1, :, None] & hit[:, 0, None, :]


def check_pixels(images: Tensor, erase_box: Tensor | None, erase_key: Tensor | None) -> None:
    """Refuse arguments of `mix` and `normalise` that fit no kernel.

    Raises:
        ValueError: Images are not uint8 [B, S, S, 3], or boxes come without keys.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (images.shape[1],) * 2 + (3,):
        raise ValueError(f"images must be uint8 [B, S, S, 3], not {images.dtype} {list(images.shape)}")
    if erase_box is not None and erase_key is None:
        raise ValueError("erase_box needs erase_key, the keys of the noise")


def _mix_one_by_one(clean: Tensor, partner: Tensor, lam: Tensor, box: Tensor, dtype: torch.dtype) -> Tensor:
    """Sample by sample, where reading the plan waits for no device: of a partner its box alone is touched."""
    mixed = torch.empty_like(clean, dtype=dtype)
    samples = clean.unbind()
    plan = zip(mixed.unbind(), samples, partner.tolist(), lam.tolist(), box.tolist(), strict=True)
    for target, own, j, weight, (left, top, width, height) in plan:
        if width:
            rows, columns = slice(top, top + height), slice(left, left + width)
            target.copy_(own)
            target[:, rows, columns] = samples[j][:, rows, columns]
        else:
            target.copy_(own if weight == 1 else torch.lerp(samples[j], own, weight))
    return mixed


def _mix_at_once(clean: Tensor, partner: Tensor, lam: Tensor, box: Tensor, dtype: torch.dtype) -> Tensor:
    """All samples at once, on any device, without a look at a box from the host."""
    boxed = (box[:, 2] > 0)[:, None, None]
    own = torch.where(boxed, 1.0 - inside(box, clean.shape[-1]).float(), lam[:, None, None])  # [B, S, S]
    return torch.lerp(clean[partner], clean, own[:, None]).to(dtype)


def _normalised(images: Tensor, **args: Unpack[PixelArgs]) -> Tensor:
    """Normalised and erased, float32 [B, 3, S, S]."""
    box, key = args.get("erase_box"), args.get("erase_key")
    check_pixels(images, box, key)
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    pixels.sub_(_per_channel([255.0 * m for m in args["mean"]], pixels))
    pixels.div_(_per_channel([255.0 * s for s in args["std"]], pixels))
    if box is not None and key is not None:
        _erase(pixels, box, key, args.get("erase_index"))
    return pixels


def _erase(pixels: Tensor, box: Tensor, key: Tensor, index: Tensor | None) -> None:
    if index is None:
        index = torch.arange(len(box), device=box.device)
    if not len(index):
        return
    if pixels.device.type == "cpu":
        _erase_boxes(pixels, box, key, index)
    else:
        _erase_samples(pixels, box, key, index)


def _erase_boxes(pixels: Tensor, box: Tensor, key: Tensor, index: Tensor) -> None:
    """Box by box, where reading the boxes waits for no device: noise is drawn for their pixels alone."""
    size = pixels.shape[-1]
    boxes = box[index].tolist()
    for first, last in _drawn_together([width * height for *_, width, height in boxes]):
        part = boxes[first:last]
        inner = [
            (torch.arange(top, top + height)[:, None] * size + torch.arange(left, left + width)).flatten()
            for left, top, width, height in part
        ]
        counts = torch.tensor([len(pixel) for pixel in inner])
        keys = key[index[first:last]]
        if len(part) > 1:  # of one box they are broadcast, which needs fewer passes
            keys = keys.t().contiguous().repeat_interleave(counts, 1).t()  # [P, 2]
        noise = pixel_noise(keys, torch.cat(inner)).split(counts.tolist())
        for sample, found, (left, top, width, height) in zip(
            index[first:last].tolist(), noise, part, strict=True
        ):
            planes = found.view(height, width, 3).permute(2, 0, 1)
            pixels[sample, :, top : top + height, left : left + width] = planes


def _drawn_together(counts: list[int]) -> Iterator[tuple[int, int]]:
    """Boxes, first and one past the last, whose noise is drawn in one go: by `_DRAWN` pixels or one box."""
    first = total = 0
    for i, count in enumerate(counts):
        if total and total + count > _DRAWN:
            yield first, i
            first, total = i, 0
        total += count
    if counts:
        yield first, len(counts)


def _erase_samples(pixels: Tensor, box: Tensor, key: Tensor, index: Tensor) -> None:
    """All samples at once, on any device, without a look at a box from the host."""
    size = pixels.shape[-1]
    noise = erase_noise(key[index], size, pixels.device).permute(0, 3, 1, 2)
    filled = torch.where(inside(box[index], size)[:, None], noise, pixels[index])
    pixels.index_copy_(0, index, filled)


def _per_channel(values: list[float], like: Tensor) -> Tensor:
    # Fills, not a copy of a host list: the copy would wait for the device.
    return torch.cat([like.new_full((1, 1), value) for value in values])[:, :, None]
