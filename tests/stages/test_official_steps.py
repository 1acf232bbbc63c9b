"""Steps with `compat: official` against slow transcriptions in float64: networks image by image and head by
head, mixing pixel by pixel, AdamW number by number; and mutants of them that must not pass."""

import math

import pytest
import torch
import yaml
from torch.nn.functional import conv2d, gelu, layer_norm, log_softmax, softmax

from fastsemi.run import config as configuration
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.stages.thresholds.fixed import Fixed
from fastsemi.training.optim import create_optimizer, set_lr
from fastsemi.training.update import Updater

BOUND = 5e-6  # of logits, losses and gradients, relative


def distance(ours, theirs):
    """Relative, of vectors."""
    return float((ours.double() - theirs).norm() / theirs.norm())


def weights_of(network):
    """In float64, to be differentiated."""
    return {
        k: v.detach().double().requires_grad_(v.is_floating_point()) for k, v in network.state_dict().items()
    }


def norm(x, w, name, eps=1e-6):
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def slow_vit(w, image, heads=2, eps=1e-6, drops=None):
    """Logits of one image [3, S, S]; `drops` are the factors of the residual branches, in order."""
    kernel, drops = w["patch_embed.proj.weight"], iter(drops or [])
    p = kernel.shape[-1]
    corners = [(r, c) for r in range(0, image.shape[1], p) for c in range(0, image.shape[2], p)]
    patches = torch.stack([(kernel * image[:, r : r + p, c : c + p]).sum((1, 2, 3)) for r, c in corners])
    x = torch.cat([w["cls_token"][0], patches + w["patch_embed.proj.bias"]]) + w["pos_embed"][0]
    for i in range(sum(name.endswith("attn.qkv.weight") for name in w)):
        block = f"blocks.{i}."
        q, k, v = linear(norm(x, w, f"{block}norm1", eps), w, f"{block}attn.qkv").chunk(3, dim=1)
        each = [
            softmax(a @ b.T / math.sqrt(a.shape[1]), dim=1) @ c
            for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True)
        ]
        x = x + next(drops, 1.0) * linear(torch.cat(each, dim=1), w, f"{block}attn.proj")
        hidden = gelu(linear(norm(x, w, f"{block}norm2", eps), w, f"{block}mlp.fc1"))
        x = x + next(drops, 1.0) * linear(hidden, w, f"{block}mlp.fc2")
    return linear(norm(x[1:].mean(0), w, "fc_norm", eps), w, "head")


def slow_convnext(w, image, eps=1e-6):
    """Logits of one image [3, S, S]."""
    x = conv2d(image, w["stem.0.weight"], w["stem.0.bias"], stride=4).permute(1, 2, 0)
    x = norm(x, w, "stem.1", eps)
    for stage in range(4):
        if stage:
            down = f"stages.{stage}.downsample."
            x = norm(x, w, f"{down}0", eps).permute(2, 0, 1)
            x = conv2d(x, w[f"{down}1.weight"], w[f"{down}1.bias"], stride=2).permute(1, 2, 0)
        block, width = f"stages.{stage}.blocks.0.", x.shape[2]
        y = conv2d(
            x.permute(2, 0, 1),
            w[f"{block}conv_dw.weight"],
            w[f"{block}conv_dw.bias"],
            padding=3,
            groups=width,
        )
        y = norm(y.permute(1, 2, 0), w, f"{block}norm", eps)
        y = linear(gelu(linear(y, w, f"{block}mlp.fc1")), w, f"{block}mlp.fc2")
        x = x + w[f"{block}gamma"] * y
    return linear(norm(x.mean((0, 1)), w, "head.norm", eps), w, "head.fc")


def pixels(stage, batch, view, config):
    """Views as they are augmented, normalised, [B, 3, S, S]; nothing is erased here."""
    x = stage._views.augment(batch, view).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (config.data.mean, config.data.std))
    return ((x - mean) / std).permute(0, 3, 1, 2)


def mixed(images, targets, i, j, lam, cutmix, centre, *, corrected=True):
    """Image and target of a pair; the box is that of timm 0.4.5, whose half side is rounded down twice."""
    image = images[i].clone()
    if cutmix:
        size = image.shape[1]
        half = int(size * math.sqrt(1 - lam)) // 2
        x, y = int(size * centre[0]), int(size * centre[1])
        inside = [
            (r, c)
            for r in range(size)
            for c in range(size)
            if -half <= r - y < half and -half <= c - x < half
        ]
        for r, c in inside:
            image[:, r, c] = images[j][:, r, c]
        lam = 1 - len(inside) / size**2 if corrected else lam
    else:
        image = lam * images[i] + (1 - lam) * images[j]
    return image, lam * targets[i] + (1 - lam) * targets[j]


def smooth(labels, s, classes=3):
    return [(1 - s) * torch.eye(classes, dtype=torch.float64)[int(y)] + s / classes for y in labels]


def cross_entropy(forward, image, target):
    return -(target * log_softmax(forward(image), 0)).sum()


