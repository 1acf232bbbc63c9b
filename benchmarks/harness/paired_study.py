"""What a study's variants differ by on the same seeds, with the interval of the mean difference."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy.stats import t

LEVEL = 0.95


def paired(files: Mapping[str, Path], axis: str, against: str) -> str:
    """A table of a study's runs: the teacher of each variant, and its difference to one of them by seed.

    The interval is Student's, of the mean of the paired differences.

    Args:
        files: `seeds.csv` of a study by the name of its data.
        axis: The column that names variants.
        against: The variant to compare with.
    """
    rows = [
        f"| data | {axis} | fine-tuned | teacher | teacher − {against}, paired | 95 % interval | seeds |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, path in files.items():
        teachers: dict[str, dict[str, float]] = defaultdict(dict)
        tuned: dict[str, dict[str, float]] = defaultdict(dict)
        for row in csv.DictReader(path.read_text().splitlines()):
            if row["teacher"]:
                teachers[row[axis]][row["seed"]] = float(row["teacher"])
                tuned[row[axis]][row["seed"]] = float(row["finetune"])
        for variant, found in teachers.items():
            both = [seed for seed in found if seed in teachers[against]]
            differences = [found[seed] - teachers[against][seed] for seed in both]
            shown = "| | |" if variant == against else _difference(differences)
            before, after = _spread(list(tuned[variant].values())), _spread(list(found.values()))
            rows.append(f"| {name} | {variant} | {before} | {after} {shown} {len(both)} |")
    return "\n".join(rows)


def _difference(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"| {mean:+.1f} | |"
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"| {mean:+.1f} ± {statistics.stdev(values):.1f} | {mean - half:+.1f} to {mean + half:+.1f} |"


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"
