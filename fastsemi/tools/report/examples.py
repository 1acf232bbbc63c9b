"""A picture of what the semi stage sees: weak, strong and mixed views, with pseudo labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.models.projected import classifier_of
from fastsemi.run.build import build_stage
from fastsemi.run.config import Config
from fastsemi.run.context import RunContext
from fastsemi.run.trained import load_trained
from fastsemi.stages.semi import Semi

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class Example:
    """An unlabelled image as the semi stage sees it; pictures are [S, S, 3] uint8."""

    id: int
    """Position in the index."""
    truth: str | None
    """Its class, where it is known."""
    label: str
    """The pseudo label."""
    confidence: float
    other: str
    """Pseudo label of the image mixed in."""
    lam: float
    """Weight of `label` in the mixed view."""
    kept: bool
    """Whether the mixed view counts in the loss."""
    pictures: dict[str, NDArray[np.uint8]]
    """weak, strong and mixed."""

    @property
    def mixture(self) -> str:
        """The labels of the mixed view and their shares."""
        if self.lam == 1:
            return self.label
        return f"{self.lam:.2f} {self.label} + {1 - self.lam:.2f} {self.other}"


@dataclass(frozen=True)
class Examples:
    """Images of a batch of the semi stage."""

    rows: list[Example]
    trained: bool
    """Whether the run's trained network gave the pseudo labels, rather than an untrained one."""


@torch.no_grad()
def make_examples(config: Config, *, count: int, step: int) -> Examples:
    """Weak, strong and mixed views of the first images of a batch.

    The teacher is the run's trained network where there is one, else an untrained one.

    Args:
        config: The run.
        count: How many images, at most; fewer where the micro-batch has fewer.
        step: Which batch of the semi stage.

    Raises:
        UserError: `step` is no number of a batch.
    """
    settings = config.semi
    count = min(count, settings.batch * settings.unlabelled_ratio // settings.micro_batches)
    run = RunContext(config)
    try:
        stage, trained = _teacher(run)
        total = stage.schedule.total_steps
        if not 0 <= step < total:
            raise UserError(f"--step {step} is not within the {total} of semi; give 0 to {total - 1}")
        role = stage.roles["unlabelled"]
        stream = replace(role.stream, first_view_every=1)  # both views, whether or not training has them
        size = stream.image_size_at(step)
        with run.data.load(role.images, [stream.plan(step, 0)], image_size=size) as loader:
            loaded = next(loader)
        batch = run.views.to_device(loaded)
        with run.precision.autocast():
            pseudo = stage.pseudo_label(batch)
            pairs = stage.pair(batch, pseudo, stage.rule.weights(pseudo))
            mixed = stage.mix(batch, pseudo, pairs)
        pictures = {
            "weak": run.views.augment(batch, 0).cpu().numpy(),
            "strong": run.views.augment(batch, 1).cpu().numpy(),
            "mixed": _pixels(mixed.images, config),
        }
    finally:
        run.close()
    classes, labels = run.data.classes, pseudo.label.tolist()
    others, lam, keep = mixed.other.tolist(), mixed.lam.tolist(), (pairs.weight > 0).tolist()
    rows = [
        Example(
            id=int(loaded.plan.ids[b]),
            truth=classes[truth] if (truth := int(loaded.plan.labels[b])) >= 0 else None,
            label=classes[labels[b]],
            confidence=float(pseudo.confidence[b]),
            other=classes[others[b]],
            lam=lam[b],
            kept=keep[b],
            pictures={name: images[b] for name, images in pictures.items()},
        )
        for b in range(count)
    ]
    return Examples(rows, trained)


def draw_views(config: Config, path: Path, *, count: int, step: int) -> None:
    """Draw `make_examples` as PNG: one row an image, columns weak, strong and mixed."""
    examples = make_examples(config, count=count, step=step)
    count = len(examples.rows)
    figure, axes = plt.subplots(count, 3, figsize=(6.6, 2.3 * count), squeeze=False)
    for line, row in zip(axes, examples.rows, strict=True):
        titles = {
            "weak": f"{row.label}  {row.confidence:.2f}",
            "strong": f"image {row.id}",
            "mixed": f"{row.mixture}\n{'kept' if row.kept else 'rejected'}",
        }
        for axis, (view, title) in zip(line, titles.items(), strict=True):
            axis.imshow(row.pictures[view], interpolation="nearest")
            axis.set_title(f"{view}: {title}", fontsize=7, parse_math=False)  # a class may be called $x$
            axis.axis("off")
    teacher = "the run's trained network" if examples.trained else "untrained (the run has no model yet)"
    semi = config.semi
    fixed = semi.threshold_rule == "fixed"
    rule = f"threshold {semi.threshold:g}" if fixed else f"threshold rule {semi.threshold_rule}"
    figure.suptitle(f"mixing {semi.mixing}, {rule}; teacher: {teacher}", fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)


def _teacher(run: RunContext) -> tuple[Semi, bool]:
    """The semi stage with the run's exported network as its teacher, where there is one."""
    stage = build_stage(run, "semi", fresh=True)
    assert isinstance(stage, Semi)
    if not run.folder.has_model:
        return stage, False
    model, _ = load_trained(run.config, run.precision)
    classifier_of(stage.teacher.model).load_state_dict(model.state_dict())
    stage.teacher.refresh()
    return stage, True


def _pixels(images: torch.Tensor, config: Config) -> np.ndarray:
    """Normalised [B, 3, S, S] back to [B, S, S, 3] uint8; erasing noise is clipped."""
    mean = torch.tensor(config.data.mean, device=images.device)[:, None, None]
    std = torch.tensor(config.data.std, device=images.device)[:, None, None]
    pixels = (images.float() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()
