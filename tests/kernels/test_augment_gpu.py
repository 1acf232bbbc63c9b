"""On a GPU the augmentation in PyTorch gives the pixels of the CPU, and nothing waits for the device."""

import contextlib

import numpy as np
import pytest
import torch

from fastsemi.kernels.augment.cpu import augment_view
from fastsemi.kernels.reference.augment import WARP_OPS, apply_op
from fastsemi.loaders.plan.draws import AugmentConfig, View, plan_view
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS

FILL = (124, 116, 104)
SIZE, COUNT = 128, 32


@contextlib.contextmanager
def no_waits():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def planned(count):
    """Colour jitter and RandAugment as training draws them."""
    ids, config = np.arange(count), AugmentConfig(color_jitter=0.4)
    options = {"view": View.STRONG, "config": config, "image_size": SIZE}
    return plan_view(
        seed=0, epoch=np.zeros_like(ids), ids=ids, sizes=np.full((count, 2), SIZE, np.int32), **options
    )


@pytest.fixture(scope="module")
def images(photo):
    return torch.from_numpy(np.stack([np.asarray(photo(SIZE, SIZE, i)) for i in range(COUNT)]))


def test_every_operation_is_planned():
    drawn = planned(1000).randaugment
    assert set(drawn.op.ravel().tolist()) == {-1, *range(len(RANDAUGMENT_OPS))}


@pytest.mark.gpu
def test_a_view_agrees(images):
    plan, there = planned(COUNT), images.cuda()
    expected = augment_view(images, plan, fill=FILL)
    augment_view(there, plan, fill=FILL)
    with no_waits():
        out = augment_view(there, plan, fill=FILL)
    difference = (out.cpu().int() - expected.int()).abs()
    assert (difference > 1).float().mean() < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("name", RANDAUGMENT_OPS)
def test_an_operation_agrees(images, name):
    drawn = planned(1000).randaugment
    args = torch.from_numpy(drawn.arg[drawn.op == RANDAUGMENT_OPS.index(name)][:COUNT])
    expected = apply_op(name, images[: len(args)], args, fill=FILL)
    there, args = images[: len(args)].cuda(), args.cuda()
    with no_waits():
        out = apply_op(name, there, args, fill=FILL)
    difference = (out.cpu().int() - expected.int()).abs()
    assert difference.max() <= (1 if name in WARP_OPS else 0)
    assert difference.float().mean() < 1e-3
