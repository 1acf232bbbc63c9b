"""Logit adjustment against its equation, and labelled images drawn by class, in both stages."""

import dataclasses

import numpy as np
import pytest
import torch

from fastsemi.common.errors import UserError
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.stages.logit_adjustment import LogitAdjustment, create_adjustment, labelled_shares
from fastsemi.stages.semi_config import SemiConfig

PLAIN = ("--model.head_init_scale", "5", "--finetune.label_smoothing", "0", "--semi.label_smoothing", "0")


def test_the_loss_is_equation_10():
    """log(1 + sum over y' != y of (pi_y' / pi_y)^tau exp(f_y' - f_y)), in float64."""
    generator = torch.Generator().manual_seed(0)
    shares, tau = torch.tensor([0.7, 0.25, 0.05]), 1.5
    logits, labels = torch.randn(6, 3, generator=generator), torch.tensor([0, 1, 2, 2, 1, 0])
    found = torch.nn.functional.cross_entropy(LogitAdjustment(shares, tau)(logits), labels, reduction="none")
    f, pi = logits.double().numpy(), shares.double().numpy()
    for i, y in enumerate(labels.tolist()):
        others = sum((pi[k] / pi[y]) ** tau * np.exp(f[i, k] - f[i, y]) for k in range(3) if k != y)
        assert found[i].item() == pytest.approx(np.log(1 + others), rel=1e-5)


@pytest.fixture
def imbalanced(tiny, tmp_path, shapes):
    """The function `imbalanced(*options)`: the tiny run with 8, 4 and 1 labels of the three classes."""
    names = sorted((shapes / "train").glob("*/*.png"))
    chosen = [p for name, n in (("bar", 8), ("cross", 4), ("dot", 1)) for p in
              [q for q in names if q.parent.name == name][:n]]  # fmt: skip
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{p.relative_to(shapes / 'train')}\n" for p in chosen))
    options = ("--data.labels.per_class", "null", "--data.labels.file", str(path))
    return lambda *more: tiny(*options, *PLAIN, *more)


@pytest.mark.parametrize("name", ["finetune", "semi"])
def test_a_stage_adjusts_its_labelled_loss_alone(imbalanced, name):
    options = ("--stages", f"[{name}]", f"--{name}.batch", "12", "--semi.unlabelled_ratio", "1")
    run = RunContext(imbalanced(*options))
    stage = build_stage(run, name)
    shares = labelled_shares(run.data)
    torch.testing.assert_close(shares, torch.tensor([8.0, 4.0, 1.0]) / 13)
    batch = {}
    for role, each in stage.roles.items():
        with run.data.load(each.images, [each.stream.plan(0, 0)]) as loader:
            batch[role] = run.views.to_device(next(loader))
    stage.model.eval()
    assert isinstance(stage.adjustment, torch.nn.Identity)
    plain = stage.loss(batch).metrics
    stage.adjustment = create_adjustment(1.0, run.data)
    adjusted = stage.loss(batch).metrics
    offset, network = shares.log(), stage.network
    stage.adjustment = create_adjustment(0.0, run.data)
    labelled = 12

    def shifted(images):
        """The same logits, with the offset put on those of labelled images by hand."""
        logits = network(images)
        return torch.cat([logits[:labelled] + offset, logits[labelled:]])

    stage.network = shifted
    by_hand = stage.loss(batch).metrics
    run.close()
    key = "loss" if name == "finetune" else "loss_labelled"
    assert adjusted[key].total.item() == pytest.approx(by_hand[key].total.item(), rel=1e-5)
    assert adjusted[key].total.item() != pytest.approx(plain[key].total.item(), rel=1e-2)
    if name == "semi":
        assert adjusted["loss_unlabelled"].total == plain["loss_unlabelled"].total


@pytest.mark.parametrize("name", ["finetune", "semi"])
def test_a_balanced_stage_draws_each_class_equally_often(imbalanced, name):
    counts = []
    for balanced in ("true", "false"):
        run = RunContext(imbalanced(f"--{name}.balanced", balanced, f"--{name}.batch", "12"))
        stream = build_stage(run, name, fresh=True).roles["labelled"].stream
        run.close()
        labels = np.concatenate([stream.plan(step, 0).labels for step in range(13)])
        counts.append(np.bincount(labels, minlength=3).tolist())
    assert counts == [[52, 52, 52], [96, 48, 12]]


def test_impossible_settings_are_refused():
    for tau in (-0.1, float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"semi\.logit_adjustment is .*must be finite and not negative"):
            SemiConfig(logit_adjustment=tau)
    with pytest.raises(UserError, match=r"must be 0 where semi\.balanced is true"):
        dataclasses.replace(SemiConfig(balanced=True), logit_adjustment=1.0)
    with pytest.raises(UserError, match=r"must be false where semi\.balanced is true"):
        SemiConfig(balanced=True, drop_last=True)
