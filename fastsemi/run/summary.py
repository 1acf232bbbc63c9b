"""The figures of a run's finished stages, the table that a finished run prints, and what they amount to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.run.selected import honest, selection_notes

WIDE = 96  # columns of a terminal on which the table has images per second


def read_summary(path: Path) -> dict[str, Any]:
    """The figures of a run; `{"stages": {}}` where no stage has finished.

    Args:
        path: `RunFolder.summary`.

    Raises:
        UserError: The file is damaged.
    """
    if not path.exists():
        return {"stages": {}}
    try:
        summary = json.loads(path.read_text())
        for entry in summary["stages"].values():
            if not all(isinstance(entry[key], int | float) for key in ("seconds", "images_per_s")):
                raise ValueError
        for row in summary.get("baselines", []):
            if not isinstance(row["top1"], int | float):
                raise ValueError
        if budget := summary.get("budget"):
            [float(budget[key]) for key in ("seconds", "planned", "spent")]
            list(budget["stages"])
        sorted({*summary.get("skipped_images", []), ""})
        summary_table(summary), verdict(summary)  # what the end of the run shows, it must be able to show
    except (OSError, MemoryError):
        raise
    except Exception:  # whatever odd values lead to
        raise UserError(f"{path} is damaged; delete it (the figures of finished stages are lost)") from None
    return summary


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Replace the figures of a run."""
    with replacing(path) as file:
        file.write(json.dumps(summary, indent=2) + "\n")


def networks(entry: dict[str, Any]) -> list[str]:
    """The networks that a stage was evaluated with, such as student and teacher; "" is its only one."""
    return [key[: -len("top1")].rstrip("_") for key in entry if key.endswith("top1")]


def best_baselines(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each kind of features the simple classifier with the highest top-1."""
    rows: dict[str, dict[str, Any]] = {}
    for row in summary.get("baselines", []):
        kind = row["features"]
        if kind not in rows or row["top1"] > rows[kind]["top1"]:
            rows[kind] = row
    return list(rows.values())


def summary_table(summary: dict[str, Any], *, wide: bool = True) -> Table:
    """What a finished run prints: simple classifiers by their features, then the networks by their stage.

    Args:
        summary: Of the run.
        wide: Whether there are WIDE columns for it; else images per second are left out.
    """
    table = Table(title=f"{summary.get('labelled', '?')} labels, {summary.get('classes', '?')} classes")
    names = ("stage", "network", "top-1 %", "bal. %", "top-5 %", *(["images/s"] if wide else []), "time")
    for column in names:
        named = column in ("stage", "network")
        table.add_column(column, justify="left" if named else "right", no_wrap=True)
    for row in best_baselines(summary):
        accuracies = f"{row['top1']:.1f}", f"{row['balanced']:.1f}", "-"
        table.add_row(row["features"], row["classifier"], *accuracies, *["-"] * wide, "-")
    for stage, entry in summary["stages"].items():
        speed = [f"{entry['images_per_s']:,.0f}"] * wide
        time = f"{entry['seconds']:.0f} s"
        for network in networks(entry):
            table.add_row(stage, network or "model", *_shown(entry, network), *speed, time)
        if not networks(entry):
            network = "encoder" if stage == "pretrain" else "not evaluated"
            table.add_row(stage, network, "-", "-", "-", *speed, time)
        if chosen := entry.get("chosen"):
            table.add_row(stage, f"chosen: {chosen['network']}", *_shown(chosen, ""))
    table.caption = "\n".join(selection_notes(summary)) or None
    return table


def _shown(entry: dict[str, Any], network: str) -> Iterator[str]:
    """The accuracies of a network for the table."""
    for kind in ("top1", "balanced", "top5"):
        figure = entry.get(f"{network}_{kind}".lstrip("_"))
        yield "-" if figure is None else f"{figure:.1f}"


def verdict(summary: dict[str, Any]) -> str | None:
    """What a run's result is worth, in one line: against simple classifiers, and against its own last stage.

    None where there is nothing to compare.
    """
    if short := shortfall(summary):
        return short
    scored, simple = results(summary), best_baseline(summary)
    if not scored or not simple:
        return None
    last, score = list(scored.items())[-1]
    return (
        f"{_ends(summary, last)} {score - simple['top1']:.1f} points above the best simple classifier "
        f"({simple['classifier']} on {simple['features']}, {simple['top1']:.1f} %)"
        f"{_in_images(summary, score - simple['top1'])}"
    )


def shortfall(summary: dict[str, Any]) -> str | None:
    """In one line, what the last stage is worse than, and what to try; None where it is not."""
    scored, simple = results(summary), best_baseline(summary)
    if not scored:
        return None
    last, score = list(scored.items())[-1]
    ends = _ends(summary, last)
    if simple and score < simple["top1"]:
        return (
            f"below a simple classifier: {ends} at {score:.1f} %, {simple['classifier']} on "
            f"{simple['features']} has {simple['top1']:.1f} % on the same labels"
            f"{_in_images(summary, simple['top1'] - score)}; {_cure(summary, simple)}"
        )
    if last == "semi" and "finetune" in scored and score < scored["finetune"]:
        return (
            f"the semi stage did not help: it ends at {score:.1f} %, finetune at "
            f"{scored['finetune']:.1f} %{_in_images(summary, scored['finetune'] - score)}; try a higher "
            "semi.threshold, a shorter semi.length or more labels"
        )
    return None


def best_baseline(summary: dict[str, Any]) -> dict[str, Any] | None:
    """The simple classifier with the highest top-1, None where none was judged."""
    return max(summary.get("baselines", []), key=lambda row: row["top1"], default=None)


def _in_images(summary: dict[str, Any], points: float) -> str:
    """What a difference of some points is in images, by which a reader sees whether it says anything."""
    count = summary.get("evaluation")
    return f", {round(points * count / 100):,} of {count:,} images" if count else ""


def _ends(summary: dict[str, Any], stage: str) -> str:
    return f"{stage} (chosen on held-out labels) ends" if honest(summary) else f"{stage} ends"


def results(summary: dict[str, Any]) -> dict[str, float]:
    """Top-1 of what each stage with a classifier leaves, in the order in which they ran."""
    entries = summary["stages"].items()
    return {stage: _top1(entry, honest(summary)) for stage, entry in entries if networks(entry)}


def _top1(entry: dict[str, Any], chosen: bool) -> float:
    """Of the network that a stage leaves: the one that was chosen, where its choice does not flatter it, else
    the teacher's, the average's or the only one's at the end.
    """
    if chosen and "chosen" in entry:
        return entry["chosen"]["top1"]
    for key in ("teacher_top1", "ema_top1", "top1"):
        if key in entry:
            return entry[key]
    return max(entry[f"{name}_top1"] for name in networks(entry))


def _cure(summary: dict[str, Any], simple: dict[str, Any]) -> str:
    chosen = [entry["chosen"] for entry in summary["stages"].values() if "chosen" in entry]
    if chosen and chosen[-1]["top1"] >= simple["top1"] and not honest(summary):
        return (
            f"model/ holds the network that was chosen, {chosen[-1]['top1']:.1f} %, chosen on the same images"
        )
    if simple["features"] != "pixels" and "finetune" not in summary["stages"]:
        return "try a lower semi.base_lr, a shorter semi.length, a higher semi.threshold or more labels"
    if simple["features"] != "pixels":
        return "try finetune.head probe, a lower finetune.base_lr or model.adapt head"
    return "try a network with published weights (model.pretrained true), a longer semi stage or more labels"
