"""Mixing against a transcription of the equations, sample by sample and pixel by pixel in fp64."""

import math

import numpy as np
import pytest
import torch

from fastsemi.common.errors import UserError
from fastsemi.kernels.reference.mix import (
    _erase_boxes,
    _erase_samples,
    labelled_mix_weights,
    mix_images,
    mix_weights,
)
from fastsemi.kernels.reference.noise import erase_noise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def slow_box(lam, x, y, size):
    side = int(size * math.sqrt(1 - lam))
    cx, cy = int(size * x), int(size * y)
    left, right = max(cx - side // 2, 0), min(cx + (side + 1) // 2, size)
    top, bottom = max(cy - side // 2, 0), min(cy + (side + 1) // 2, size)
    return [left, top, right - left, bottom - top] if side else [0, 0, 0, 0]


def slow_weights(mode, confidence, partner, cutmix, centre, lam, threshold, size):
    """Section 3 of the paper, one sample at a time: rows of (partner, lam, box, confidence, keep)."""
    clean = [p for p in partner if confidence[p] >= threshold]
    rows = []
    for i, o in enumerate(confidence):
        j, ratio, keep = partner[i], lam[i], o >= threshold
        if mode == "none":
            j = i
        elif mode == "pseudo_plus":
            j = clean[(clean.index(i) + 1) % len(clean)] if i in clean else i
        elif mode == "prob":
            ratio = o / (o + confidence[j])
            o = max(o, confidence[j])
            keep = o >= threshold
        box = [0, 0, 0, 0]
        if j == i:
            ratio = 1.0
        elif cutmix[i]:
            box = slow_box(ratio, *centre[i], size)
            ratio = 1 - box[2] * box[3] / size**2
        rows.append((j, ratio, box, o, keep))
    return rows


def slow_images(images, weights, flip, erase_box, erase_key, mean, std):
    """Flip, normalise, erase, mix in fp64, one image at a time."""
    size = images.shape[1]
    noise = None if erase_key is None else erase_noise(erase_key, size, "cpu").double().numpy()
    clean = []
    for i, image in enumerate(images.double().numpy()):
        if flip is not None and flip[i]:
            image = image[:, ::-1]
        image = (image / 255 - np.array(mean)) / np.array(std)
        if erase_box is not None:
            left, top, width, height = erase_box[i].tolist()
            where = np.s_[top : top + height, left : left + width]
            image[where] = noise[i][where]
        clean.append(image)
    if weights is None:
        return np.stack(clean).transpose(0, 3, 1, 2)
    mixed = []
    for i, image in enumerate(clean):
        other, lam = clean[int(weights.partner[i])], weights.lam[i].item()
        left, top, width, height = weights.box[i].tolist()
        if width:
            where = np.s_[top : top + height, left : left + width]
            image = image.copy()
            image[where] = other[where]
        else:
            image = image * lam + other * (1 - lam)
        mixed.append(image)
    return np.stack(mixed).transpose(0, 3, 1, 2)


def example(batch, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "confidence": torch.rand(batch, generator=g) * 0.9 + 0.05,
        "partner": torch.randperm(batch, generator=g),
        "cutmix": torch.rand(batch, generator=g) < 0.5,
        "centre": torch.rand(batch, 2, generator=g),
        "lam": torch.rand(batch, generator=g),
    }


def assert_follows(got, expected):
    partner, lam, box, confidence, keep = zip(*expected, strict=True)
    assert got.partner.tolist() == list(partner)
    assert got.box.tolist() == [list(b) for b in box]
    assert got.lam.tolist() == pytest.approx(lam, abs=1e-6)
    assert got.confidence.tolist() == pytest.approx(confidence)
    assert got.keep.tolist() == list(keep)
    assert (got.lam.dtype, got.box.dtype, got.keep.dtype) == (torch.float32, torch.int64, torch.bool)


@pytest.mark.parametrize("mode", ["none", "pseudo", "pseudo_plus", "prob"])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
@pytest.mark.parametrize(("batch", "size"), [(1, 3), (2, 14), (9, 98), (33, 7)])
def test_weights_follow_the_equations(mode, threshold, batch, size):
    plan = example(batch, seed=batch)
    got = mix_weights(mode, **plan, threshold=threshold, size=size)
    plain = {name: value.tolist() for name, value in plan.items()}
    assert_follows(got, slow_weights(mode, **plain, threshold=threshold, size=size))


def test_labelled_weights_use_the_draw_and_keep_all():
    plan = example(17)
    plan["lam"][:3] = torch.tensor([0.0, 1.0, 0.999])
    got = labelled_mix_weights(plan["partner"], plan["cutmix"], plan["centre"], plan["lam"], 28)
    plain = {name: value.tolist() for name, value in plan.items()} | {"confidence": [1.0] * 17}
    assert_follows(got, slow_weights("pseudo", **plain, threshold=0.0, size=28))


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
    got = labelled_mix_weights(swap, both, torch.tensor([centre, centre]), torch.tensor([0.75, 0.75]), 10)
    assert got.box[0].tolist() == expected
    assert got.lam[0].item() == pytest.approx(1 - expected[2] * expected[3] / 100)


def test_equal_confidences_mix_half_and_half():
    plan = example(4) | {"confidence": torch.full((4,), 0.3), "partner": torch.tensor([1, 2, 3, 0])}
    plan["cutmix"][:] = False
    got = mix_weights("prob", **plan, threshold=0.3, size=8)
    assert got.lam.tolist() == [0.5] * 4 and got.keep.all()


def test_pseudo_plus_never_touches_a_noisy_sample_and_leaves_a_lone_clean_one():
    plan = example(40, seed=5)
    got = mix_weights("pseudo_plus", **plan, threshold=0.5, size=8)
    clean = plan["confidence"] >= 0.5
    assert torch.equal(got.keep, clean) and clean[got.partner[clean]].all()
    assert sorted(got.partner.tolist()) == list(range(40))
    plan["confidence"] = torch.full((40,), 0.1)
    plan["confidence"][7] = 0.9
    got = mix_weights("pseudo_plus", **plan, threshold=0.5, size=8)
    assert got.partner.tolist() == list(range(40)) and (got.lam == 1).all() and (got.box == 0).all()
    assert got.keep.nonzero().flatten().tolist() == [7]


def test_unknown_mode_names_the_known_ones():
    with pytest.raises(UserError, match=r"'probb'.*none, pseudo, pseudo_plus, prob"):
        mix_weights("probb", **example(2), threshold=0.5, size=8)


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
        "flip": torch.rand(batch, generator=g) < 0.5,
        "erase_box": box,
        "erase_key": torch.randint(2**32, (batch, 2), generator=g),
    }


@pytest.mark.parametrize("mode", ["none", "pseudo", "pseudo_plus", "prob"])
@pytest.mark.parametrize(("batch", "size"), [(1, 3), (2, 14), (7, 28), (8, 9)])
def test_images_follow_the_equations(mode, batch, size):
    weights = mix_weights(mode, **example(batch, seed=batch), threshold=0.4, size=size)
    args = picture(batch, size)
    got = mix_images(args.pop("images"), weights, **args, mean=MEAN, std=STD)
    args = picture(batch, size)
    expected = slow_images(args.pop("images"), weights, **args, mean=MEAN, std=STD)
    assert got.shape == (batch, 3, size, size) and got.dtype == torch.float32 and got.is_contiguous()
    assert np.abs(got.double().numpy() - expected).max() < 2e-6


def test_erase_index_changes_nothing_but_the_work():
    args = picture(6, 12)
    weights = mix_weights("prob", **example(6), threshold=0.4, size=12)
    with_box = args["erase_box"][:, 2].nonzero().flatten()
    whole = mix_images(weights=weights, **args, mean=MEAN, std=STD)
    assert torch.equal(mix_images(weights=weights, **args, erase_index=with_box, mean=MEAN, std=STD), whole)
    none = {**args, "erase_box": torch.zeros(6, 4, dtype=torch.int64)}
    plain = mix_images(weights=weights, **none, erase_index=with_box[:0], mean=MEAN, std=STD)
    assert torch.equal(plain, mix_images(args["images"], weights, flip=args["flip"], mean=MEAN, std=STD))


def test_erasing_by_sample_and_by_box_fill_the_same_pixels():
    args, index = picture(6, 12), torch.tensor([1, 2, 4, 5])
    by_box, by_sample = (torch.zeros(6, 3, 12, 12) for _ in range(2))
    _erase_boxes(by_box, args["erase_box"], args["erase_key"], index)
    _erase_samples(by_sample, args["erase_box"], args["erase_key"], index)
    assert by_box.any() and torch.equal(by_box, by_sample)


def test_without_weights_images_are_only_normalised():
    images = picture(3, 5)["images"]
    got = mix_images(images, None, mean=MEAN, std=STD)
    expected = slow_images(images, None, None, None, None, MEAN, STD)
    assert np.abs(got.double().numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_results_are_float32_results_rounded_once(dtype):
    args = picture(4, 14)
    weights = mix_weights("prob", **example(4), threshold=0.4, size=14)
    whole = mix_images(weights=weights, **args, mean=MEAN, std=STD)
    assert torch.equal(mix_images(weights=weights, **args, mean=MEAN, std=STD, dtype=dtype), whole.to(dtype))


def test_weights_of_zero_and_one_give_exactly_one_of_the_images():
    images = picture(2, 6)["images"]
    plan = torch.tensor([1, 0]), torch.zeros(2, dtype=torch.bool), torch.rand(2, 2), torch.tensor([1.0, 0.0])
    got = mix_images(images, labelled_mix_weights(*plan, 6), mean=MEAN, std=STD)
    plain = mix_images(images, None, mean=MEAN, std=STD)
    assert torch.equal(got[0], plain[0]) and torch.equal(got[1], plain[0])


def test_a_box_without_keys_is_refused():
    args = picture(2, 4)
    del args["erase_key"]
    with pytest.raises(ValueError, match="erase_key"):
        mix_images(weights=None, **args, mean=MEAN, std=STD)


@pytest.mark.gpu
def test_nothing_waits_for_the_device():
    plan = {name: value.cuda() for name, value in example(8).items()}
    args = {name: value.cuda() for name, value in picture(8, 14).items()}
    for mode in ("none", "pseudo", "pseudo_plus", "prob"):  # the first pass may load kernels
        weights = mix_weights(mode, **plan, threshold=0.4, size=14)
        mix_images(weights=weights, **args, mean=MEAN, std=STD)
        torch.cuda.set_sync_debug_mode("error")
        try:
            weights = mix_weights(mode, **plan, threshold=0.4, size=14)
            mix_images(weights=weights, **args, mean=MEAN, std=STD)
        finally:
            torch.cuda.set_sync_debug_mode("default")
