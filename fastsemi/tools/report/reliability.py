"""Whether a network is right as often as it says: a plot, and its error in one figure."""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fastsemi.common.plot_style import COLOURS, STYLE
from fastsemi.training.calibration import expected_calibration_error, reliability_bins
from fastsemi.training.outcomes import Outcomes

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """A plot of accuracy by confidence."""

    svg: bytes
    error: float
    """Expected calibration error in percent."""
    confidence: float
    """Mean confidence in percent."""
    accuracy: float
    """In percent."""


def draw_reliability(found: Outcomes) -> Reliability:
    """Accuracy in `BINS` bins of confidence, above the share of the images in each."""
    bins = reliability_bins(found.confidence, found.right, BINS)
    edges, width = np.arange(BINS) / BINS, 1 / BINS
    with matplotlib.rc_context({**STYLE, "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.2, 4.0), layout="constrained")
        accuracy, share = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        accuracy.bar(
            edges, np.nan_to_num(bins.accuracy), width, align="edge", color=COLOURS[0], edgecolor="w"
        )
        accuracy.plot([0, 1], [0, 1], color="#5c6773", linestyle="--", linewidth=1)
        accuracy.plot(bins.confidence, bins.accuracy, ".", color=COLOURS[1])
        accuracy.set_ylim(0, 1)
        accuracy.set_title("accuracy", loc="left", fontweight="bold")
        share.bar(edges, bins.counts / max(1, bins.counts.sum()), width, align="edge", color="#9aa5b1")
        share.set_title("share of the images", loc="left", fontweight="bold")
        share.set_xlabel("confidence")
        share.set_xlim(0, 1)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return Reliability(
        file.getvalue(),
        100 * expected_calibration_error(found.confidence, found.right, BINS),
        100 * float(found.confidence.mean()),
        100 * float(found.right.mean()),
    )
