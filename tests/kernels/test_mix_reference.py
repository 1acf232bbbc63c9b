"""Mixing against a transcription of the equations, sample by sample and pixel by pixel in fp64."""

import math

import numpy as np
import pytest
import torch

from fastsemi.kernels.reference.mix import (
    _DRAWN,
    _drawn_together,
    _erase_boxes,
    _erase_samples,
    _mix_at_once,
    _mix_one_by_one,
    corrected,
    mix,
    normalise,
)
from fastsemi.kernels.reference.noise import erase_noise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS = ["mixup", "cutmix", "both", "alone"]


def slow_box(lam, x, y, size):
    side = int(size * math.sqrt(1 - lam))
    cx, cy = int(size * x), int(size * y)
    left, right = max(cx - side // 2, 0), min(cx + (side + 1) // 2, size)
    top, bottom = max(cy - side // 2, 0), min(cy + (side + 1) // 2, size)
    return [left, top, right - left, bottom - top] if side else [0, 0, 0, 0]


def slow_weights(partner, lam, cutmix, centre, size):
    """One sample at a time: rows of (weight, box)."""
    rows = []
    for i, j in enumerate(partner):
        ratio, box = lam[i], [0, 0, 0, 0]
        if j == i:
            ratio = 1.0
        elif cutmix[i]:
            box = slow_box(ratio, *centre[i], size)
            ratio = 1 - box[2] * box[3] / size**2
        rows.append((ratio, box))
    return rows


def slow_images(images, plan=None, erase_box=None, erase_key=None):
    """Normalise, erase, mix in fp64, one image at a time: pixels and weights."""
    size = images.shape[1]
    noise = None if erase_key is None else erase_noise(erase_key, size, "cpu").double().numpy()
    clean = []
    for i, image in enumerate(images.double().numpy()):
        image = (image / 255 - np.array(MEAN)) / np.array(STD)
        if erase_box is not None:
            left, top, width, height = erase_box[i].tolist()
            where = np.s_[top : top + height, left : left + width]
            image[where] = noise[i][where]
        clean.append(image)
    if plan is None:
        return np.stack(clean).transpose(0, 3, 1, 2)
    plain = {name: value.tolist() for name, value in plan.items()}
    mixed, weights = [], slow_weights(**plain, size=size)
    for i, (image, (lam, (left, top, width, height))) in enumerate(zip(clean, weights, strict=True)):
        other = clean[plain["partner"][i]]
        if width:
            where = np.s_[top : top + height, left : left + width]
            image = image.copy()
            image[where] = other[where]
        else:
            image = image * lam + other * (1 - lam)
        mixed.append(image)
    return np.stack(mixed).transpose(0, 3, 1, 2), [lam for lam, _ in weights]


def example(batch, seed=0, kind="both"):
    """How to mix; a permutation of so many samples may leave some alone."""
    g = torch.Generator().manual_seed(seed)
    drawn = torch.rand(batch, generator=g) < 0.5
    plan = {
        "partner": torch.randperm(batch, generator=g),
        "cutmix": {"mixup": drawn & False, "cutmix": drawn | True}.get(kind, drawn),
        "centre": torch.rand(batch, 2, generator=g),
        "lam": torch.rand(batch, generator=g),
    }
    return plan | ({"partner": torch.arange(batch)} if kind == "alone" else {})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "size"), [(1, 3), (2, 14), (9, 98), (33, 7)])
def test_weights_and_boxes_follow_the_equations(kind, batch, size):
    plan = example(batch, batch, kind)
    plan["lam"][:3] = torch.tensor([0.0, 1.0, 0.999])[:batch]
    lam, box = corrected(**plan, size=size)
    expected = slow_weights(**{name: value.tolist() for name, value in plan.items()}, size=size)
    assert lam.tolist() == pytest.approx([ratio for ratio, _ in expected], abs=1e-6)
    assert box.tolist() == [found for _, found in expected]
    assert (lam.dtype, box.dtype) == (torch.float32, torch.int64)
    if kind == "alone":
        assert (lam == 1).all() and (box == 0).all()


@pytest.mark.parametrize(
    ("centre", "expected"),
    [
        ((0.5, 0.5), [3, 3, 5, 5]),
        ((0.0, 0.5), [0, 3, 3, 5]),  # clipped at the left border
        ((0.95, 0.5), [7, 3, 3, 5]),  # right
        ((0.5, 0.15), [3, 0, 5, 4]),  # top
        ((0.5, 0.85), [3, 6, 5, 4]),  # bottom
        ((0.99999999, 0.0), [7, 0, 3, 3]),  # a corner; the centre rounds up to 1 in float32
    ],
)
def test_box_is_clipped_and_lambda_is_what_was_kept(centre, expected):
    swap, both = torch.tensor([1, 0]), torch.ones(2, dtype=torch.bool)
    lam, box = corrected(swap, torch.tensor([0.75, 0.75]), both, torch.tensor([centre, centre]), 10)
    assert box[0].tolist() == expected
    assert lam[0].item() == pytest.approx(1 - expected[2] * expected[3] / 100)


def picture(batch, size, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (batch, size, size, 3), generator=g, dtype=torch.uint8)
    low = torch.randint(0, size, (batch, 2), generator=g)
    box = torch.cat(
        [low, torch.minimum(torch.randint(1, size + 1, (batch, 2), generator=g), size - low)], dim=1
    )
    box[::3] = 0
    return {
        "images": images,
        "erase_box": box,
        "erase_key": torch.randint(2**32, (batch, 2), generator=g),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "size"), [(1, 3), (2, 14), (7, 28), (8, 9)])
