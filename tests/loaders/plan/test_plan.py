import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import CenterCrop, RandomResizedCrop, Resize

from fastsemi.common.errors import UserError
from fastsemi.loaders.plan.draws import (
    AugmentConfig,
    View,
    epoch_order,
    plan_mix,
    plan_view,
)
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.plan.philox import philox4x32, uniform, words
from fastsemi.loaders.plan.randaugment import parse_randaugment
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS
from fastsemi.loaders.plan.windows import centre_crop, random_resized_crop, resized_centre


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known-answer tests published with Random123
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, expected):
    out = philox4x32(np.array(counter, dtype=np.uint64)[:, None], key)
    assert tuple(out[:, 0].tolist()) == expected


def test_words_depend_on_each_coordinate_and_on_nothing_else():
    ids = np.array([3, 7, 11])
    base = words(1, 2, ids, 5, 10)
    np.testing.assert_array_equal(words(1, 2, ids[::-1], 5, 10), base[::-1])
    np.testing.assert_array_equal(words(1, 2, ids, 5, 6), base[:, :6])
    for other in (words(2, 2, ids, 5, 10), words(1, 3, ids, 5, 10), words(1, 2, ids, 6, 10)):
        assert not (other == base).any()
    assert not (words(1 + 2**40, 2, ids, 5, 10) == base).any(), "the upper half of the seed counts"


def test_uniforms_are_uniform():
    u = uniform(words(0, 0, np.arange(5000), 0, 8))
    counts, _ = np.histogram(u, bins=20, range=(0, 1))
    expected = u.size / 20
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 43.8, "99.9 % quantile of chi-square with 19 degrees of freedom"
    assert u.min() > 0 and u.max() < 1


def _plan(config, ids, *, seed=0, epoch=0, view=View.STRONG, size=(500, 375)):
    ids = np.asarray(ids)
    sizes = np.tile(np.array([size], dtype=np.int32), (len(ids), 1))
    epochs = np.full(len(ids), epoch)
    return plan_view(config, seed=seed, epoch=epochs, ids=ids, view=view, sizes=sizes, image_size=224)


def test_a_sample_is_planned_alike_in_every_batch():
    config = AugmentConfig(color_jitter=0.4)
    whole, part = _plan(config, range(64)), _plan(config, [40, 3])
    for a, b in (
        (whole.window, part.window),
        (whole.flip, part.flip),
        (whole.color.factor, part.color.factor),
        (whole.randaugment.op, part.randaugment.op),
        (whole.randaugment.arg, part.randaugment.arg),
        (whole.erase.box, part.erase.box),
        (whole.erase.key, part.erase.key),
    ):
        np.testing.assert_array_equal(a[[40, 3]], b)
    assert not (_plan(config, range(64), epoch=1).window == whole.window).all(1).any()
    assert not (_plan(config, range(64), view=View.WEAK).window == whole.window).all(1).any()


@pytest.mark.parametrize("size", [(500, 375), (1, 1), (3, 900), (900, 3), (40, 41)])
def test_windows_lie_inside_and_follow_torchvision(size):
    area, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    count = 4000
    sizes = np.tile(np.array([size], dtype=np.int32), (count, 1))
    windows = random_resized_crop(uniform(words(0, 0, np.arange(count), 0, 23)), sizes, area, ratio)
    left, top, width, height = windows.T
    assert (left >= 0).all() and (top >= 0).all() and (width > 0).all() and (height > 0).all()
    assert (left + width <= size[0]).all() and (top + height <= size[1]).all()
    image = torch.empty(3, size[1], size[0])
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, area, ratio) for _ in range(count)])
    for ours, column in ((top, 0), (left, 1), (height, 2), (width, 3)):
        spread = max(theirs[:, column].std(), 1e-9)
        assert abs(ours.mean() - theirs[:, column].mean()) <= 5 * spread * (2 / count) ** 0.5 + 1e-9
        if max(size) > 100:
            assert abs(ours.std() - spread) <= 0.1 * spread + 1e-6


def test_flip_probability_and_extremes():
    flips = _plan(AugmentConfig(flip=0.5), range(4000)).flip
    assert abs(flips.mean() - 0.5) < 0.03
    assert not _plan(AugmentConfig(flip=0.0), range(100)).flip.any()
    assert _plan(AugmentConfig(flip=1.0), range(100)).flip.all()


def test_randaugment_draws_what_timm_draws():
    plan = _plan(AugmentConfig(), range(6000)).randaugment
    assert plan.op.shape == (6000, 2)
    assert abs((plan.op < 0).mean() - 0.5) < 0.02, "each layer is applied with probability 1/2"
    used = plan.op[plan.op >= 0]
    share = np.bincount(used, minlength=15) / used.size
    assert np.abs(share - 1 / 15).max() < 0.012
    by_name = {name: plan.arg[plan.op == i] for i, name in enumerate(RANDAUGMENT_OPS)}
    assert set(by_name["posterize"]) <= {0, 1} and (by_name["solarize"] < 80).all()
    assert abs(np.abs(by_name["rotate"]).mean() - 27) < 0.5
    assert np.abs(by_name["rotate"]).max() <= 30 and (by_name["rotate"] < 0).any()
    assert np.abs(by_name["shear_x"]).max() <= 0.3 + 1e-6
    assert np.abs(by_name["translate_y"]).max() <= 0.45 + 1e-6
    brightness = by_name["brightness"]
    assert brightness.min() >= 0.1 and brightness.max() <= 1.9 + 1e-6
    assert abs((brightness > 1).mean() - 0.5) < 0.1


