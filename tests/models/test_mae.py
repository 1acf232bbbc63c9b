"""The masked autoencoder against a transcription of its paper, one patch at a time."""

import copy

import pytest
import torch

from fastsemi.models.mae import MaskedAutoencoder
from fastsemi.models.weights import load_backbone
from fastsemi.training.optim import create_optimizer, set_lr


def autoencoder(vit, pool="avg", mask_ratio=0.75, published=False, **args):
    encoder = vit.ours(pool, **args)
    return MaskedAutoencoder(
        encoder,
        mask_ratio=mask_ratio,
        decoder_dim=32,
        decoder_depth=2,
        decoder_heads=2,
        as_published=published,
    ).eval()


def slow_loss(model, images, noise, count=round):
    """Section 3 of the paper: only visible patches are encoded; the loss is on hidden ones, normalised."""
    encoder, p = model.encoder, model.patch_size
    errors = []
    for image, scores in zip(images, noise, strict=True):
        side = image.shape[1] // p
        patches = [image[:, r * p : r * p + p, c * p : c * p + p] for r in range(side) for c in range(side)]
        ranks = scores.argsort().tolist()
        visible = ranks[: count(len(ranks) * (1 - model.mask_ratio))]
        weight, bias = encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias
        tokens = [encoder.cls_token[0, 0] + encoder.pos_embed[0, 0]]
        for i in visible:
            embedded = (weight * patches[i]).sum((1, 2, 3)) + bias
            tokens.append(embedded + encoder.pos_embed[0, 1 + i])
        x = torch.stack(tokens)[None]
        for block in encoder.blocks:
            x = block(x)
        x = model.embed(encoder.fc_norm(encoder.norm(x)))[0]
        full = [x[0] + model.decoder_pos[0, 0]]
        for i in range(len(patches)):
            token = x[1 + visible.index(i)] if i in visible else model.mask_token[0, 0]
            full.append(token + model.decoder_pos[0, 1 + i])
        y = torch.stack(full)[None]
        for block in model.blocks:
            y = block(y)
        prediction = model.predict(model.norm(y))[0, 1:]
        for i in set(range(len(patches))) - set(visible):
            pixels = patches[i].permute(1, 2, 0).flatten()  # row, column, channel
            target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            errors.append((prediction[i] - target).square().mean())
    return torch.stack(errors).mean()


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("mask_ratio", [0.75, 0.4])
def test_loss_and_gradients_equal_the_slow_transcription(vit, pool, mask_ratio):
    torch.manual_seed(0)
    model = autoencoder(vit, pool, mask_ratio)
    vit.randomise(model)
    images, noise = torch.randn(3, 3, 16, 16), torch.rand(3, 16)
    parameters = {n: p for n, p in model.named_parameters() if not n.startswith("encoder.head.")}
    fast, slow = model(images, noise), slow_loss(model, images, noise)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(fast, parameters.values())
    theirs = torch.autograd.grad(slow, parameters.values())
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_a_step_as_published(vit):
    """int(0.35 * 16) = 5 visible patches, an epsilon of 1e-6, AdamW with weight decay on the tokens too."""
    torch.manual_seed(0)
    model = autoencoder(vit, mask_ratio=0.65, published=True)
    vit.randomise(model)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    slow = copy.deepcopy(model).double()
    images, noise = torch.randn(3, 3, 16, 16), torch.rand(3, 16)
    assert model(images, noise).item() != pytest.approx(
        slow_loss(model, images, noise, round).item(), rel=1e-4
    )
    optimizer = create_optimizer(model, weight_decay=0.05, layer_decay=1.0, betas=(0.9, 0.95))
    set_lr(optimizer, 1e-3)
    loss, expected = model(images, noise), slow_loss(slow, images.double(), noise, int)
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6)
    loss.backward()
    expected.backward()
    optimizer.step()
    after = model.state_dict()
    for name, parameter in slow.named_parameters():
        if (g := parameter.grad) is None or "qkv.bias" in name:  # the head's, and what softmax cancels
            continue
        decay = 0.0 if parameter.ndim == 1 or name == "encoder.pos_embed" else 0.05
        step = -1e-3 * (decay * parameter.detach() + g / (g.abs() + 1e-8))
        sure = g.abs() > 1e-5 * g.abs().max()  # the sign of what is nearly 0 is rounding
        apart = (after[name].double() - parameter.detach() - step)[sure].norm() / step[sure].norm()
        assert apart < 1e-3, name


@pytest.mark.parametrize(("mask_ratio", "visible"), [(0.75, 4), (0.5, 8), (0.9, 2)])
def test_the_encoder_sees_the_patches_with_the_smallest_noise(vit, mask_ratio, visible):
    model = autoencoder(vit, mask_ratio=mask_ratio)
    seen = []
    model.encoder.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    noise = torch.rand(2, 16)
    images = torch.randn(2, 3, 16, 16)
    model(images, noise)
    assert seen[0].shape == (2, 1 + visible, 48)
    tokens = model.encoder._pos_embed(model.encoder.patch_embed(images))
    for b in range(2):
        torch.testing.assert_close(seen[0][b, 1:], tokens[b, 1:][noise[b].argsort()[:visible]])


def test_hidden_pixels_reach_the_loss_only_as_targets(vit):
    model = autoencoder(vit)
    noise = torch.arange(16.0)[None]  # patches 4 to 15 are hidden
    images = torch.randn(1, 3, 16, 16)
    images.requires_grad_()
    hidden = model.encode(images, noise.argsort(1)[:, :4]).square().sum()
    (gradient,) = torch.autograd.grad(hidden, images)
    assert gradient[:, :, :4].abs().sum() > 0 and not gradient[:, :, 4:].any()


def test_the_default_mask_is_random_and_follows_the_seed(vit):
    model, images = autoencoder(vit), torch.randn(2, 3, 16, 16)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model(images).item())
    assert losses[0] == losses[1] != losses[2]


def test_patchify_orders_rows_first_and_channels_last(vit):
    model = autoencoder(vit)
    image = torch.arange(3 * 16 * 16.0).reshape(1, 3, 16, 16)
    patches = model.patchify(image)
    assert patches.shape == (1, 16, 48)
    torch.testing.assert_close(patches[0, 6], image[0, :, 4:8, 8:12].permute(1, 2, 0).flatten())


def test_register_tokens_are_kept_out_of_the_mask(vit):
    model = autoencoder(vit, name="vit_small_patch14_reg4_dinov2")
    assert model.prefix == 5
    assert torch.isfinite(model(torch.randn(2, 3, 16, 16)))


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_encoder_moves_into_a_classifier(vit, pool):
    model = autoencoder(vit, pool)
    vit.randomise(model)
    classifier = vit.ours(pool, classes=7)
    report = load_backbone(classifier, model.encoder.state_dict(), where="pretrain")
    assert set(report.initial) == set(report.dropped) == set(vit.HEAD)
    torch.testing.assert_close(vit.features(classifier), vit.features(model.encoder))
