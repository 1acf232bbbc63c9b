"""The augmentation kernels against the reference, operation by operation and in chains."""

import itertools
import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from fastsemi.kernels.augment import operator as triton_augment
from fastsemi.kernels.augment.cpu import augment_view
from fastsemi.kernels.augment.passes import WARPS, schedule
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS, ColorPlan, RandAugmentPlan, ViewPlan

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a CUDA GPU or TRITON_INTERPRET=1"
)

FILL = (124, 16, 203)
FACTORS = (0.0, 0.1, 0.19, 0.73, 1.0, 1.3, 1.9, 2.0)
SHEARS = (0.0, 0.3, -0.27, -1.5)
SHIFTS = (0.0, 0.45, -0.405, 0.5, -1.2)
ARGS = {
    "posterize": (0.0, 1.0, 3.0, 8.0),
    "solarize": (0.0, 1.0, 26.0, 128.0, 256.0),
    "solarize_add": (0.0, 1.0, 110.0, 128.0),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), FACTORS),
    "rotate": (0.0, 27.0, -27.3, 90.0, 180.0, 45.0, 359.9),
    **dict.fromkeys(("shear_x", "shear_y"), SHEARS),
    **dict.fromkeys(("translate_x", "translate_y"), SHIFTS),
}


def pictures(batch, height, width, seed=0):
    """Noise, smooth, dark and constant images in turn."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (batch, height, width, 3))
    y, x, _ = np.mgrid[:height, :width, :3]
    smooth = 127 + 60 * np.sin(x / 5 + y / 9) + 60 * np.sin(y / 3 - x / 30)
    kinds = noise, smooth[None] + noise / 64, (noise / 256) ** 4 * 255, np.full_like(noise, 77)
    images = np.stack([kinds[i % 4][i % len(kinds[i % 4])] for i in range(batch)])
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)).to(DEVICE)


def view(op, arg, color=None):
    """A plan of RandAugment layers [B, L]."""
    op, arg = np.asarray(op, np.int64), np.asarray(arg, np.float32)
    layers = RandAugmentPlan(op, arg)
    return ViewPlan(np.zeros((len(op), 4), np.int32), np.zeros(len(op), bool), color, layers)


def differences(images, plan):
    before = images.clone()
    got = triton_augment.augment(images, plan, fill=FILL)
    assert torch.equal(images, before), "the input was modified"
    expected = augment_view(images.cpu(), plan, fill=FILL)
    assert got.dtype == torch.uint8 and got.shape == expected.shape and got.is_contiguous()
    return (got.cpu().int() - expected.int()).abs()


def every(names, shape, tried):
    """Differences of operations with the arguments `tried`, all of them in one batch."""
    pairs = [
        (RANDAUGMENT_OPS.index(name), arg) for name in names for arg in ARGS.get(name, (0.0,) * 8)[tried]
    ]
    op, arg = ([[pair[i]] for pair in pairs] for i in range(2))
    return differences(pictures(len(pairs), *shape, seed=shape[1]), view(op, arg))


# Sizes below, and of, 16 pixels a thread, which 16 must divide; one tile and several; not square.
@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (14, 14), (16, 16), (48, 52)])
def test_color_operations_equal_the_reference(shape):
    names = [name for name in RANDAUGMENT_OPS if name not in WARPS]
    assert not every(names, shape, slice(1, 5, 3)).any()


def test_warps_follow_the_reference():
    shapes = ((1, 1), (3, 3), (7, 18))
    found = torch.cat([every(WARPS, shape, slice(1, 4, 2)).flatten() for shape in shapes])
    assert found.max() <= 1
    assert found.float().mean() < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_argument():
    assert not every([name for name in RANDAUGMENT_OPS if name not in WARPS], (4, 8), slice(None)).any()
    assert not every([name for name in WARPS if name != "rotate"], (8, 12), slice(None)).any()
    assert every(("rotate",), (8, 12), slice(None)).max() <= 1


def test_two_layers_of_every_kind_of_pass():
    kinds = ("equalize", "contrast", "invert", "shear_y")
    codes = [-1, *map(RANDAUGMENT_OPS.index, kinds)]
    op = np.array(list(itertools.product(codes, codes)))
    assert not differences(pictures(len(op), 4, 4), view(op, np.full(op.shape, 0.3))).any()


@pytest.mark.parametrize("shape", [(8, 8), (7, 7)])
def test_jitter_in_every_order_and_then_layers(shape):
    order = np.array(list(itertools.permutations(range(3))))
    factor = np.linspace(0.3, 1.9, order.size, dtype=np.float32).reshape(order.shape)
    color = ColorPlan(np.ascontiguousarray(factor), order)
    names = "contrast", "rotate", "equalize", "sharpness", "autocontrast", "color"
    op = np.array([[RANDAUGMENT_OPS.index(name), (2 * i - 3) % 15] for i, name in enumerate(names)])
    arg = np.full(op.shape, 0.25, np.float32)
    assert differences(pictures(6, *shape), view(op, arg, color)).max() <= 1
    jitter = ViewPlan(np.zeros((6, 4), np.int32), np.zeros(6, bool), color)
    assert not differences(pictures(6, *shape), jitter).any()


def test_nothing_planned_is_a_copy():
    images = pictures(3, 4, 4)
    for op in (np.zeros((3, 0)), np.full((3, 2), -1)):
        out = triton_augment.augment(images, view(op, np.zeros(op.shape)), fill=FILL)
        assert torch.equal(out, images) and out.data_ptr() != images.data_ptr()


def test_images_that_start_at_an_odd_byte_or_lie_apart():
    plan = view([[RANDAUGMENT_OPS.index(name)] for name in ("color", "sharpness")], [[0.5], [0.5]])
    storage = pictures(2, 8, 9).flatten()
    assert not differences(storage[5 : 5 + 2 * 8 * 8 * 3].view(2, 8, 8, 3), plan).any()
    assert not differences(pictures(4, 8, 8)[::2].transpose(1, 2), plan).any()


def test_wrong_arguments_are_refused():
    images, plan = pictures(2, 4, 4), view([[2], [2]], [[0.0], [0.0]])
    with pytest.raises(ValueError, match="uint8"):
        triton_augment.augment(images.float(), plan, fill=FILL)
    with pytest.raises(ValueError, match="rows does not fit 1 images"):
        triton_augment.augment(images[:1], plan, fill=FILL)


@pytest.mark.gpu
def test_gpu_agrees_at_training_size_and_is_not_waited_for():
    pairs = [(code, arg) for code, name in enumerate(RANDAUGMENT_OPS) for arg in ARGS.get(name, (0.0,) * 2)]
    op = np.array([[code, pairs[(7 * i) % len(pairs)][0]] for i, (code, _) in enumerate(pairs)])
    arg = np.array([[arg, pairs[(7 * i) % len(pairs)][1]] for i, (_, arg) in enumerate(pairs)])
    images = pictures(len(op), 224, 224)
    triton_augment.augment(images, view(op, arg), fill=FILL)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = triton_augment.augment(images, view(op, arg), fill=FILL)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = augment_view(images.cpu(), view(op, arg), fill=FILL)
    unequal = (out.cpu() != expected).float().mean((1, 2, 3)).numpy()
    warped = np.isin(op, [RANDAUGMENT_OPS.index(name) for name in WARPS]).any(1)
    assert not unequal[~warped].any()
    # A statistic or a steep function that follows a warp may spread its last bits further.
    assert np.median(unequal[warped]) < 1e-3


@pytest.mark.gpu
def test_operator_passes_the_checks_of_pytorch():
    op = np.array([[1, 3], [8, 10], [2, 0]]).T
    plan = schedule(op, np.full(op.shape, 0.5, np.float32), 16, 16, 1)
    rounds = [number for one in plan.rounds for number in one]
    images = pictures(3, 16, 16)
    args = images, *plan.to(images.device), rounds, plan.slots, list(FILL)
    torch.library.opcheck(torch.ops.fastsemi.augment.default, args)
