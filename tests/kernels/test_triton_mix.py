"""The mix kernels against eager PyTorch in the same type, both measured against fp64."""

import os

import pytest
import torch

pytest.importorskip("triton")

from fastsemi.common.errors import UserError
from fastsemi.kernels.mix import operator as triton_mix
from fastsemi.kernels.reference import mix as eager_mix
from fastsemi.kernels.reference.noise import erase_noise, philox

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a CUDA GPU or TRITON_INTERPRET=1"
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = ["none", "pseudo", "pseudo_plus", "prob", "labelled"]
FIELDS = ("partner", "lam", "box", "confidence", "keep")


def example(batch, seed=0):
    g = torch.Generator().manual_seed(seed)
    plan = {
        "confidence": torch.rand(batch, generator=g) * 0.9 + 0.05,
        "partner": torch.randperm(batch, generator=g),
        "cutmix": torch.rand(batch, generator=g) < 0.5,
        "centre": torch.rand(batch, 2, generator=g),
        "lam": torch.rand(batch, generator=g),
    }
    return {name: value.to(DEVICE) for name, value in plan.items()}


def picture(batch, size, seed=0):
    """Images and what to do with them; every third has no erased box."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (batch, size, size, 3), generator=g, dtype=torch.uint8)
    low = torch.randint(0, size, (batch, 2), generator=g)
    extent = torch.minimum(torch.randint(1, size + 1, (batch, 2), generator=g), size - low)
    box = torch.cat([low, extent], dim=1)
    box[::3] = 0
    args = {
        "flip": torch.rand(batch, generator=g) < 0.5,
        "erase_box": box,
        "erase_key": torch.randint(2**32, (batch, 2), generator=g),
    }
    return images.to(DEVICE), {name: value.to(DEVICE) for name, value in args.items()}


def mixed_by(module, mode, images, plan, **pixels):
    if mode == "labelled":
        drawn = {name: value for name, value in plan.items() if name != "confidence"}
        return module.labelled_mix(images, **drawn, mean=MEAN, std=STD, **pixels)
    return module.mix(mode, images, **plan, threshold=0.4, mean=MEAN, std=STD, **pixels)


def exact_images(images, weights, flip=None, erase_box=None, erase_key=None):
    """Flip, normalise, erase and mix in fp64."""
    size = images.shape[1]
    x = images.double() / 255
    if flip is not None:
        x = torch.where(flip[:, None, None, None], x.flip(2), x)
    x = (x - x.new_tensor(MEAN)) / x.new_tensor(STD)
    if erase_box is not None:
        x = torch.where(inside(erase_box, size), exact_noise(erase_key, size), x)
    if weights is not None:
        lam = weights.lam.double()[:, None, None, None]
        boxed = (weights.box[:, 2] > 0)[:, None, None, None]
        own = torch.where(boxed, (~inside(weights.box, size)).double(), lam)
        x = own * x + (1 - own) * x[weights.partner]
    return x.permute(0, 3, 1, 2)


def exact_noise(key, size):
    """Box-Muller in fp64 of the words that `erase_noise` takes."""
    counter = torch.zeros(size * size, 4, dtype=torch.int64, device=key.device)
    counter[:, 0] = torch.arange(size * size)
    u = ((philox(counter, key[:, None]) >> 9).double() + 0.5) / 2**23  # [B, S * S, 4]
    radius, angle = torch.sqrt(-2 * torch.log(u[..., 0::2])), 2 * torch.pi * u[..., 1::2]
    normal = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).flatten(-2)
    return normal[..., :3].view(-1, size, size, 3)


def inside(box, size):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    left, top, width, height = box.cpu()[:, :, None, None].unbind(1)
    hit = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
    return hit[..., None].to(box.device)


def assert_no_worse(got, eager, exact, atol):
    """The kernel is at most twice as far from the truth as eager PyTorch is, plus `atol`."""
    error, rounding = (got.double() - exact).abs().max(), (eager.double() - exact).abs().max()
    if INTERPRETED and got.dtype == torch.bfloat16:
        # Triton's interpreter cuts to bf16 where GPUs round; a cut is at most twice the worst rounding.
        rounding = torch.maximum(rounding, exact.abs().max() * 2**-8)
    assert error <= 2 * rounding + atol, f"{error:.3g} > 2 * {rounding:.3g} + {atol}"


def assert_same_weights(got, expected):
    for field in FIELDS:
        assert torch.equal(getattr(got, field), getattr(expected, field)), field


# Sides that 16 divides take the wide path, where an erased box sends some tiles back to the narrow one.
@pytest.mark.parametrize(("batch", "size"), [(1, 3), (3, 14), (1, 16), (2, 48)])
@pytest.mark.parametrize("mode", MODES)
def test_one_launch_gives_the_weights_and_images_of_the_reference(mode, batch, size):
    plan = example(batch, seed=batch)
    images, pixels = picture(batch, size)
    got, weights = mixed_by(triton_mix, mode, images, plan, **pixels)
    eager, expected = mixed_by(eager_mix, mode, images, plan, **pixels)
    assert_same_weights(weights, expected)
    assert got.shape == eager.shape and got.stride() == eager.stride()
    assert_no_worse(got, eager, exact_images(images, expected, **pixels), 2e-7)


@pytest.mark.parametrize("options", [{}, {"channels_last": True}, {"flip": torch.tensor([True, False] * 2)}])
@pytest.mark.parametrize("cutmix", [False, True])
def test_images_of_several_tiles_without_erasing(cutmix, options):
    plan = example(4, seed=4) | {"cutmix": torch.full((4,), cutmix, device=DEVICE)}
    images, options = picture(4, 64)[0], {n: v.to(DEVICE) if n == "flip" else v for n, v in options.items()}
    got, weights = mixed_by(triton_mix, "labelled", images, plan, **options)
    eager, _ = mixed_by(eager_mix, "labelled", images, plan, **options)
    assert (weights.box[:, 2] > 0).any() == cutmix
    assert_no_worse(got, eager, exact_images(images, weights, options.get("flip")), 2e-7)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "used", [(), ("flip",), ("erase_box", "erase_key"), ("flip", "erase_box", "erase_key")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [7, 16])
def test_types_and_layouts(size, dtype, used, channels_last):
    plan = example(2, seed=1)
    images, pixels = picture(2, size, seed=1)
    pixels = {name: pixels[name] for name in used}
    options = pixels | {"dtype": dtype, "channels_last": channels_last}
    got, weights = mixed_by(triton_mix, "prob", images, plan, **options)
    eager, _ = mixed_by(eager_mix, "prob", images, plan, **options)
    assert got.dtype == dtype and got.stride() == eager.stride()
    assert_no_worse(got, eager, exact_images(images, weights, **pixels), 2e-7)


@pytest.mark.parametrize("mode", [*MODES, None])
@pytest.mark.parametrize("size", [14, 16])
def test_images_by_given_weights(mode, size):
    plan, (images, pixels) = example(4, seed=2), picture(4, size)
    weights = None if mode is None else mixed_by(eager_mix, mode, images, plan)[1]
    got = triton_mix.mix_images(images, weights, **pixels, mean=MEAN, std=STD)
    eager = eager_mix.mix_images(images, weights, **pixels, mean=MEAN, std=STD)
    assert_no_worse(got, eager, exact_images(images, weights, **pixels), 2e-7)


@pytest.mark.parametrize("batch", [1, 2, 9, 40])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
@pytest.mark.parametrize("mode", ["none", "pseudo", "pseudo_plus", "prob"])
def test_weights_are_those_of_the_reference_bit_by_bit(mode, threshold, batch):
    plan = example(batch, seed=batch)
    plan["lam"][:2] = torch.tensor([1.0, 0.0])[:batch]
    args = dict(**plan, threshold=threshold, size=224)
    assert_same_weights(triton_mix.mix_weights(mode, **args), eager_mix.mix_weights(mode, **args))


def test_labelled_weights_and_boxes_clipped_at_every_border():
    batch = 64
    plan = example(batch) | {"cutmix": torch.ones(batch, dtype=torch.bool, device=DEVICE)}
    plan["centre"][:4] = torch.tensor(
        [[0.0, 0.5], [0.999, 0.5], [0.5, 0.0], [0.5, 0.99999999]], device=DEVICE
    )
    args = plan["partner"], plan["cutmix"], plan["centre"], plan["lam"], 98
    got, expected = triton_mix.labelled_mix_weights(*args), eager_mix.labelled_mix_weights(*args)
    assert_same_weights(got, expected)
    corner = expected.box[:, :2] == 0
    assert corner.any() and (expected.box[:, :2] + expected.box[:, 2:] == 98).any()


def test_a_masked_confidence_of_nan_is_never_kept():
    plan = example(6, seed=3)
    plan["confidence"][2] = float("nan")
    for mode in ("pseudo", "pseudo_plus"):
        assert not triton_mix.mix_weights(mode, **plan, threshold=0.1, size=32).keep[2]


def test_noise_of_the_kernel_is_that_of_the_reference():
    size = 32
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8, device=DEVICE)
    box = torch.tensor([[0, 0, size, size]] * 2, device=DEVICE)
    key = torch.tensor([[0, 0], [2**32 - 1, 2**31 + 5]], device=DEVICE)
    got = triton_mix.mix_images(images, None, erase_box=box, erase_key=key, mean=MEAN, std=STD)
    expected = erase_noise(key, size, DEVICE).permute(0, 3, 1, 2)
    assert (got - expected).abs().max() < 2e-6
    assert_no_worse(got, expected, exact_noise(key, size).permute(0, 3, 1, 2), 2e-7)


def test_a_view_that_starts_at_an_odd_byte_is_read_right():
    storage = torch.randint(256, (2 * 16 * 16 * 3 + 1,), dtype=torch.uint8, device=DEVICE)
    images = storage[1:].view(2, 16, 16, 3)
    got = triton_mix.mix_images(images, None, mean=MEAN, std=STD)
    assert torch.allclose(got, eager_mix.mix_images(images, None, mean=MEAN, std=STD), atol=1e-6)
    turned = images.transpose(1, 2)
    got = triton_mix.mix_images(turned, None, mean=MEAN, std=STD)
    assert torch.allclose(got, eager_mix.mix_images(turned, None, mean=MEAN, std=STD), atol=1e-6)


@pytest.mark.parametrize("module", [triton_mix, eager_mix])
def test_wrong_arguments_are_refused(module):
    plan, (images, pixels) = example(2), picture(2, 16)
    with pytest.raises(UserError, match=r"'mixup'.*none, pseudo, pseudo_plus, prob"):
        module.mix("mixup", images, **plan, threshold=0.5, mean=MEAN, std=STD)
    with pytest.raises(ValueError, match="erase_key"):
        module.mix_images(images, None, erase_box=pixels["erase_box"], mean=MEAN, std=STD)
    for wrong in (images.float(), images[0], images[:, :8], images.permute(0, 3, 1, 2)):
        with pytest.raises(ValueError, match=r"uint8 \[B, S, S, 3\]"):
            module.mix_images(wrong, None, mean=MEAN, std=STD)