def slow_supervised(forward, stage, batch, config, **mutant):
    """Labelled images in reverse order, one weight and one choice for all; batch["labelled"] has them."""
    part, count = batch["labelled"], len(batch["labelled"].labels)
    images, targets = pixels(stage, part, 0, config), smooth(part.labels, stage.config.label_smoothing)
    lam, cutmix, centre = float(part.mix.lam[0]), bool(part.mix.cutmix[0]), part.mix.centre[0].tolist()
    pairs = [mixed(images, targets, i, count - 1 - i, lam, cutmix, centre, **mutant) for i in range(count)]
    return sum(cross_entropy(forward, image, target) for image, target in pairs) / count


def slow_semi(forward, teacher, stage, batch, config, threshold=0.0):
    """Both losses of `semi.mixing` prob or none."""
    part, settings = batch["unlabelled"], config.semi
    count = len(part.labels)
    p = [softmax(teacher(image), 0).detach() for image in pixels(stage, part, 0, config)]
    o = [float(row.max()) for row in p]
    hard = settings.mixing == "none"
    targets = smooth([row.argmax() for row in p], 0.0 if hard else settings.label_smoothing)
    images, loss = pixels(stage, part, 1, config), 0.0
    for i in range(count):
        j = i if hard else int(part.mix.partner[i])
        if max(o[i], o[j]) < threshold:
            continue
        image, target = images[i], targets[i]
        if i != j:
            lam, centre = o[i] / (o[i] + o[j]), part.mix.centre[i].tolist()
            image, target = mixed(images, targets, i, j, lam, bool(part.mix.cutmix[i]), centre)
        loss = loss + cross_entropy(forward, image, target) / count
    return slow_supervised(forward, stage, batch, config) + settings.loss_weight * loss


VIT = {"name": "vit_tiny_patch16_224", "args": {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}}
CONVNEXT = {
    "name": "convnext_tiny",
    "args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]},
    "pool": "default",
}


@pytest.fixture
def begin(shapes, tmp_path):
    """The function `begin(stage, settings, model)`: a stage with random weights, a batch of it, the run."""
    opened = []

    def _begin(name, settings, model=VIT, step=0):
        view = {"erase": 0.0}
        preset = {
            "compat": "official",
            "output": str(tmp_path / "run"),
            "precision": "fp32",
            "stages": [name],
            "train": {"select": "last"},
            "data": {"root": str(shapes), "labels": {"per_class": 4}, "image_size": 32},
            "model": {**model, "head_init_scale": 1.0},
            "finetune": {"batch": 6, "augment": view},
            "semi": {"batch": 6, "unlabelled_ratio": 2, "augment": view, "strong": view, "threshold": 0.0},
        }
        preset[name] = {**preset.get(name, {}), **settings}
        (tmp_path / "preset.yaml").write_text(yaml.safe_dump(preset))
        run = RunContext(configuration.load([tmp_path / "preset.yaml"], []))
        opened.append(run)
        stage = build_stage(run, name)
        generator = torch.Generator().manual_seed(3)
        for network in (stage.model, *stage.followers()):
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        batch = {}
        for role, source in stage.roles.items():
            with run.data.load(source.images, [source.stream.plan(step, 0)]) as loader:
                batch[role] = run.views.to_device(next(loader))
        stage.model.train()
        return stage, batch, run

    yield _begin
    for run in opened:
        run.close()


def gradients_apart(stage, loss, w):
    """The largest relative distance of a gradient, of those that are no noise (key biases are)."""
    names = [name for name, p in stage.model.named_parameters() if p.grad is not None]
    theirs = torch.autograd.grad(loss, [w[name] for name in names])
    parameters = dict(stage.model.named_parameters())
    far = []
    for name, expected in zip(names, theirs, strict=True):
        ours, keep = parameters[name].grad, slice(None)
        if name.endswith("qkv.bias"):
            keep = torch.arange(len(expected)) // (len(expected) // 3) != 1
        far.append((distance(ours[keep], expected[keep]), name))
    return max(far)


def test_a_supervised_step_with_cutmix_smoothing_and_layer_decay(begin):
    """Loss, gradient and AdamW's first step."""
    settings = {"layer_decay": 0.65, "drop_path": 0.0, "mix": {"mixup": 0.0, "cutmix": 1.0}}
    stage, batch, run = begin("finetune", settings, step=1)
    w, config = weights_of(stage.model), run.config
    optimizer = create_optimizer(stage.model, weight_decay=0.05, layer_decay=0.65, betas=(0.9, 0.999))
    set_lr(optimizer, 1e-3)
    updater = Updater(stage.model, optimizer, run.precision, None)
    loss = stage.loss(batch).loss
    updater.backward(loss)
    expected = slow_supervised(lambda image: slow_vit(w, image), stage, batch, config)
    assert distance(loss.detach(), expected.detach()) < BOUND
    gradients = dict(zip(w, torch.autograd.grad(expected, list(w.values())), strict=True))
    before = {name: tensor.detach().clone() for name, tensor in w.items()}
    updater.step(0)
    layers, after = 2 + 1, stage.model.state_dict()
    for name, g in gradients.items():
        layer = (
            layers
            if name.startswith(("head", "fc_norm"))
            else int(name.split(".")[1]) + 1
            if "blocks" in name
            else 0
        )
        rate = 1e-3 * 0.65 ** (layers - layer)
        decay = 0.0 if g.ndim == 1 or name in ("cls_token", "pos_embed") else 0.05
        m, v = 0.1 * g / (1 - 0.9), 0.001 * g * g / (1 - 0.999)
        step = -rate * (decay * before[name] + m / (v.sqrt() + 1e-8))
        sure = g.abs() > 1e-5 * g.abs().max()  # the sign of what is nearly 0 is rounding
        moved = after[name].double() - before[name]
        if not name.endswith("qkv.bias"):
            assert distance(moved[sure], step[sure]) < 1e-3, name