def test_images_follow_the_equations(kind, batch, size):
    plan, args = example(batch, batch, kind), picture(batch, size)
    got, lam = mix(**plan, **args, mean=MEAN, std=STD)
    expected, weights = slow_images(plan=plan, **args)
    assert got.shape == (batch, 3, size, size) and got.dtype == torch.float32 and got.is_contiguous()
    assert np.abs(got.double().numpy() - expected).max() < 2e-6
    assert lam.tolist() == pytest.approx(weights, abs=1e-6) and lam.dtype == torch.float32


def test_erase_index_changes_nothing_but_the_work():
    args, plan = picture(6, 12), example(6)
    with_box = args["erase_box"][:, 2].nonzero().flatten()
    whole, _ = mix(**plan, **args, mean=MEAN, std=STD)
    assert torch.equal(mix(**plan, **args, erase_index=with_box, mean=MEAN, std=STD)[0], whole)
    none = {**args, "erase_box": torch.zeros(6, 4, dtype=torch.int64)}
    plain, _ = mix(**plan, **none, erase_index=with_box[:0], mean=MEAN, std=STD)
    assert torch.equal(plain, mix(args["images"], **plan, mean=MEAN, std=STD)[0])


@pytest.mark.parametrize("size", [12, 150])  # all in one draw; several draws, large boxes alone
def test_erasing_by_sample_and_by_box_fill_the_same_pixels(size):
    args, index = picture(9, size), torch.tensor([0, 1, 2, 4, 5, 7, 8])  # 0 has no box
    by_box, by_sample = (torch.zeros(9, 3, size, size) for _ in range(2))
    _erase_boxes(by_box, args["erase_box"], args["erase_key"], index)
    _erase_samples(by_sample, args["erase_box"], args["erase_key"], index)
    assert by_box.any() and torch.equal(by_box, by_sample)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([_DRAWN - 1, 1], [(0, 2)]),
        ([_DRAWN, 1, 2], [(0, 1), (1, 3)]),
        ([3, 2 * _DRAWN, 4], [(0, 1), (1, 2), (2, 3)]),
        ([0, 2 * _DRAWN, 0, 0], [(0, 2), (2, 4)]),
    ],
)
def test_boxes_are_drawn_together_up_to_a_limit(counts, expected):
    assert list(_drawn_together(counts)) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [3, 14, 33])
def test_mixing_one_by_one_and_at_once_is_the_same_to_the_bit(size, dtype):
    plan, clean = example(12, size), torch.randn(12, 3, size, size)
    plan["lam"][:3] = torch.tensor([0.0, 1.0, math.nan])
    plan["cutmix"][:3] = False
    plan["partner"] = torch.arange(12).roll(1)
    lam, box = corrected(**plan, size=size)
    one_by_one, at_once = (
        f(clean, plan["partner"], lam, box, dtype) for f in (_mix_one_by_one, _mix_at_once)
    )
    torch.testing.assert_close(one_by_one, at_once, rtol=0, atol=0, equal_nan=True)
    assert one_by_one[2].isnan().all() and one_by_one.stride() == at_once.stride()
    with_mix, _ = mix(picture(12, size)["images"], **plan, mean=MEAN, std=STD, dtype=dtype)
    assert with_mix.dtype == dtype and with_mix[2].isnan().all()


@pytest.mark.parametrize("erased", [False, True])
def test_normalising_mixes_nothing(erased):
    args = picture(3, 5)
    if not erased:
        args = {"images": args["images"]}
    got = normalise(**args, mean=MEAN, std=STD)
    assert np.abs(got.double().numpy() - slow_images(**args)).max() < 1e-6
    assert got.is_contiguous()
    assert torch.equal(got, mix(**example(3, kind="alone"), **args, mean=MEAN, std=STD)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_results_are_float32_results_rounded_once(dtype):
    args, plan = picture(4, 14), example(4)
    whole, lam = mix(**plan, **args, mean=MEAN, std=STD)
    half, same = mix(**plan, **args, mean=MEAN, std=STD, dtype=dtype)
    assert torch.equal(half, whole.to(dtype)) and torch.equal(same, lam)
    assert torch.equal(
        normalise(**args, mean=MEAN, std=STD, dtype=dtype), normalise(**args, mean=MEAN, std=STD).to(dtype)
    )


def test_weights_of_zero_and_one_give_exactly_one_of_the_images():
    images = picture(2, 6)["images"]
    plan = torch.tensor([1, 0]), torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.bool), torch.rand(2, 2)
    got, lam = mix(images, *plan, mean=MEAN, std=STD)
    plain = normalise(images, mean=MEAN, std=STD)
    assert torch.equal(got[0], plain[0]) and torch.equal(got[1], plain[0])
    assert lam.tolist() == [1.0, 0.0]


def test_a_box_without_keys_is_refused():
    args = picture(2, 4)
    del args["erase_key"]
    with pytest.raises(ValueError, match="erase_key"):
        normalise(**args, mean=MEAN, std=STD)
    with pytest.raises(ValueError, match="erase_key"):
        mix(**example(2), **args, mean=MEAN, std=STD)


@pytest.mark.gpu
def test_nothing_waits_for_the_device():
    plan = {name: value.cuda() for name, value in example(8).items()}
    args = {name: value.cuda() for name, value in picture(8, 14).items()}
    mix(**plan, **args, mean=MEAN, std=STD)  # the first pass may load kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        mix(**plan, **args, mean=MEAN, std=STD)
        normalise(**args, mean=MEAN, std=STD)
    finally:
        torch.cuda.set_sync_debug_mode("default")
