"""Planned views against the same operations of timm and torchvision, one image at a time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment
from torchvision.transforms import functional

from fastsemi.kernels.augment import cpu as augment
from fastsemi.kernels.augment.cpu import augment_view
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS, ColorPlan, RandAugmentPlan, ViewPlan

FILL = (124, 116, 104)
WARPS = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
TIMM = {
    "autocontrast": "auto_contrast",
    "translate_x": "translate_x_rel",
    "translate_y": "translate_y_rel",
}
# Arguments of magnitude about 9 as timm draws them; the sign of the starred ones is random.
STRONG = {
    "posterize": 1,
    "solarize": 26,
    "solarize_add": 99,
    "color": 1.81,
    "contrast": 0.19,
    "brightness": 1.79,
    "sharpness": 0.21,
    "rotate": 27.3,  # *
    "shear_x": 0.27,  # *
    "shear_y": 0.28,  # *
    "translate_x": 0.4051,  # *
    "translate_y": 0.39,  # *
}


@pytest.fixture(params=["native", "torch"], autouse=True)
def operator(request, monkeypatch):
    """All tests run with the C++ operator and with what takes its place where it was not built."""
    if request.param == "torch":
        monkeypatch.setattr(augment, "_native_operator", lambda threads: None)
    elif augment._native_operator(1) is None:
        pytest.skip("the native operator was not built")
    return request.param


def crops(count, size=224, seed=0):
    """Real pixels, [count, size, size, 3] uint8."""
    rng = np.random.default_rng(seed)
    pictures = load_sample_images().images
    out = []
    for i in range(count):
        picture = pictures[i % 2]
        top, left = (int(rng.integers(0, n - size + 1)) for n in picture.shape[:2])
        out.append(picture[top : top + size, left : left + size])
    return torch.from_numpy(np.stack(out))


def view(batch, color=None, randaugment=None):
    return ViewPlan(np.zeros((batch, 4), np.int32), np.zeros(batch, bool), color, randaugment)


def random_layers(batch, layers=2, seed=0):
    rng = np.random.default_rng(seed)
    op = rng.integers(-1, len(RANDAUGMENT_OPS), (batch, layers))
    arg = np.zeros((batch, layers), np.float32)
    for position, code in np.ndenumerate(op):
        name = RANDAUGMENT_OPS[code]
        sign = rng.choice((-1, 1)) if name in WARPS else 1
        arg[position] = sign * STRONG.get(name, 0)
    return RandAugmentPlan(op, arg)


def random_jitter(batch, seed=0):
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(3), (batch, 1)), axis=1)
    return ColorPlan(rng.uniform(0.6, 1.4, (batch, 3)).astype(np.float32), order)


def by_timm(image, op, arg):
    picture = Image.fromarray(image.numpy())
    for code, value in zip(op, arg.tolist(), strict=True):
        if code < 0:
            continue
        name = RANDAUGMENT_OPS[code]
        args = [] if name in ("autocontrast", "equalize", "invert") else [value]
        if name in ("posterize", "solarize", "solarize_add"):
            args = [int(value)]
        function = getattr(auto_augment, TIMM.get(name, name))
        picture = function(picture, *args, fillcolor=FILL, resample=Image.Resampling.BICUBIC)
    return np.asarray(picture).astype(int)


def test_layers_equal_timm_op_by_op():
    images, plan = crops(40), random_layers(40)
    out = augment_view(images, view(40, randaugment=plan), fill=FILL)
    exact = 0
    for i, (op, arg) in enumerate(zip(plan.op, plan.arg, strict=True)):
        difference = np.abs(out[i].numpy() - by_timm(images[i], op, arg))
        names = [RANDAUGMENT_OPS[code] for code in op if code >= 0]
        if WARPS.isdisjoint(names):
            assert difference.max() == 0, names
            exact += 1
        elif WARPS.isdisjoint(names[:-1]):
            assert difference.max() <= 1, names
        # A second operation may make much of a difference of 1 (posterize 128), but seldom, or move a whole
        # level of the histogram (equalize), but by 1.
        assert difference.mean() < 0.05, names
    assert exact >= 10


def test_jitter_equals_torchvision_in_the_planned_order():
    adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    images, plan = crops(24, size=97), random_jitter(24)
    out = augment_view(images, view(24, color=plan), fill=FILL)
    for i, order in enumerate(plan.order):
        picture = Image.fromarray(images[i].numpy())
        for which in order:
            picture = adjust[which](picture, float(plan.factor[i, which]))
        np.testing.assert_array_equal(out[i].numpy(), np.asarray(picture))


def test_the_order_of_the_jitter_matters():
    images = crops(1, size=64).expand(6, -1, -1, -1).contiguous()
    order = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    factor = np.tile(np.array([1.4, 0.6, 1.3], np.float32), (6, 1))
    out = augment_view(images, view(6, color=ColorPlan(factor, order)), fill=FILL)
    assert len({image.numpy().tobytes() for image in out}) == 6


def test_jitter_comes_before_randaugment():
    images, color, layers = crops(8, size=64), random_jitter(8), random_layers(8)
    both = augment_view(images, view(8, color, layers), fill=FILL)
    jittered = augment_view(images, view(8, color), fill=FILL)
    assert torch.equal(both, augment_view(jittered, view(8, randaugment=layers), fill=FILL))


@pytest.mark.parametrize("size", [3, 33, 224])
def test_any_composition_of_the_batch_gives_the_same(size):
    n = 24
    images, color, layers = crops(n, size), random_jitter(n), random_layers(n, layers=3)

    def run(rows):
        color_rows = ColorPlan(color.factor[rows], color.order[rows])
        layer_rows = RandAugmentPlan(layers.op[rows], layers.arg[rows])
        return augment_view(images[rows], view(len(rows), color_rows, layer_rows), fill=FILL)

    whole = run(np.arange(n))
    shuffled = np.random.default_rng(1).permutation(n)
    assert torch.equal(run(shuffled), whole[shuffled])
    assert torch.equal(torch.cat([run(np.arange(i, i + 1)) for i in range(n)]), whole)


def test_the_number_of_threads_does_not_change_the_result():
    images, plan, threads = crops(16), view(16, randaugment=random_layers(16)), torch.get_num_threads()
    try:
        outs = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            outs.append(augment_view(images, plan, fill=FILL))
            assert torch.get_num_threads() == number
            with ThreadPoolExecutor(1) as pool:  # neither do later threads inherit another number
                assert pool.submit(torch.get_num_threads).result() == number
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_input_stays_as_it_is_and_output_is_new():
    images = crops(8, size=64)
    before = images.clone()
    nothing = augment_view(images, view(8), fill=FILL)
    assert torch.equal(nothing, images) and nothing.data_ptr() != images.data_ptr()
    none = RandAugmentPlan(np.full((8, 2), -1), np.zeros((8, 2), np.float32))
    assert torch.equal(augment_view(images, view(8, randaugment=none), fill=FILL), images)
    augment_view(images, view(8, random_jitter(8), random_layers(8)), fill=FILL)
    assert torch.equal(images, before)


def test_inference_mode_reaches_the_threads():
    images, plan = crops(16), view(16, randaugment=random_layers(16))
    expected = augment_view(images, plan, fill=FILL)
    with torch.inference_mode():
        out = augment_view(images.clone(), plan, fill=FILL)
        assert out.is_inference()
    assert torch.equal(out, expected)


def test_the_operator_does_the_work_where_it_was_built(operator, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("PyTorch was asked")

    images, plan = crops(4, size=32), view(4, random_jitter(4), random_layers(4))
    expected = augment_view(images, plan, fill=FILL)
    monkeypatch.setattr(augment, "augment_in_torch", refuse)
    if operator == "native":
        assert torch.equal(augment_view(images, plan, fill=FILL), expected)
    else:
        with pytest.raises(AssertionError, match="PyTorch was asked"):
            augment_view(images, plan, fill=FILL)


@pytest.mark.parametrize("size", [1, 3, 14, 97, 224])
def test_the_pixels_do_not_depend_on_the_operator(size):
    n = 48
    images, plan = crops(n, size), view(n, random_jitter(n), random_layers(n, layers=3))
    op, arg = augment.planned_layers(plan, n)
    expected = augment.augment_in_torch(images, op, arg, fill=FILL)
    difference = (augment_view(images, plan, fill=FILL).int() - expected.int()).abs()
    # None in the versions tested; a build of PyTorch that rounds its sums otherwise may move a last bit.
    assert (difference > 0).float().mean() <= 1e-5


def test_a_view_that_is_not_contiguous_is_augmented_as_its_copy():
    images, plan = crops(8, size=64)[:, :, 8:40], view(8, random_jitter(8), random_layers(8))
    expected = augment_view(images.contiguous(), plan, fill=FILL)
    out = augment_view(images, plan, fill=FILL)
    assert out.is_contiguous() and torch.equal(out, expected)


def test_wrong_input_is_refused():
    images = crops(4, size=32)
    with pytest.raises(ValueError, match="uint8"):
        augment_view(images.float(), view(4), fill=FILL)
    with pytest.raises(ValueError, match=r"\[B, S, S, 3\]"):
        augment_view(images.permute(0, 3, 1, 2), view(4), fill=FILL)
    with pytest.raises(ValueError, match=r"a plan of \[5\] rows does not fit 4 images"):
        augment_view(images, view(5, random_jitter(5)), fill=FILL)
