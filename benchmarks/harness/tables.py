"""Writes measured tables into the README and docs, from the JSON files under `benchmarks/results/`.

    python -m benchmarks.harness.tables          rewrite the tables
    python -m benchmarks.harness.tables --check  exit 1 if one differs from its JSON

A document holds `<!-- table NAME -->` and `<!-- end -->`; what stands between them is generated.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import curves, harness, label_choices, loader_goals, result_tables
from benchmarks.harness.cells import cpu, machine
from benchmarks.harness.paired_study import paired

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results"
DOCUMENTS = ("README.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md"))))


def _load(pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(pattern))]


def _demo(name: str) -> list[dict[str, Any]]:
    """The runs of a demo by seed, each with what the tables show of it."""
    found = []
    for summary in _load(f"demo/{name}-*.json"):
        stages, judged = summary["stages"], summary["baselines"]
        linear = [row["top1"] for row in judged if row["classifier"] == "logistic regression"]
        simple = max(judged, key=lambda row: row["top1"])
        after = stages["semi"]["teacher_top1"]
        found.append(
            {
                "seed": summary["seed"],
                "which": f"{simple['classifier']} on {simple['features']}",
                "linear": max(linear),
                "simple": simple["top1"],
                "before": stages["finetune"]["top1"] if "finetune" in stages else math.nan,
                "after": after,
                "above": after - simple["top1"],
                "seconds": sum(stage["seconds"] for stage in stages.values()),
            }
        )
    return found


def demo(name: str) -> str:
    """Top-1 of each seed of a demo beside simple classifiers on the same labels."""
    rows = [
        "| seed | logistic regression | best simple classifier | fine-tuned | semi, teacher | above it "
        "| seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    runs = _demo(name)
    rows += [
        f"| {run['seed']} | {run['linear']:.1f} | {run['simple']:.1f} ({run['which']}) "
        f"| {_top1(run['before'])} | {run['after']:.1f} | {run['above']:+.1f} | {run['seconds']:.0f} |"
        for run in runs
    ]
    if len(runs) > 1:
        shown = [curves.spread([run[key] for run in runs]) for key in ("linear", "simple", "before", "after")]
        above = curves.spread([run["above"] for run in runs], sign=True)
        seconds = statistics.mean(run["seconds"] for run in runs)
        rows.append(f"| mean ± deviation | {' | '.join(shown)} | {above} | {seconds:.0f} |")
    return "\n".join(rows)


HEADLINES = {
    "digits": "digits, 5 labels a class",
    "cifar10": "10,000 photographs of CIFAR-10, 10 labels a class, ImageNet weights",
    "fashion-mnist": "Fashion-MNIST, 10 labels a class",
    "clipart": "2,045 drawings, 10 labels a class, ImageNet weights",
    "stamps": "713 drawings and photographs, 10 labels a class, ImageNet weights",
}


def headline() -> str:
    """Every demo in a row: means over its seeds."""
    rows = [
        "| top-1 % | logistic regression | best simple classifier | fastsemi | above it | seeds | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, title in HEADLINES.items():
        runs = _demo(name)
        shown = [curves.spread([run[key] for run in runs]) for key in ("linear", "simple", "after")]
        above = curves.spread([run["above"] for run in runs], sign=True)
        seconds = statistics.mean(run["seconds"] for run in runs)
        rows.append(f"| {title} | {' | '.join(shown)} | {above} | {len(runs)} | {seconds:.0f} |")
    return "\n".join(rows)


def label_spreading(name: str) -> dict[int, float]:
    """Top-1 of label spreading on the pixels in the runs of a demo, by seed."""
    return {
        summary["seed"]: row["top1"]
        for summary in _load(f"demo/{name}-*.json")
        for row in summary["baselines"]
        if (row["classifier"], row["features"]) == ("label spreading", "pixels")
    }


def over_time(file: str, times: Sequence[float]) -> str:
    """fastsemi beside its peers on digits after some CPU seconds, from a file of curves."""
    return curves.table(curves.read(RESULTS / "peers" / file), label_spreading("digits"), times)


def time_to_accuracy(file: str) -> str:
    """CPU seconds of fastsemi and its peers to some accuracies on digits, from a file of curves."""
    return curves.times(curves.read(RESULTS / "peers" / file), label_spreading("digits"), (80, 90, 95))


def peer_trials(file: str) -> str:
    """What was tried of the peers' settings, from a file of curves."""
    return curves.trials(curves.read(RESULTS / "peers" / file))


