"""Rows of the benchmarks as Markdown tables, for the documents and for the GPU suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.harness import variant_tables
from benchmarks.harness.cells import Rows, cpu, machine, spread, threads
from benchmarks.harness.harness import ratio
from benchmarks.harness.product_table import products


def steps(rows: Rows) -> str:
    """The semi step of each network."""
    first = rows[0]
    settings = first["configuration"]
    peer = "fp16" if first["device"] == "cuda" else "fp32"
    lines = [
        f"{machine(first)}, {settings['precision']} (the paper's step: {peer}). A large matrix product: "
        f"{settings['peak_tflops']['median']:.3g} TFLOP/s in {settings['precision']}, "
        f"{settings['peer_peak_tflops']['median']:.3g} in {peer}.",
        "",
        "| network, labelled + unlabelled | step | unlabelled images/s | of the paper's | TFLOP/s | of the "
        "matmul peak | of the paper's, were it all of the peak | peak memory, GiB | launches | host waits |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    absent: dict[str, str] = {}
    for row in rows:
        settings = row["configuration"]
        absent |= {f"{row['model']} {name}": why for name, why in settings["absent"].items()}
        paper = f"{row['of_paper']['median']:.2f} x" if row["of_paper"] else ""
        most = f"{row['of_paper']['median'] / row['utilisation']['median']:.1f} x" if row["of_paper"] else ""
        most = most if row["label"].startswith("fastsemi") else ""
        lines.append(
            f"| {row['model']}, {settings['labelled']} + {settings['unlabelled']} | {row['label']} "
            f"| {spread(row)} | {paper} | {row['tflops']['median']:.3g} "
            f"| {row['utilisation']['median']:.0%} of {settings['peak_tflops']['median']:.3g} | {most} "
            f"| {_gib(row['peak_bytes'])} | {_count(row['launches'])} | {_count(row['host_waits'])} |"
        )
    return "\n".join([*lines, *_not_measured(absent)])


def _gib(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f}"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _not_measured(absent: dict[str, str]) -> list[str]:
    return ["", "Not measured: " + "; ".join(f"{n} ({w})" for n, w in absent.items()) + "."] if absent else []


def end_to_end(rows: Rows) -> str:
    """From files to steps."""
    first = rows[0]
    settings = first["configuration"]
    lines = [
        f"{machine(first)}. {settings['model']}, {settings['labelled']} labelled and "
        f"{settings['unlabelled']} unlabelled images a step, {settings['precision']}; {settings['images']} "
        f"JPEGs ({settings['what']}), engine {settings['engine']} with {settings['decode_threads']} threads.",
        "",
        "| | unlabelled images/s | of the step alone | loader wait |",
        "|---|--:|--:|--:|",
    ]
    for row in rows:
        wait = f"{row['wait_percent']['median']:.1f} %" if row["name"].endswith("end to end") else ""
        lines.append(f"| {row['label']} | {spread(row)} | {row['of_step']['median']:.2f} | {wait} |")
    return "\n".join(lines)


def kernels(rows: Rows) -> str:
    """Time, and bytes moved against a plain copy."""
    first = rows[0]
    settings = ", ".join(f"{name} {value}" for name, value in first["configuration"].items())
    lines = [
        f"{machine(first)}, {threads(first)}; {settings}.",
        "",
        "| kernel | ms | GB/s | of a copy |",
        "|---|--:|--:|--:|",
    ]
    for row in rows:
        rate = f"{row['gb_per_s']:,.1f}" if "gb_per_s" in row else ""
        share = f"{row['of_copy']:.0%}" if "of_copy" in row else ""
        lines.append(f"| {row['name']} | {spread(row, '.3g')} | {rate} | {share} |")
    return "\n".join(lines)


def peaks(rows: Rows) -> str:
    """The ceilings of a machine."""
    lines = [f"{machine(rows[0])}.", "", "| ceiling | measured |", "|---|--:|"]
    lines += [f"| {row['label']} | {row['rate']['median']:,.4g} {row['rate_unit']} |" for row in rows]
    return "\n".join(lines)


def index(rows: Rows) -> str:
    """Building and opening the index."""
    lines = [
        f"{machine(rows[0])}, {rows[0]['threads']} threads.",
        "",
        "| | files | ms | CPU s | files/s | peak memory, MiB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['name'].replace('_', ' ')} | {row['files']:,} | {row['median']:,.1f} "
        f"| {row['cpu_s']:.2f} | {row['files_per_s']:,.0f} | {row['peak_mib']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def entropy(rows: Rows) -> str:
    """Entropy decoders of the native operator, without and with what it has learnt of the files."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row["run"], []).append(row)
    lines = [
        f"{machine(rows[0])}, {threads(rows[0])}, time by {rows[0]['configuration']['clock']}. µs an image, "
        "and how many times as fast:",
        "",
        "| files | views | libjpeg-turbo's decoder | own | than libjpeg-turbo's | first epoch | than own "
        "| later epochs | than own |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for libjpeg, own, *epochs in runs.values():
        settings = own["configuration"]
        files = f"{settings['files']} {settings['what']}, {settings['kib']:.0f} KiB"
        line = (
            f"| {files} and {settings['index_bytes']:,.0f} bytes learnt | {settings['views']} "
            f"| {libjpeg['us']['median']:,.0f} | {own['us']['median']:,.0f} "
            f"| {spread(own['of_libjpeg'], '.2f')} |"
        )
        for row in epochs:
            line += f" {row['us']['median']:,.0f} | {spread(row['of_own'], '.2f')} |"
        lines.append(line)
    return "\n".join(lines)


def parts(rows: Rows, steps: Rows, starts: Rows) -> str:
    """What bounds each row: its largest part, and the next.

    Args:
        rows: Of `benchmarks.loading.parts`.
        steps: Of `benchmarks.step.two_trees`, which has the operations of a step on a CPU.
        starts: Of `benchmarks.loading.start`.
    """
    found = [(row["name"], f"{row['us']['median']:,.0f} µs an image", row["parts"]) for row in rows]
    for row in steps:
        if row["tree"] == "now":
            settings = row["configuration"]
            what = f"step of {settings['job']}, {settings['precision']}"
            found.append((what, f"{row['median']:,.0f} ms a step", row["kinds"]))
    seconds = {row["name"]: row["cpu_s"] for row in starts}
    networks = seconds.get("import timm")
    found += [
        (
            row["label"],
            f"{row['cpu_s']:.2f} s",
            {"imports": networks / row["cpu_s"], "all else": 1 - networks / row["cpu_s"]},
        )
        for row in starts
        if networks and row["label"].startswith(("`fastsemi probe", "`fastsemi train`"))
    ]
    first, commits = rows[0], dict.fromkeys(row["git"] for row in rows)
    lines = [
        f"{cpu(first['hardware'])}, {first['hardware']['cores']} cores; loaders with {threads(first)}, "
        f"the operator alone with one; the processors' time, commit {', '.join(commits)}.",
        "",
        "| row | processors' time | bound | next | then |",
        "|---|--:|---|---|---|",
    ]
    for what, time, share in found:
        named = [f"{part} {part_share:.0%}" for part, part_share in _largest(share)]
        rest = ", ".join(named[2:])
        lines.append(f"| {what} | {time} | {named[0]} | {named[1] if len(named) > 1 else ''} | {rest} |")
    return "\n".join(lines)


def _largest(share: dict[str, float]) -> list[tuple[str, float]]:
    """Parts of at least 3 %, largest first; what is not named comes last."""
    shown = [(part, value) for part, value in share.items() if value >= 0.03]
    return sorted(shown, key=lambda item: (item[0] in ("other", "all else"), -item[1]))


def start(rows: Rows) -> str:
    """Commands from their start to their end."""
    lines = [f"{machine(rows[0])}.", "", "| | s | CPU s |", "|---|--:|--:|"]
    lines += [f"| {row['label']} | {_in_seconds(row)} | {row['cpu_s']:.2f} |" for row in rows]
    return "\n".join(lines)


def _in_seconds(row: dict[str, Any]) -> str:
    return " to ".join(f"{row[name] / 1e3:.2f}" for name in ("p20", "p80"))


def remote(rows: Rows) -> str:
    """Images from an object store beside those of the disk."""
    first = rows[0]
    settings = first["configuration"]
    lines = [
        f"{machine(first)}. {settings['images']:,} JPEGs ({settings['what']}, {settings['kib']:.0f} KiB on "
        f"average) in a tar shard, two 224-pixel views of each, native with {threads(first)}; before each "
        f"answer of the store {settings['latency']:g} s, {settings['failing']:.0%} of requests fail.",
        "",
        "| images from | images/s | of the disk's | requests at once / latency, images/s |",
        "|---|--:|--:|--:|",
    ]
    for row in rows:
        share = "" if row is first else f"{ratio(row, first)['median']:.2f} x"
        at_once = next((n for n in settings["requests"] if f"{n} requests" in row["name"]), None)
        most = f"{at_once / settings['latency']:,.0f}" if at_once else ""
        lines.append(f"| {row['name']} | {spread(row, ',.0f')} | {share} | {most} |")
    return "\n".join(lines)


def profile_overhead(rows: Rows) -> str:
    """Steps without spans and with them, by the clock and by the processors' time."""
    first, recorded = rows[0], rows[2:]
    settings = first["configuration"]
    lines = [
        f"{machine(first)}, each {settings['steps']} steps without spans and as many with them; network "
        f"{settings['model']}, {settings['labelled']} labelled and {settings['unlabelled']} unlabelled "
        "images a step.",
        "",
        "| a step | without spans, ms | with spans, ms | overhead, median (95 %) |",
        "|---|--:|--:|--:|",
    ]
    for bare, row in zip(rows, recorded, strict=False):
        o = row["overhead"]
        lines.append(
            f"| {row['label']} | {bare['median']:.2f} | {row['median']:.2f} "
            f"| {o['median']:+.1%} ({o['low']:+.1%} to {o['high']:+.1%}) |"
        )
    row = recorded[0]
    lines.append(
        f"| {row['spans']:.0f} spans of {row['us_per_span']:.1f} µs, counted | | | {row['counted']:.2%} |"
    )
    return "\n".join(lines)


def two_trees(rows: Rows) -> str:
    """The step of two source trees, and what it consists of."""
    first = rows[0]
    kinds = list(first["kinds"])
    lines = [
        f"{machine(first)}, {threads(first)}, time by {first['configuration']['clock']}, batches in memory. "
        f"Before: commit {first['configuration']['before']}. Of the operations' time by PyTorch's profiler:",
        "",
        f"| job, labelled + unlabelled | | ms a step | times as fast | {' | '.join(kinds)} |",
        f"|---|---|--:|--:|{'--:|' * len(kinds)}",
    ]
    for row in rows:
        settings = row["configuration"]
        lines.append(
            f"| {settings['job']}, {settings['batch']} + {settings['images']}, {settings['precision']} "
            f"| {row['tree']} | {spread(row, ',.0f')} | {spread(row['of_before'], '.2f')} "
            f"| {' | '.join(format(row['kinds'][kind], '.0%') for kind in kinds)} |"
        )
    return "\n".join(lines)


def predicted(rows: Rows) -> str:
    """The semi step on GPUs by a roofline, and how near it comes on a CPU; nothing of a GPU is measured."""
    lines = [
        "PREDICTED, not measured on any GPU. ms of a step, and of the vendor's peak:",
        "",
        "| network, labelled + unlabelled | GPU | launches | peak memory, GiB | eager, ms | of peak "
        "| fused, ms | of peak |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        if row["kind"] == "predicted":
            memory = f"{row['peak_bytes'] / 2**30:.1f}{'' if row['fits'] else ', too much'}"
            lines.append(
                f"| {row['model']}, {row['labelled']} + {row['unlabelled']} "
                f"| {row['gpu']}, {row['precision']} | {row['launches']:,} | {memory} "
                f"| {row['eager_ms']:,.0f} | {row['eager_utilisation']:.0%} "
                f"| {row['fused_ms']:,.0f} | {row['fused_utilisation']:.0%} |"
            )
    for row in rows:
        if row["kind"] == "cpu":
            lines += [
                "",
                f"The same sum on a CPU, measured beside the step: {machine(row)}, {threads(row)}. "
                f"{row['model']}, {row['labelled']} + {row['unlabelled']}, {row['precision']}: predicted "
                f"{spread(row['predicted_ms'], ',.0f')} ms, measured {spread(row['measured_ms'], ',.0f')} "
                f"ms, so {spread(row['of_measured'], '.2f')} of it; from a product at "
                f"{row['tflops']['median']:.3f} TFLOP/s, a copy at {row['gb_per_s']['median']:.1f} GB/s and "
                f"{row['gap_us']['median']:.1f} µs a launch.",
            ]
    return "\n".join(lines)


def inductor(rows: Rows) -> str:
    """What torch.compile makes of the networks of the step for a GPU that is not there."""
    first = rows[0]
    lines = [
        f"COMPILED for {first['gpu']} by PyTorch {first['versions']['torch']} and Triton "
        f"{first['versions']['triton']} without one, run on none; times PREDICTED. Launches, GB besides "
        "those of products, and ms: eager, all between two products in one launch, and as Inductor fuses.",
        "",
        "| network, images | pass | launches: eager | guess | Inductor: Triton + products + others "
        "| GB: eager | guess | Inductor | ms: eager | guess | Inductor |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        calls = " + ".join(f"{row[key]:,.0f}" for key in ("kernels", "products", "others"))
        size, time = (
            " | ".join(f"{row[f'{way}_{what}'] / unit:,.1f}" for way in ("eager", "guess", "inductor"))
            for what, unit in (("bytes", 1e9), ("ms", 1))
        )
        lines.append(
            f"| {row['model']}, {row['images']} | {row['pass']} | {row['eager_launches']:,.0f} "
            f"| {row['guess_launches']:,.0f} | {row['inductor_launches']:,.0f}: {calls} | {size} | {time} |"
        )
    return "\n".join(lines)


TABLES: dict[str, Callable[[Rows], str]] = {
    "peaks": peaks,
    "steps": steps,
    "steps_compiled": steps,
    "steps_sdpa": steps,
    "end_to_end": end_to_end,
    "kernels": kernels,
    "index": index,
    "start": start,
    "remote": remote,
    "entropy": entropy,
    "profile_overhead": profile_overhead,
    **variant_tables.TABLES,
    "cpu_step": two_trees,
    "products": products,
    "predicted": predicted,
    "inductor": inductor,
}
