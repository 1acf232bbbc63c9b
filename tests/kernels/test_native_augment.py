"""The C++ augmentation against the reference: every operation, size, instruction set; any threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from fastsemi.kernels.reference.augment import WARP_OPS, apply_op
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS

_native = pytest.importorskip("fastsemi._native", reason="the native operator was not built")

FILL = (124, 16, 203)
NONE = -1
SHAPES = ((1, 1), (1, 9), (9, 1), (2, 2), (3, 3), (14, 14), (32, 32), (97, 61), (61, 97), (224, 224))
KERNELS = _native.available_augment_kernels()
# Arguments at the ends of their range and where a case of its own begins.
CORNERS = {
    "posterize": (0, 8),
    "solarize": (0, 0.5, 255.5, 256),
    "solarize_add": (0, 128),
    "rotate": (0, 90, -90, 180, 0.001, 359.9, -1e4),
    "shear_x": (0, 1, -1.5, 1e30),
    "shear_y": (0, 1, -1.5, -1e30),
    "translate_x": (0, 0.5, -0.5, 1, -1.2, 1e30),
    "translate_y": (0, 0.5, -0.5, 1, -1.2, -1e30),
}


def pictures(count, height, width, seed=0):
    """Photographs, noise, and a constant image: [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    photos, out = load_sample_images().images, np.empty((count, height, width, 3), np.uint8)
    for i in range(count):
        photo = photos[i % 2]
        top, left = (
            int(rng.integers(n - size + 1)) for n, size in zip(photo.shape, (height, width), strict=False)
        )
        out[i] = photo[top : top + height, left : left + width]
    out[2::5] = rng.integers(0, 256, out[2::5].shape)
    out[4::10] = 77
    return out


def random_args(name, count, rng):
    u, sign = rng.random(count), rng.choice((-1, 1), count)
    ranges = {
        "posterize": 9 * u // 1,
        "solarize": 257 * u // 1,
        "solarize_add": 129 * u // 1,
        "rotate": sign * u * 60,
    }
    args = ranges.get(name, sign * u * 0.6 if name in WARP_OPS else 2 * u)
    corners = CORNERS.get(name, (0, 1) if name not in ("autocontrast", "equalize", "invert") else ())
    args[: len(corners)] = corners
    return args.astype(np.float32)


def run(images, op, arg, *, kernels="", threads=1):
    """Operations and arguments [L, B], or one operation for all."""
    out = np.empty_like(images)
    op = np.full((1, len(images)), op) if np.isscalar(op) else op
    _native.Augmenter(threads, kernels).run(images, op, np.atleast_2d(arg), FILL, out)
    return out


def random_layers(count, layers, seed=0):
    rng = np.random.default_rng(seed)
    op = rng.integers(NONE, len(RANDAUGMENT_OPS), (layers, count))
    arg = np.zeros((layers, count), np.float32)
    for position, code in np.ndenumerate(op):
        if code != NONE:
            arg[position] = random_args(RANDAUGMENT_OPS[code], 16, rng)[-1]
    return op, arg


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", RANDAUGMENT_OPS)
def test_operations_equal_the_reference(name, shape):
    count = 12 if shape[0] < 224 else 7
    images, args = pictures(count, *shape), random_args(name, count, np.random.default_rng(shape[0]))
    expected = apply_op(name, torch.from_numpy(images), torch.from_numpy(args), fill=FILL).numpy()
    out = run(images, RANDAUGMENT_OPS.index(name), args)
    difference = np.abs(out.astype(int) - expected)
    if name in WARP_OPS:
        # A last bit depends on whether PyTorch's own sums are fused, which is not the same in all its builds.
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 1e-5 * difference.size + 1
    else:
        assert difference.max() == 0


@pytest.mark.parametrize("kernels", KERNELS[1:])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_instruction_sets_give_the_same_bytes(kernels, shape):
    for code, name in enumerate(RANDAUGMENT_OPS):
        images = pictures(6, *shape, seed=code)
        args = random_args(name, 12, np.random.default_rng(code))[-6:]
        np.testing.assert_array_equal(run(images, code, args, kernels=kernels), run(images, code, args), name)
    images, (op, arg) = pictures(12, *shape), random_layers(12, 5)
    np.testing.assert_array_equal(run(images, op, arg, kernels=kernels), run(images, op, arg))


@pytest.mark.parametrize("shape", ((3, 3), (14, 14), (32, 47)))
def test_many_layers_equal_one_after_the_other(shape):
    # Pointwise operations in a row are one lookup, and histograms see through it.
    images, (op, arg) = pictures(200, *shape), random_layers(200, 6, seed=shape[1])
    expected = images
    for layer in range(len(op)):
        expected = run(expected, op[layer : layer + 1], arg[layer : layer + 1])
    np.testing.assert_array_equal(run(images, op, arg), expected)


def test_one_and_eight_threads_give_the_same_bytes():
    images, (op, arg) = pictures(37, 61, 97), random_layers(37, 3)
    expected, team = run(images, op, arg), _native.Augmenter(8)
    for _ in range(20):
        out = np.empty_like(images)
        team.run(images, op, arg, FILL, out)
        np.testing.assert_array_equal(out, expected)


def test_in_place_and_input_unchanged():
    images, (op, arg) = pictures(9, 33, 20), random_layers(9, 3)
    before = images.copy()
    expected = run(images, op, arg)
    np.testing.assert_array_equal(images, before)
    _native.Augmenter(2).run(images, op, arg, FILL, images)
    np.testing.assert_array_equal(images, expected)


def test_no_images_and_no_layers():
    none = np.zeros((0, 8, 8, 3), np.uint8)
    assert run(none, np.zeros((2, 0), np.int64), np.zeros((2, 0), np.float32)).shape == none.shape
    images = pictures(3, 8, 8)
    np.testing.assert_array_equal(
        run(images, np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32)), images
    )


