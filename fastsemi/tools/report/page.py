"""A run as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.common.seconds import duration
from fastsemi.common.version import __version__
from fastsemi.loaders.data import Data
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.run.selected import EVALUATION, HELD_OUT, evaluated_on, honest, selection_notes
from fastsemi.run.summary import best_baseline, results
from fastsemi.stages.names import STAGES
from fastsemi.tools.report.answers import answers
from fastsemi.tools.report.by_class import draw_by_class
from fastsemi.tools.report.contents import (
    RunFiles,
    class_names,
    deviations,
    ordered_stages,
    read_run,
    run_name,
    stage_lines,
)
from fastsemi.tools.report.curves import draw_curves
from fastsemi.tools.report.data import MOST_IMAGES, describe_data
from fastsemi.tools.report.examples import Examples, make_examples

EXAMPLES = 4
THUMBNAIL = 192  # pixels of a side
T = TypeVar("T")


def write_report(config: Config, *, evaluate: bool) -> Path:
    """Write `report.html` into a run directory; parts whose images cannot be read say so instead.

    Args:
        config: The run; its images may have moved since.
        evaluate: Whether to run its network over its images, and to look for copies among them.

    Returns:
        The page.

    Raises:
        UserError: The directory holds no run.
    """
    files = read_run(config.output)
    notes: dict[str, str] = {}  # why a part is missing
    lines, names = stage_lines(files, config), class_names(files.folder)
    page = _template().render(
        name=run_name(files.folder),
        network=config.model.name,
        size=config.data.image_size,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=__version__,
        figures=_figures(files, _counts(config, files, notes)),
        lines=lines,
        selection=selection_notes(files.summary),
        curves={
            stage: draw_curves(files.metrics[stage]) + draw_by_class(files.metrics[stage], names)
            for stage in ordered_stages(files, config)
            if stage in files.metrics
        },
        deviations=deviations(files, config),
        skipped=files.summary.get("skipped_images", []),
        examples=_attempt("views", notes, lambda: _examples(config)),
        semi=config.semi,
        evaluated_on=evaluated_on(config),
        data=_attempt("data", notes, lambda: describe_data(config, look=evaluate)),
        most_images=MOST_IMAGES,
        answers=_attempt("classes", notes, lambda: answers(config)) if evaluate else None,
        notes=notes,
        environment=_environment(config, files),
        settings=files.settings,
    )
    path = RunFolder(files.folder).report
    # A file name that is no UTF-8 is shown with its escapes.
    with replacing(path, encoding="utf-8", errors="backslashreplace") as file:
        file.write(page)
    return path


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"picture": _picture, "data_uri": _data_uri, "duration": duration}
    environment.filters["thumbnail"] = _thumbnail
    return environment.from_string(resources.files(__package__).joinpath("page.html.j2").read_text("utf-8"))


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _picture(pixels: NDArray[np.uint8]) -> str:
    """An image [S, S, 3] as the address of an <img>."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return _data_uri(file.getvalue(), "png")


def _thumbnail(pixels: NDArray[np.uint8]) -> str:
    """A small JPEG of an image [S, S, 3], or all of its pixels where it is no larger."""
    if len(pixels) <= THUMBNAIL // 2:
        return _picture(pixels)
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(file, "JPEG", quality=85)
    return _data_uri(file.getvalue(), "jpeg")


def _attempt(part: str, notes: dict[str, str], make: Callable[[], T | None]) -> T | None:
    """A part of the page, or a note why it is missing: the rest of the page is worth having without it."""
    try:
        return make()
    except (UserError, OSError, RuntimeError) as error:
        notes[part] = " ".join(str(error).split())
        return None


def _counts(config: Config, files: RunFiles, notes: dict[str, str]) -> dict[str, int]:
    """Numbers of classes and images: as the run noted them, else from the images."""
    names = (
        ["classes", "pretraining"]
        if config.stages == ("pretrain",)
        else ["classes", "labelled", "evaluation"]
    )
    if not config.data.evaluates and "evaluation" in names:
        names.remove("evaluation")
    held_out = config.data.labels.validation and config.data.val is not None
    names += ["held_out"] if held_out and "evaluation" in names else []
    names += ["unlabelled"] if "semi" in config.stages else []
    counts = {name: files.summary[name] for name in names if name in files.summary}
    if len(counts) < len(names):
        data = Data(config.data, config.loader)
        found = _attempt("counts", notes, lambda: {name: _count(data, name) for name in names})
        counts = {**(found or {}), **counts}
    return counts


def _count(data: Data, name: str) -> int:
    images = {"evaluation": "val"}.get(name, name)
    return len(data.classes) if name == "classes" else len(getattr(data, images).ids)


def _figures(files: RunFiles, counts: dict[str, int]) -> list[tuple[str, str]]:
    """The figures on top: number and what it is."""
    stages = files.summary["stages"]
    supervised = stages.get("finetune", {})
    finetuned = supervised.get("ema_top1", supervised.get("top1"))  # an average of the weights is the result
    teacher = stages.get("semi", {}).get("teacher_top1")
    simple = best_baseline(files.summary)
    figures = []
    chosen = [stages[name]["chosen"] for name in STAGES if "chosen" in stages.get(name, {})]
    if chosen and honest(files.summary):
        figures.append((f"{chosen[-1]['top1']:.1f} %", "top-1 of the network that was chosen"))
    if teacher is not None:
        figures.append((f"{teacher:.1f} %", "top-1 of the teacher"))
        if finetuned is not None:
            figures.append((f"{teacher - finetuned:+.1f}", "points over fine-tuning alone"))
    elif finetuned is not None:
        figures.append((f"{finetuned:.1f} %", "top-1, fine-tuned"))
    if simple and (found := results(files.summary)):
        above = list(found.values())[-1] - simple["top1"]
        figures.append((f"{above:+.1f}", "points over the best simple classifier"))
    what = {
        "labelled": "labelled images",
        "unlabelled": "unlabelled images",
        "pretraining": "images",
        "classes": "classes",
        "evaluation": files.summary.get("evaluated_on", EVALUATION),
        "held_out": HELD_OUT,
    }
    figures += [(f"{counts[name]:,}", text) for name, text in what.items() if name in counts]
    if stages:
        figures.append((duration(sum(entry["seconds"] for entry in stages.values())), "in training"))
    return figures


def _environment(config: Config, files: RunFiles) -> dict[str, Any]:
    """Where and with what the run was trained, as far as it noted that."""
    summary = files.summary
    hardware = summary.get("hardware", {})
    known = {
        **summary.get("versions", {}),
        "device": summary.get("device"),
        "GPU": hardware.get("gpu"),
        "driver": hardware.get("driver"),
        "CPU": hardware.get("cpu"),
        "cores": hardware.get("cores"),
        "processes": summary.get("processes"),
        "threads": summary.get("threads"),
        "precision": str(summary.get("precision", config.precision)).removeprefix("torch."),
        "seed": config.seed,
        "seed of the labels": config.data.labels.seed,
        "images": config.data.root,
    }
    return {name: value for name, value in known.items() if value is not None}


def _examples(config: Config) -> Examples | None:
    if "semi" not in config.stages:
        return None
    return make_examples(config, count=EXAMPLES, step=0)
