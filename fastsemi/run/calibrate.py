"""Fits the temperature of the network that a run leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fastsemi.loaders.image_set import ImageSet, digest
from fastsemi.models.create import use_fused_attention
from fastsemi.models.timm_folder import is_calibrated, open_timm, write_calibration
from fastsemi.parallel import processes
from fastsemi.run.context import RunContext
from fastsemi.run.selected import EVALUATION, HELD_OUT
from fastsemi.training.broken import share_broken
from fastsemi.training.evaluate import Said, class_logits
from fastsemi.training.temperature import LEAST, helpful_temperature


@dataclass(frozen=True)
class Calibration:
    """What lies beside a model of its confidences."""

    temperature: float
    """Divides the logits; 1 where no other made images likelier that it was not fitted on."""
    images: int
    """How many it was fitted on."""
    of: str
    """What these are."""
    digest: str
    """Which these are."""


def calibrate(run: RunContext) -> None:
    """Fit the temperature of `model/`, once, on labels that train nothing.

    These are the held-out labels, else the evaluation images. All processes must ask for it.
    """
    folder, config = run.folder.model, run.config
    missing = run.folder.has_model and not is_calibrated(folder)
    if not (config.train.calibrate and config.data.evaluates) or not processes.from_main(missing):
        return
    images, scale = run.data.selection, 1.0
    count = len(images.ids)
    if count >= LEAST:
        found = _logits(run, images)
        if found is None:
            return
        scale, count = helpful_temperature(found.logits, found.labels), len(found.ids)
    if processes.is_main():
        of = HELD_OUT if config.data.labels.validation else EVALUATION
        write_calibration(folder, asdict(Calibration(scale, count, of, calibration_digest(images))))
        run.say(_told(scale, count, of))


def _logits(run: RunContext, images: ImageSet) -> Said | None:
    """Of `model/`, as `class_logits`."""
    model = open_timm(run.folder.model).to(run.device).eval()
    use_fused_attention(model, run.precision.fused_attention)
    batch = run.config.eval_batch
    found = class_logits(model, run.data, run.views, run.precision, batch=batch, images=images)
    share_broken(run.data.bad)
    return found


def _told(scale: float, count: int, of: str) -> str:
    if count < LEAST:
        return f"confidences: no temperature is fitted, {count:,} {of} are fewer than {LEAST}"
    if scale == 1:
        return f"confidences: no temperature makes them better on {count:,} {of}"
    return f"confidences: temperature {scale:.2f}, fitted on {count:,} {of}"


def calibration_digest(images: ImageSet) -> str:
    """A fingerprint of images that a temperature is fitted on, and of their labels."""
    return digest([images], labels=True)
