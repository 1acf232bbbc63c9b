"""The mix kernels against eager PyTorch in the same type, both measured against fp64."""

import os

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from fastsemi.kernels.mix import noise
from fastsemi.kernels.mix import operator as triton_mix
from fastsemi.kernels.mix.kernel import weigh
from fastsemi.kernels.reference import mix as eager_mix
from fastsemi.kernels.reference.noise import erase_noise, philox

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a CUDA GPU or TRITON_INTERPRET=1"
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINDS = ["mixup", "cutmix", "both", "alone", None]  # None: normalise


def example(batch, seed=0, kind="both"):
    """How to mix; a permutation of so many samples may leave some alone."""
    g = torch.Generator().manual_seed(seed)
    drawn = torch.rand(batch, generator=g) < 0.5
    plan = {
        "partner": torch.arange(batch) if kind == "alone" else torch.randperm(batch, generator=g),
        "cutmix": {"mixup": drawn & False, "cutmix": drawn | True}.get(kind, drawn),
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
    args = {"erase_box": box, "erase_key": torch.randint(2**32, (batch, 2), generator=g)}
    return images.to(DEVICE), {name: value.to(DEVICE) for name, value in args.items()}


def mixed_by(module, images, plan, **pixels):
    """Images, and weights where there are any."""
    if plan is None:
        return module.normalise(images, mean=MEAN, std=STD, **pixels), None
    return module.mix(images, **plan, mean=MEAN, std=STD, **pixels)


def exact_images(images, plan, erase_box=None, erase_key=None):
    """Normalise, erase and mix in fp64."""
    size = images.shape[1]
    x = images.double() / 255
    x = (x - x.new_tensor(MEAN)) / x.new_tensor(STD)
    if erase_box is not None:
        x = torch.where(inside(erase_box, size), exact_noise(erase_key, size), x)
    if plan is not None:
        lam, box = eager_mix.corrected(**plan, size=size)
        boxed = (box[:, 2] > 0)[:, None, None, None]
        own = torch.where(boxed, (~inside(box, size)).double(), lam.double()[:, None, None, None])
        x = own * x + (1 - own) * x[plan["partner"]]
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


# Sides that 16 divides take the wide path, which leaves the groups that erased boxes touch to the narrow one;
# of several tiles, at 48, the interpreter takes its time.
@pytest.mark.parametrize(
    ("batch", "size", "kind"),
    [(*shape, kind) for kind in KINDS for shape in ((1, 3), (3, 14), (2, 16))]
    + [(2, 48, "both"), (2, 48, None)],
)
def test_one_launch_gives_the_weights_and_images_of_the_reference(kind, batch, size):
    plan = None if kind is None else example(batch, batch, kind)
    images, pixels = picture(batch, size)
    got, lam = mixed_by(triton_mix, images, plan, **pixels)
    eager, expected = mixed_by(eager_mix, images, plan, **pixels)
    assert plan is None or torch.equal(lam, expected)
    assert got.shape == eager.shape and got.stride() == eager.stride()
    assert_no_worse(got, eager, exact_images(images, plan, **pixels), 2e-7)


def boxes(size, seed):
    """Three erased boxes: the whole image or a line of it, an empty or tiny one, any."""
    g = torch.Generator().manual_seed(seed)
    low = (torch.rand(2, generator=g) * size).long()
    extent = ((size - low) * torch.rand(2, generator=g)).long().clamp(min=1)
    whole = [[0, 0, size, size], [0, size - 1, size, 1], [size - 1, 0, 1, size]][seed]
    small = [[0, 0, 0, 0], [3, 5, 0, 7], [0, 0, 1, 1]][seed]
    return torch.tensor([whole, small, [*low, *extent]], device=DEVICE)


@pytest.mark.parametrize("seed", range(3))
def test_erased_boxes_that_meet_one_another_and_the_cutmix_box(seed):
    size = 32
    plan, (images, pixels) = example(3, seed), picture(3, size, seed)
    plan["partner"] = torch.tensor([1, 2, 0], device=DEVICE).roll(seed)  # of seed 1: alone
    pixels["erase_box"] = boxes(size, seed)
    got, _ = mixed_by(triton_mix, images, plan, **pixels)
    eager, _ = mixed_by(eager_mix, images, plan, **pixels)
    assert_no_worse(got, eager, exact_images(images, plan, **pixels), 2e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_several_tiles_without_erasing(kind):
    plan, (images, _) = None if kind is None else example(4, 4, kind), picture(4, 64)
    if kind in ("mixup", "cutmix"):
        _, box = eager_mix.corrected(**plan, size=64)
        assert (box[:, 2] > 0).any() == (kind == "cutmix")
    got, _ = mixed_by(triton_mix, images, plan)
    eager, _ = mixed_by(eager_mix, images, plan)
    assert_no_worse(got, eager, exact_images(images, plan), 2e-7)


@pytest.mark.parametrize("used", [(), ("erase_box", "erase_key")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [7, 16])
@pytest.mark.parametrize("kind", ["both", None])
def test_types(kind, size, dtype, used):
    plan = None if kind is None else example(2, seed=1)
    images, pixels = picture(2, size, seed=1)
    pixels = {name: pixels[name] for name in used}
    got, _ = mixed_by(triton_mix, images, plan, **pixels, dtype=dtype)
    eager, _ = mixed_by(eager_mix, images, plan, **pixels, dtype=dtype)
    assert got.dtype == dtype and got.stride() == eager.stride()
    assert_no_worse(got, eager, exact_images(images, plan, **pixels), 2e-7)


@triton.jit
def weigh_kernel(partner, lam, cutmix, centre, out_lam, out_box, SIZE: tl.constexpr, EVEN: tl.constexpr):
    """What the mix kernel works out of one sample before it makes pixels."""
    i = tl.program_id(0)
    j = tl.load(partner + i).to(tl.int32)
    own, left, top, right, bottom = weigh(i, j, lam, cutmix, centre, SIZE, EVEN)
    tl.store(out_lam + i, own)
    tl.store(out_box + 4 * i, left)
    tl.store(out_box + 4 * i + 1, top)
    tl.store(out_box + 4 * i + 2, right - left)
    tl.store(out_box + 4 * i + 3, bottom - top)


def kernel_weights(plan, size, even=False):
    """Weights, and boxes as left, top, width, height."""
    count = len(plan["lam"])
    lam = torch.empty(count, device=DEVICE)
    box = torch.empty(count, 4, dtype=torch.int64, device=DEVICE)
    order = (plan[name] for name in ("partner", "lam", "cutmix", "centre"))
    weigh_kernel[(count,)](*order, lam, box, SIZE=size, EVEN=int(even))
    return lam, box


@pytest.mark.parametrize("size", [3, 98, 224])
@pytest.mark.parametrize("batch", [1, 2, 9, 40])
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_weights_are_those_of_the_reference_bit_by_bit(kind, batch, size):
    plan = example(batch, batch, kind)
    plan["lam"][:3] = torch.tensor([1.0, 0.0, 0.999])[:batch]
    for even in (False, True):
        expected = eager_mix.corrected(**plan, size=size, even=even)
        for got, right in zip(kernel_weights(plan, size, even), expected, strict=True):
            assert torch.equal(got, right)


def test_even_boxes_of_the_kernel_are_those_of_the_reference():
    plan, (images, pixels) = example(9, kind="cutmix"), picture(9, 16)
    ours = mixed_by(triton_mix, images, plan, even=True, **pixels)
    theirs = mixed_by(eager_mix, images, plan, even=True, **pixels)
    assert torch.equal(ours[1], theirs[1]) and torch.allclose(ours[0], theirs[0], atol=2e-6)
    assert not torch.equal(theirs[1], mixed_by(eager_mix, images, plan, **pixels)[1])


def test_weights_of_boxes_clipped_at_every_border():
    plan = example(64, kind="cutmix")
    plan["centre"][:4] = torch.tensor(
        [[0.0, 0.5], [0.999, 0.5], [0.5, 0.0], [0.5, 0.99999999]], device=DEVICE
    )
    lam, box = eager_mix.corrected(**plan, size=98)
    got_lam, got_box = kernel_weights(plan, 98)
    assert torch.equal(got_lam, lam) and torch.equal(got_box, box)
    assert (box[:, :2] == 0).any() and (box[:, :2] + box[:, 2:] == 98).any()


def test_noise_of_the_kernel_is_that_of_the_reference():
    size = 16
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8, device=DEVICE)
    box = torch.tensor([[0, 0, size, size]] * 2, device=DEVICE)
    key = torch.tensor([[0, 0], [2**32 - 1, 2**31 + 5]], device=DEVICE)
    got = triton_mix.normalise(images, erase_box=box, erase_key=key, mean=MEAN, std=STD)
    expected = erase_noise(key, size, DEVICE).permute(0, 3, 1, 2)
    assert (got - expected).abs().max() < 2e-6
    assert_no_worse(got, expected, exact_noise(key, size).permute(0, 3, 1, 2), 2e-7)


@triton.jit
def normal_kernel(words, out, N: tl.constexpr):
    """Radius and cosine of words of the generator."""
    place = tl.arange(0, N)
    uniform = noise._uniform(tl.load(words + place).to(tl.uint32))
    tl.store(out + place, noise._radius(uniform))
    tl.store(out + N + place, noise._cosine(uniform))


def test_radius_and_cosine_at_the_ends_of_their_ranges():
    ends = torch.tensor([0, 2**32 - 1, 2**31, 2**31 - 1, 2**30, 3 * 2**30, 0xB504F333, 0xB504F000])
    words = torch.cat([ends + k * 512 for k in (-2, -1, 0, 1)]).clamp(0, 2**32 - 1)
    words = torch.cat([words, torch.randint(2**32, (4064,), generator=torch.Generator().manual_seed(0))])
    out = torch.empty(2, 4096, device=DEVICE)
    normal_kernel[(1,)](words.to(DEVICE), out, N=4096)
    u = ((words >> 9).double() + 0.5) / 2**23
    radius, cosine = out.cpu().double()
    torch.testing.assert_close(radius, torch.sqrt(-2 * u.log()), rtol=4e-7, atol=0)
    torch.testing.assert_close(cosine, torch.cos(2 * torch.pi * u), rtol=0, atol=3e-7)


def test_a_view_that_starts_at_an_odd_byte_is_read_right():
    storage = torch.randint(256, (2 * 16 * 16 * 3 + 1,), dtype=torch.uint8, device=DEVICE)
    images = storage[1:].view(2, 16, 16, 3)
    got = triton_mix.normalise(images, mean=MEAN, std=STD)
    assert torch.allclose(got, eager_mix.normalise(images, mean=MEAN, std=STD), atol=1e-6)
    turned = images.transpose(1, 2)
    got = triton_mix.normalise(turned, mean=MEAN, std=STD)
    assert torch.allclose(got, eager_mix.normalise(turned, mean=MEAN, std=STD), atol=1e-6)


@pytest.mark.parametrize("module", [triton_mix, eager_mix])
def test_wrong_arguments_are_refused(module):
    plan, (images, pixels) = example(2), picture(2, 16)
    for how in (None, plan):
        with pytest.raises(ValueError, match="erase_key"):
            mixed_by(module, images, how, erase_box=pixels["erase_box"])
        for wrong in (images.float(), images[0], images[:, :8], images.permute(0, 3, 1, 2)):
            with pytest.raises(ValueError, match=r"uint8 \[B, S, S, 3\]"):
                mixed_by(module, wrong, how)
