"""A model card: the README.md of a folder that can go to a model hub as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml

from fastsemi.common.files import replacing
from fastsemi.common.version import __version__
from fastsemi.models.pretrained import licence, published_name
from fastsemi.models.settings import ModelConfig
from fastsemi.run.config import Config
from fastsemi.run.selected import selection_notes
from fastsemi.run.summary import best_baseline, results

HUB_NAME = "timm"  # who publishes timm's weights on the hub


def write_card(path: Path, config: Config, summary: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Write the card of a run's network.

    Args:
        path: The file, README.md; a former one is replaced.
        config: The run.
        summary: `read_summary` of it.
        classes: Names of the classes.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)  # Markdown: nothing to escape as HTML
    environment.filters["code"] = _code
    text = resources.files("fastsemi.tools.export").joinpath("card.md.j2").read_text(encoding="utf-8")
    figures = dict(summary)
    page = environment.from_string(text).render(
        front=yaml.safe_dump(_front(config.model), sort_keys=False, allow_unicode=True),
        title=_code(config.output.resolve().name),
        version=__version__,
        architecture=_code(config.model.name),
        size=config.data.image_size,
        classes=list(classes),
        training=list(_training(config, figures)),
        results=_results(figures),
        notes=selection_notes(figures),
        licence=_licence(config.model),
    )
    with replacing(path, encoding="utf-8", errors="backslashreplace") as file:
        file.write(page)


def _front(model: ModelConfig) -> dict[str, Any]:
    """The hub's metadata; `license` is left to the owner where nothing is known."""
    front: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "semi-supervised-learning", "fastsemi"],
    }
    if model.pretrained:
        name = published_name(model.name, model.pretrained)
        front["base_model"] = f"{HUB_NAME}/{name}"
        front["license"] = licence(name) or "other"
    return front


def _licence(model: ModelConfig) -> str:
    if model.pretrained:
        name = published_name(model.name, model.pretrained)
        given = licence(name)
        said = f"under {given}" if given else "under a licence that timm does not name"
        return (
            f"The weights started from those of {_code(name)}, which are published {said}. What you may do "
            "with this network follows from that licence and from the pictures."
        )
    if model.weights:
        return (
            f"The weights started from the file {_code(model.weights.name)}; its licence is not known here "
            "and is for you to add."
        )
    return "The weights started from random ones: no licence of others applies to them."


def _training(config: Config, summary: dict[str, Any]) -> list[str]:
    labelled, unlabelled = summary.get("labelled"), summary.get("unlabelled")
    lines = []
    if labelled is not None:
        others = f" and {unlabelled:,} without a label" if unlabelled and "semi" in summary["stages"] else ""
        lines.append(f"{labelled:,} labelled pictures{others}")
    for stage, entry in summary["stages"].items():
        steps = f"{entry['steps']:,} steps" if "steps" in entry else "a stage"
        lines.append(f"{stage}: {steps}, {entry['seconds']:,.0f} seconds")
    lines.append(f"seed {config.seed}, labels chosen with seed {config.data.labels.seed}")
    return lines


def _results(summary: dict[str, Any]) -> list[tuple[str, float]]:
    rows = [(f"after {stage}", top1) for stage, top1 in results(summary).items()]
    if chosen := [entry["chosen"] for entry in summary["stages"].values() if "chosen" in entry]:
        rows.append(("the network here (chosen)", chosen[-1]["top1"]))
    if rows and (simple := best_baseline(summary)):
        rows.append(
            (f"best simple classifier: {simple['classifier']} on {simple['features']}", simple["top1"])
        )
    return rows


def _code(text: str) -> str:
    """A name as code, whatever is in it."""
    plain = " ".join(str(text).split()) or " "
    longest = max(map(len, re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{plain}{space}{fence}"