@pytest.mark.parametrize("mixing", ["prob", "none"])
@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_a_semi_step_of_both_kinds_of_network(begin, kind, mixing):
    model, slow = (VIT, slow_vit) if kind == "vit" else (CONVNEXT, slow_convnext)
    stage, batch, run = begin("semi", {"mixing": mixing, "drop_path": 0.0}, model)
    w, t = weights_of(stage.model), weights_of(stage.teacher.model)
    loss = stage.loss(batch).loss
    loss.backward()
    expected = slow_semi(lambda x: slow(w, x), lambda x: slow(t, x), stage, batch, run.config)
    assert distance(loss.detach(), expected.detach()) < BOUND
    assert gradients_apart(stage, expected, w)[0] < 10 * BOUND


def test_drop_path_with_injected_masks(begin, monkeypatch):
    """Rates grow linearly with depth, a branch that stays is divided by the chance that it does."""
    stage, batch, run = begin("finetune", {"drop_path": 0.5})
    w, masks = weights_of(stage.model), []

    def injected(x, drop_prob=0.0, training=False, scale_by_keep=True):
        if drop_prob == 0 or not training:
            masks.append(torch.ones(len(x)))
            return x
        assert scale_by_keep
        keep = (torch.arange(len(x)) % (2 + len(masks) % 2) > 0).float() / (1 - drop_prob)
        masks.append(keep)
        return x * keep[:, None, None]

    monkeypatch.setattr("timm.layers.drop.drop_path", injected)
    loss = stage.loss(batch).loss
    loss.backward()
    count = len(batch["labelled"].labels)
    assert len(masks) == 2, "the first block drops nothing, at a rate of 0"
    factors = [[1.0, 1.0, *(float(mask[i]) for mask in masks)] for i in range(count)]
    assert {f for row in factors for f in row} == {0.0, 1.0, 2.0}
    turn = iter(range(count))
    expected = slow_supervised(lambda x: slow_vit(w, x, drops=factors[next(turn)]), stage, batch, run.config)
    assert distance(loss.detach(), expected.detach()) < BOUND
    assert gradients_apart(stage, expected, w)[0] < 10 * BOUND


def test_mutants_of_the_transcription_do_not_pass(begin):
    """What the bound is worth: each of these is told from the network and the stage by far."""
    settings = {"drop_path": 0.0, "labelled_mix": {"mixup": 0.0, "cutmix": 1.0}}
    stage, batch, run = begin("semi", settings, step=1)
    with torch.no_grad():  # what the first norm sees is so small that its epsilon counts
        for tensor in (stage.model.patch_embed.proj.weight, stage.model.pos_embed, stage.model.cls_token):
            tensor.mul_(0.02)
    w, t = weights_of(stage.model), weights_of(stage.teacher.model)
    image = pixels(stage, batch["labelled"], 0, run.config)[0]
    stage.model.eval()
    logits = stage.model(image.float()[None])[0].detach()
    assert distance(logits, slow_vit(w, image).detach()) < BOUND
    for mutant in ({"heads": 4}, {"heads": 1}, {"eps": 1e-5}, {"eps": 1e-12}):
        assert distance(logits, slow_vit(w, image, **mutant).detach()) > 2 * BOUND, mutant

    forward, teacher = (lambda x: slow_vit(w, x)), (lambda x: slow_vit(t, x))
    confidence = stage.pseudo_label(batch["unlabelled"]).confidence
    pairs = torch.maximum(confidence, confidence[batch["unlabelled"].mix.partner])
    tau = float(pairs.sort().values[len(pairs) // 2])
    stage.rule = Fixed(tau)  # the confidence of a pair, to the last bit
    ours = stage.loss(batch).loss.detach()
    least, more = (
        slow_semi(forward, teacher, stage, batch, run.config, tau + step).detach() for step in (-1e-6, 1e-6)
    )
    assert distance(ours, least) < BOUND < 2 * BOUND < distance(ours, more), "o >= tau, and not o > tau"

    labelled = mixed_loss(stage, batch)
    right = slow_supervised(forward, stage, batch, run.config).detach()
    wrong = slow_supervised(forward, stage, batch, run.config, corrected=False).detach()
    assert distance(labelled, right) < BOUND < 2 * BOUND < distance(labelled, wrong)


def mixed_loss(stage, batch):
    """The labelled part of a step's loss."""
    return stage.loss(batch).metrics["loss_labelled"].total.detach()