@pytest.mark.parametrize("text", ["rand-m9", "augmix-m3-inc1", "rand-m9-x3-inc1", "rand-mm9-inc1"])
def test_other_policies_are_refused(text):
    with pytest.raises(UserError, match=r"rand-m9-mstd0\.5-inc1"):
        parse_randaugment(text)


def test_erasing_follows_timm():
    plan = _plan(AugmentConfig(erase=0.25), range(8000)).erase
    boxed = plan.box[plan.box[:, 2] > 0]
    assert abs(len(boxed) / 8000 - 0.25) < 0.02
    assert (boxed[:, :2] >= 0).all() and (boxed[:, :2] + boxed[:, 2:] <= 224).all()
    areas = boxed[:, 2] * boxed[:, 3] / 224**2
    assert areas.min() > 0.015 and areas.max() < 0.34

    import random

    random.seed(0)
    torch.manual_seed(0)
    eraser = RandomErasing(probability=1.0, mode="const", device="cpu")
    theirs = []
    for _ in range(400):
        image = torch.ones(1, 3, 224, 224)
        eraser(image)
        theirs.append(float((image[0, 0] == 0).float().mean()))
    assert abs(np.mean(theirs) - areas.mean()) < 0.02


def test_mixing_partners_permute_the_micro_batch():
    ids = np.arange(100, 164)
    epoch = np.zeros(64, dtype=np.int64)
    plan = plan_mix(MixConfig(0.8, 1.0), seed=0, epoch=epoch, ids=ids, view=View.STRONG)
    np.testing.assert_array_equal(np.sort(plan.partner), np.arange(64))
    assert 0.2 < plan.cutmix.mean() < 0.8
    assert (plan.lam >= 0).all() and (plan.lam <= 1).all() and plan.centre.max() < 1
    only = plan_mix(MixConfig(0.8, 0.0), seed=0, epoch=epoch, ids=ids, view=View.STRONG)
    assert not only.cutmix.any()
    assert plan_mix(MixConfig(0.0, 0.0), seed=0, epoch=epoch, ids=ids, view=View.STRONG) is None


def test_one_draw_for_a_micro_batch_in_reverse_order():
    zeros = np.zeros(6, dtype=np.int64)
    config = MixConfig(0.8, 1.0, box="even", per_batch=True, partners="reversed")
    plans = [
        plan_mix(config, seed=0, epoch=zeros, ids=np.arange(i, i + 6), view=View.LABELLED) for i in range(60)
    ]
    for plan in plans:
        np.testing.assert_array_equal(plan.partner, [5, 4, 3, 2, 1, 0])
        assert plan.even and len({*plan.lam}) == len({*plan.cutmix}) == len({*map(tuple, plan.centre)}) == 1
    assert 0.3 < np.mean([plan.cutmix[0] for plan in plans]) < 0.7
    assert len({float(plan.lam[0]) for plan in plans}) == 60


def test_beta_draws_have_the_right_moments():
    ids = np.arange(20000)
    zeros = np.zeros_like(ids)
    lam = plan_mix(MixConfig(0.8, 0.0), seed=0, epoch=zeros, ids=ids, view=View.STRONG).lam
    assert abs(lam.mean() - 0.5) < 0.01
    assert abs(lam.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.003


def test_orders_are_permutations_and_differ_between_passes():
    a, b = epoch_order(0, View.STRONG, 0, 1000), epoch_order(0, View.STRONG, 1, 1000)
    np.testing.assert_array_equal(np.sort(a), np.arange(1000))
    assert (a == b).mean() < 0.02


def test_centre_crop():
    windows = centre_crop(np.array([[500, 375], [8, 8], [1, 50]], dtype=np.int32), 0.875)
    np.testing.assert_array_equal(windows[0], [86, 23, 328, 328])
    np.testing.assert_array_equal(windows[1:, 2:], [[7, 7], [1, 1]])


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (64, 64), (301, 97), (31, 400)])
def test_the_centre_of_a_resized_image_is_torchvisions(size):
    image = Image.new("RGB", size)
    resized, window = resized_centre(np.array([size], np.int32), 0.875, 224)
    theirs = Resize(256)(image)
    assert tuple(resized[0]) == theirs.size
    marked = np.zeros((theirs.height, theirs.width), np.int64)
    marked.flat = np.arange(marked.size)
    left, top, width, height = window[0]
    cut = CenterCrop(224)(torch.from_numpy(marked)[None])[0].numpy()
    np.testing.assert_array_equal(marked[top : top + height, left : left + width], cut)
    with_broken, _ = resized_centre(np.array([(0, 0), size], np.int32), 0.875, 224)
    np.testing.assert_array_equal(with_broken, [(0, 0), resized[0]])


@pytest.mark.parametrize(
    "values", [{"area": (0.5, 0.2)}, {"area": (0.0, 1.0)}, {"flip": 1.5}, {"erase": -0.1}]
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(UserError, match=next(iter(values))):
        AugmentConfig(**values)
