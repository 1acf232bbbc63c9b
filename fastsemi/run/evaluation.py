"""Judge the network of a finished run on its evaluation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Column, Table
from rich.text import Text

from fastsemi.common.printable import printable
from fastsemi.models.timm_folder import read_calibration
from fastsemi.run.calibrate import Calibration, calibration_digest
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.run.selected import evaluated_on
from fastsemi.run.trained import temperature, trained_run
from fastsemi.training.broken import share_broken
from fastsemi.training.evaluate import class_logits
from fastsemi.training.scores import ClassScore, Scores, honesty, score
from fastsemi.training.temperature import log_probabilities, temperatures_by_halves

_COLUMNS = ("images", "predicted", "recall %", "precision %", "F1 %")


@dataclass(frozen=True)
class Evaluation(Scores):
    """What a network is worth on labelled images; accuracies and errors in percent."""

    evaluated_on: str
    nll: float
    """Mean negative log-likelihood of the true class, by the confidences that `predict` gives."""
    ece: float
    """Expected calibration error of the same, in 15 bins of equal width (Guo et al. 2017)."""
    unscaled_nll: float
    """The same without the temperature."""
    unscaled_ece: float
    temperature: float
    """Divides the logits for `predict`."""
    calibrated_on: str | None
    """What it was fitted on; None where it was not."""
    by_halves: bool
    """Whether these are the images that are evaluated on, so that `nll` and `ece` are found with a
    temperature for each half of them that was fitted on the other."""


def evaluate_run(config: Config) -> Evaluation | None:
    """Run a network over the run's evaluation images, which are dealt out to the processes.

    Returns:
        What it is worth in rank 0; None elsewhere.

    Raises:
        UserError: As `trained_run`.
    """
    with trained_run(config) as run:
        images = run.data.val
        found = class_logits(
            run.model, run.data, run.views, run.precision, batch=config.eval_batch, images=images
        )
        share_broken(run.data.bad)
        digest, classes, scale = calibration_digest(images), run.data.classes, temperature(run.model)
    if found is None:
        return None
    logits, labels = found.logits, found.labels
    kept = _calibration(RunFolder(config.output).model)
    same = kept is not None and kept.digest == digest and scale != 1 and len(labels) > 1
    plain = honesty(log_probabilities(logits), labels)
    of_each = temperatures_by_halves(logits, labels) if same else scale
    scaled = honesty(log_probabilities(logits, of_each), labels)
    return Evaluation(
        **vars(score(logits, labels, classes)),
        evaluated_on=evaluated_on(config),
        nll=scaled.nll,
        ece=scaled.ece,
        unscaled_nll=plain.nll,
        unscaled_ece=plain.ece,
        temperature=scale,
        calibrated_on=f"{kept.images:,} {kept.of}" if kept else None,
        by_halves=same,
    )


def _calibration(folder: Path) -> Calibration | None:
    kept = read_calibration(folder)
    return Calibration(**kept) if kept else None


def say_confidences(found: Evaluation) -> str:
    """What confidences are worth, before and after the temperature, in a line."""
    plain = f"NLL {found.unscaled_nll:.4f}, ECE {found.unscaled_ece:.2f} %"
    if found.calibrated_on is None:
        return f"{plain}; no temperature is fitted (train.calibrate does it on images that train nothing)"
    if found.temperature == 1:
        return f"{plain}; no temperature made them better on {found.calibrated_on}"
    where = f"fitted on {found.calibrated_on}"
    if found.by_halves:
        where = "fitted on these images, figures by halves of them"
    after = f"NLL {found.nll:.4f}, ECE {found.ece:.2f} %"
    return f"{plain}; with temperature {found.temperature:.2f} {after} ({where})"


def table_of_classes(rows: Sequence[ClassScore]) -> Table:
    """Recall, precision and F1 of each class."""
    table = Table("class", *(Column(name, justify="right") for name in _COLUMNS))
    for row in rows:
        rates = ("-" if rate is None else f"{rate:.1f}" for rate in (row.recall, row.precision, row.f1))
        table.add_row(Text(printable(row.name)), str(row.images), str(row.predicted), *rates)
    return table
