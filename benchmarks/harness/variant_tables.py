"""Tables of the semi step by one of its settings: time and peak memory beside those of one of the values."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.cells import Rows, machine, spread, threads


def adapt(rows: Rows) -> str:
    """The semi step by what of the network is trained."""
    return _variants(rows, "adapt", "model.adapt")


def keep_tokens(rows: Rows) -> str:
    """The semi step by the share of the patches that the student sees."""
    return _variants(rows, "keep_tokens", "semi.keep_tokens")


def merge_tokens(rows: Rows) -> str:
    """The semi step by the tokens that each block of the teacher merges."""
    return _variants(rows, "merge_tokens", "semi.merge_tokens")


def label_passes(rows: Rows) -> str:
    """The semi step by the passes that a pseudo label serves."""
    return _variants(rows, "label_passes", "semi.label_passes")


def image_sizes(rows: Rows) -> str:
    """The semi step by the side of the views, in pixels."""
    return _variants(rows, "image_size", "data.image_size", full="the whole side")


def _variants(rows: Rows, key: str, setting: str, *, full: str = "") -> str:
    first = rows[0]
    full = full or next(row[key] for row in rows if row["peak_of_full"] == 1)
    lines = [
        f"{machine(first)}, {first['configuration']['precision']}, {threads(first)}, time by "
        f"{first['configuration']['clock']}.",
        "",
        f"| network, labelled + unlabelled | `{setting}` | trained parameters | ms a step "
        f"| times as fast as {full} | peak memory, MiB | of {full}'s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        settings, of_full = row["configuration"], row["of_full"]
        lines.append(
            f"| {settings['model']}, {settings['labelled']} + {settings['unlabelled']} | `{row[key]}` "
            f"| {row['trained']:,} | {spread(row, ',.0f')} | {spread(of_full, '.2f')} "
            f"| {row['peak_bytes'] / 2**20:,.0f} | {row['peak_of_full']:.2f} |"
        )
    return "\n".join(lines)


TABLES: dict[str, Callable[[Rows], str]] = {
    "adapt": adapt,
    "keep_tokens": keep_tokens,
    "merge_tokens": merge_tokens,
    "label_passes": label_passes,
    "image_sizes": image_sizes,
}