def _top1(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def loaders() -> str:
    """Images/s of every loader on each hardware, with the ratio of the native engine to it."""
    return _loaders_in("loaders")


def _loaders_in(name: str) -> str:
    results = [(path, harness.read(path)) for path in sorted(RESULTS.glob(f"*/{name}.json"))]
    return "\n\n".join(_loaders(path, rows) for path, rows in results) or "Not measured yet: `make bench`."


def _loaders(path: Path, rows: list[dict[str, Any]]) -> str:
    threads = max(row["threads"] for row in rows)
    rows = [row for row in rows if row["threads"] == threads]
    first = rows[0]
    hardware, settings = first["hardware"], first["configuration"]
    gpu = f"{hardware['gpu']}, " if hardware["gpu"] else ""
    size = f"{settings['mean_width']:.0f} x {settings['mean_height']:.0f} pixels"
    lines = [
        f"{gpu}{cpu(hardware)}, {threads} threads on as many cores; {settings['images']} JPEGs of {size} "
        f"and {settings['mean_bytes'] / 1024:.0f} KiB on average; median of {first['n']} interleaved rounds "
        f"(p20 to p80), commit {first['git']}, `{path.relative_to(ROOT)}`.",
        "",
        "| loader | views only, images/s | native is | augmented too, images/s | native is |",
        "|---|--:|--:|--:|--:|",
    ]
    cells = {(row["label"], row["part"]): row for row in rows}
    for label in dict.fromkeys(row["label"] for row in sorted(rows, key=lambda row: -row["median"])):
        line = f"| {label} |"
        for part in ("views", "augmented"):
            row, native = cells.get((label, part)), cells.get(("fastsemi native", part))
            line += f" {row['median']:,.0f} ({row['p20']:,.0f} to {row['p80']:,.0f}) |" if row else " |"
            if row and native and row is not native:
                line += f" {harness.ratio(native, row)['median']:.2f} x |"
            else:
                line += " |"
        lines.append(line)
    missing = {name: why for row in rows for name, why in row["configuration"]["absent"].items()}
    missing = {name: why for name, why in missing.items() if name not in {row["label"] for row in rows}}
    lines += (
        ["", "Not measured: " + "; ".join(f"{n} ({w})" for n, w in missing.items()) + "."] if missing else []
    )
    return "\n".join(lines)


def parts() -> str:
    """What bounds each row of the loaders, of the step on a CPU and of the start."""
    tables = []
    for path in sorted(RESULTS.glob("*/parts.json")):
        others = [path.with_name(f"{name}.json") for name in ("cpu_step", "start")]
        found = [harness.read(other) if other.exists() else [] for other in others]
        names = ", ".join(f"`{p.relative_to(ROOT)}`" for p in (path, *others) if p.exists())
        tables.append(f"{result_tables.parts(harness.read(path), *found)}\n\nFrom {names}.")
    return "\n\n".join(tables) or "Not measured yet: `python -m benchmarks.loading.parts`."


def jpeg_index() -> str:
    """The native engine by what it reads: JPEGs without and with what it has learnt of them, pixels."""
    paths = [
        path for files in ("", "_large") for path in sorted(RESULTS.glob(f"*/loaders_index{files}.json"))
    ]
    if not paths:
        return "Not measured yet: `python -m benchmarks.loaders`."
    results = [harness.read(path) for path in paths]
    first = results[0][0]
    lines = [
        f"{machine(first)}, {first['threads']} threads, by the clock, two 224-pixel views, images/s.",
        "",
        "| files | native | with the index | of native | raw .beton | of native | of native with the index |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [_jpeg_index({row["label"]: row for row in rows}) for rows in results]
    return "\n".join([*lines, "", f"From {' and '.join(f'`{path.relative_to(ROOT)}`' for path in paths)}."])


def _jpeg_index(rows: dict[str, dict[str, Any]]) -> str:
    native, learnt, raw = (rows[f"fastsemi native{kind}"] for kind in ("", ", JPEG index", ", raw .beton"))
    settings = native["configuration"]
    size = f"{settings['mean_width']:,.0f} x {settings['mean_height']:,.0f} pixels"
    cells = [f"{settings['images']} JPEGs of {size} ({settings['what']})"]
    cells += [_rate(native), _rate(learnt), _times(learnt, native)]
    cells += [_rate(raw), _times(raw, native), _times(raw, learnt)]
    return f"| {' | '.join(cells)} |"


def _rate(row: dict[str, Any]) -> str:
    return f"{row['median']:,.0f} ({row['p20']:,.0f} to {row['p80']:,.0f})"


def _times(mine: dict[str, Any], other: dict[str, Any]) -> str:
    found = harness.ratio(mine, other)
    return f"{found['median']:.2f} ({found['p20']:.2f} to {found['p80']:.2f})"


def loader_goals_of_each_machine() -> str:
    """Which goals of the loaders are reached on each hardware."""
    results = [(path, harness.read(path)) for path in sorted(RESULTS.glob("*/loaders.json"))]
    tables = [f"{loader_goals.table(rows)}\n\nFrom `{path.relative_to(ROOT)}`." for path, rows in results]
    return "\n\n".join(tables) or "Not measured yet: `make bench`."


def augment() -> str:
    """Images/s of the CPU augmentation and its peers on each hardware."""
    results = [(path, harness.read(path)) for path in sorted(RESULTS.glob("*/augment.json"))]
    return "\n\n".join(_augment(path, rows) for path, rows in results) or (
        "Not measured yet: `python -m benchmarks.ops.augmentation`."
    )


def _augment(path: Path, rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    settings = first["configuration"]
    lines = [
        f"{cpu(first['hardware'])}, {first['threads']} threads on as many cores; {settings['count']} "
        f"photographs of {settings['size']} x {settings['size']} pixels; `native` with {first['kernels']}; "
        f"median of {first['n']} interleaved rounds (p20 to p80), commit {first['git']}, "
        f"`{path.relative_to(ROOT)}`.",
        "",
        "| augmentation | weak, images/s | native is | strong, images/s | native is |",
        "|---|--:|--:|--:|--:|",
    ]
    cells = {(row["kind"], row["name"].rsplit("/", 1)[1]): row for row in rows}
    for label in dict.fromkeys(label for _, label in cells):
        line = f"| {label} |"
        for kind in ("weak", "strong"):
            row = cells[kind, label]
            share = "" if label == "native" else f"{row['native_is']['median']:.2f} x"
            line += f" {row['median']:,.0f} ({row['p20']:,.0f} to {row['p80']:,.0f}) | {share} |"
        lines.append(line)
    return "\n".join(lines)


def measured(name: str) -> str:
    """A table of `result_tables` for each hardware that has results of that name."""
    tables = [
        f"{result_tables.TABLES[name](harness.read(path))}\n\nFrom `{path.relative_to(ROOT)}`."
        for path in sorted(RESULTS.glob(f"*/{name}.json"))
    ]
    return "\n\n".join(tables) or "Not measured yet: `make bench`, or `make gpu` on a machine with a GPU."


def study(folder: str) -> str:
    """The table that a study wrote."""
    text = (ROOT / "docs" / "studies" / folder / "table.md").read_text()
    return text[text.index("| ") :].strip()


def mixing() -> str:
    """Mixing of unlabelled images on each data set that the small network was tried on."""
    studies = ROOT / "docs" / "studies"
    names = {"digits": "digits", "fashion": "Fashion-MNIST"}
    paths = {name: studies / f"table3_small_cnn_{key}" / "seeds.csv" for key, name in names.items()}
    return paired({name: path for name, path in paths.items() if path.exists()}, "mixing", "none")


def keep_tokens() -> str:
    """Top-1 by the share of the patches that the student sees."""
    return paired({"digits": ROOT / "docs/studies/tokens_small_vit_digits/seeds.csv"}, "keep_tokens", "1.0")


def label_passes() -> str:
    """Top-1 by the passes that a pseudo label serves."""
    return paired({"digits": ROOT / "docs/studies/label_passes_digits/seeds.csv"}, "label_passes", "1")


def merge_tokens() -> str:
    """Top-1 by the tokens that each block of the teacher merges."""
    path = ROOT / "docs/studies/merge_tokens_small_vit_digits/seeds.csv"
    return paired({"digits": path}, "merge_tokens", "0")


def suggested(part: str) -> str:
    """What labels are worth by how they were chosen."""
    return label_choices.table(_load("suggest/*.json"), part)


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "digits": lambda: demo("digits"),
    "fashion-mnist": lambda: demo("fashion-mnist"),
    "stamps": lambda: demo("stamps"),
    "cifar10": lambda: demo("cifar10"),
    "clipart": lambda: demo("clipart"),
    "semilearn-over-time": lambda: over_time("digits.json", (15, 30)),
    "semilearn-time-to": lambda: time_to_accuracy("digits.json"),
    "semilearn-trials": lambda: peer_trials("digits.json"),
    "plain-over-time": lambda: over_time("digits_plain.json", (15, 30, 60)),
    "plain-time-to": lambda: time_to_accuracy("digits_plain.json"),
    "plain-trials": lambda: peer_trials("digits_plain.json"),
    "loaders": loaders,
    "loaders-spdl": partial(_loaders_in, "loaders_spdl"),
    "parts": parts,
    "jpeg-index": jpeg_index,
    "loader-goals": loader_goals_of_each_machine,
    "augment": augment,
    "steps": lambda: measured("steps"),
    "steps-compiled": lambda: measured("steps_compiled"),
    "end-to-end": lambda: measured("end_to_end"),
    "kernels": lambda: measured("kernels"),
    "peaks": lambda: measured("peaks"),
    "index": lambda: measured("index"),
    "start": lambda: measured("start"),
    "remote": lambda: measured("remote"),
    "entropy": lambda: measured("entropy"),
    **{f"study-{n}": partial(study, f"table{n}_fashion_mnist") for n in (3, 4, 5, 6)},
    "mixing": mixing,
    "keep-tokens": keep_tokens,
    "label-passes-digits": label_passes,
    "merge-tokens": merge_tokens,
    "profile-overhead": lambda: measured("profile_overhead"),
    **{f"suggest-{part}": partial(suggested, part) for part in ("first", "next")},
    "adapt": lambda: measured("adapt"),
    "cpu-step": lambda: measured("cpu_step"),
    "products": lambda: measured("products"),
    "tokens": lambda: measured("keep_tokens"),
    "label-passes": lambda: measured("label_passes"),
    "merging": lambda: measured("merge_tokens"),
    "image-sizes": lambda: measured("image_sizes"),
    "predicted": lambda: measured("predicted"),
    "inductor": lambda: measured("inductor"),
}


def render(text: str) -> str:
    """A document with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- table ([\w-]+) -->).*?(<!-- end -->)", table, text, flags=re.DOTALL)


def main() -> int:
    """Rewrite or check all documents."""
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text()
        new = render(text)
        if new != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(new)
    print(f"stale: {', '.join(stale)}" if stale else "all tables are up to date")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