IMAGES, OP, ARG = pictures(2, 4, 4), np.zeros((1, 2), np.int64), np.zeros((1, 2), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES.astype(np.float32)}, "uint8"),
        ({"images": IMAGES[:, :, ::2]}, "C-contiguous"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "B, H, W, 3"),
        ({"images": "pixels"}, "uint8"),
        ({"out": np.empty((2, 4, 5, 3), np.uint8)}, "one shape"),
        ({"out": np.empty((3, 4, 4, 3), np.uint8)}, "one shape"),
        ({"images": IMAGES.reshape(2, 4, 2, 6), "out": IMAGES.reshape(2, 4, 2, 6)}, "B, H, W, 3"),
        ({"images": IMAGES[:, :0], "out": IMAGES[:, :0]}, "sides"),
        ({"op": OP.astype(np.int32)}, "int64"),
        ({"op": OP.astype(np.float32)}, "int64"),
        ({"op": OP[0]}, "int64"),
        ({"op": OP[:, :1]}, "L, B"),
        ({"op": OP + 15}, "-1 to 14"),
        ({"op": OP - 2}, "-1 to 14"),
        ({"op": OP + 2**40}, "-1 to 14"),
        ({"arg": ARG.astype(np.float64)}, "float32"),
        ({"arg": np.zeros((2, 2), np.float32)}, "L, B"),
        ({"arg": ARG + np.nan}, "finite"),
        ({"arg": ARG + np.inf}, "finite"),
        ({"op": OP + 4, "arg": ARG + 9}, "8 bits"),
        ({"op": OP + 5, "arg": ARG - 1}, "threshold"),
        ({"op": OP + 6, "arg": ARG + 129}, "128"),
        ({"fill": (1, 2)}, "fill"),
        ({"fill": (1, 2, 256)}, "fill"),
        ({"fill": None}, "fill"),
    ],
)
def test_wrong_input_is_refused_in_one_line(change, message):
    given = {"images": IMAGES, "op": OP, "arg": ARG, "fill": FILL, "out": np.empty_like(IMAGES)} | change
    with pytest.raises(ValueError, match=message) as caught:
        _native.Augmenter(1).run(**given)
    assert "\n" not in str(caught.value)


def test_overlapping_and_read_only_memory_is_refused():
    memory = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="overlap"):
        _native.Augmenter(1).run(memory[:2], OP, ARG, FILL, memory[1:])
    memory.flags.writeable = False
    with pytest.raises(ValueError, match="images and out"):
        _native.Augmenter(1).run(IMAGES, OP, ARG, FILL, memory[:2])


def test_wrong_options_are_refused():
    for threads in (0, -1, 10**6):
        with pytest.raises(ValueError, match="threads"):
            _native.Augmenter(threads)
    with pytest.raises(ValueError, match="this CPU cannot run"):
        _native.Augmenter(1, "mmx")


def test_an_argument_that_is_not_used_may_be_anything():
    np.testing.assert_array_equal(run(IMAGES, NONE, np.array([np.nan, np.inf], np.float32)), IMAGES)


def test_an_operator_of_the_parent_is_refused_after_a_fork_and_hangs_nothing():
    # In a process of its own: a fork copies whatever threads pytest has.
    code = f"""
import os, sys
import numpy as np
from fastsemi import _native
team = _native.Augmenter(3)
images = np.zeros((8, 4, 4, 3), np.uint8)
arguments = (images, np.zeros((1, 8), np.int64), np.zeros((1, 8), np.float32), {FILL}, images)
team.run(*arguments)
child = os.fork()
if child == 0:
    try:
        team.run(*arguments)
    except RuntimeError:
        del team
        _native.Augmenter(2).run(*arguments)
        os._exit(7)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", code], timeout=60, env=environment).returncode == 7
