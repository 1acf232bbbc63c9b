"""A picture of what the semi stage sees: weak, strong and mixed views, with pseudo labels."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from rich.console import Console

from fastsemi.config import Config
from fastsemi.errors import UserError
from fastsemi.predict import load_trained
from fastsemi.progress import Progress
from fastsemi.run import Run
from fastsemi.stages.semi import Semi

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@torch.no_grad()
def draw_views(config: Config, path: Path, *, count: int, step: int) -> None:
    """Draw a grid of PNG: one row an image, columns original window, weak, strong and mixed.

    The teacher is the run's trained network where there is one, else an untrained one, and the title says so.

    Args:
        config: The run.
        path: PNG to write.
        count: Rows.
        step: Which batch of the semi stage.

    Raises:
        UserError: `count` is larger than the batch.
    """
    run = Run(config, Progress(Console(quiet=True)))
    settings = config.semi
    if step < 0:
        raise UserError(f"--step is {step}; give the number of a batch, from 0")
    if not 0 < count <= settings.batch * settings.unlabelled_ratio // settings.micro_batches:
        raise UserError(f"--count {count} is not within the unlabelled micro-batch; give a smaller number")
    try:
        stage, trained = _teacher(run)
        role = stage.roles["unlabelled"]
        with run.data.load(role.images, [role.stream.plan(step, 0)]) as loader:
            loaded = next(loader)
        batch = run.views.to_device(loaded)
        pseudo = stage.pseudo_label(batch)
        mixed, weights, counts = stage.mix(batch, pseudo, stage.rule.weights(pseudo))
        columns = {
            "weak": run.views.augment(batch, 0).cpu().numpy(),
            "strong": run.views.augment(batch, 1).cpu().numpy(),
            "mixed": _pixels(mixed, config),
        }
    finally:
        run.data.close()
    names = [run.data.classes[c] for c in pseudo.label.tolist()]
    figure, axes = plt.subplots(count, 3, figsize=(6.6, 2.3 * count), squeeze=False)
    fate = {True: "kept", False: "rejected"}
    lam, keep = weights.lam.tolist(), (counts > 0).tolist()
    partner = weights.partner.tolist()
    for b in range(count):
        other = names[partner[b]]
        titles = {
            "weak": f"{names[b]}  {pseudo.confidence[b]:.2f}",
            "strong": f"image {int(loaded.plan.ids[b])}",
            "mixed": f"{lam[b]:.2f} {names[b]} + {1 - lam[b]:.2f} {other}\n{fate[keep[b]]}",
        }
        for axis, (column, images) in zip(axes[b], columns.items(), strict=True):
            axis.imshow(images[b], interpolation="nearest")
            axis.set_title(f"{column}: {titles[column]}", fontsize=7)
            axis.axis("off")
    teacher = "the run's trained network" if trained else "untrained (the run has no model yet)"
    figure.suptitle(
        f"mixing {settings.mixing}, threshold {settings.threshold:g}; teacher: {teacher}", fontsize=8
    )
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _teacher(run: Run) -> tuple[Semi, bool]:
    """The semi stage with the run's exported network as its teacher, where there is one."""
    stage = run.build_stage("semi", fresh=True)
    assert isinstance(stage, Semi)
    if not (run.folder / "model" / "config.json").exists():
        return stage, False
    model, _ = load_trained(run.config, run.precision)
    stage.teacher.model.load_state_dict(model.state_dict())
    return stage, True


def _pixels(images: torch.Tensor, config: Config) -> np.ndarray:
    """Normalised [B, 3, S, S] back to [B, S, S, 3] uint8; erasing noise is clipped."""
    mean = torch.tensor(config.data.mean, device=images.device)[:, None, None]
    std = torch.tensor(config.data.std, device=images.device)[:, None, None]
    pixels = (images.float() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()
