"""The differences that docs/studies/README.md speaks of are those of the committed runs."""

import csv
import statistics
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[2] / "docs" / "studies"


def _teachers(table, **cell):
    """Top-1 of the teacher by seed."""
    with open(STUDIES / f"table{table}_fashion_mnist" / "seeds.csv") as file:
        rows = [row for row in csv.DictReader(file) if all(row[key] == cell[key] for key in cell)]
    return {row["seed"]: float(row["teacher"]) for row in rows}


@pytest.mark.parametrize(
    ("table", "axis", "low", "high", "method"),
    [
        (3, "mixing", "none", "prob", None),
        *((4, "threshold", "0", "0.8", method) for method in ("EMA-Teacher", "Semi-ViT")),
        *((5, "momentum", "0", "0.99", method) for method in ("EMA-Teacher", "Semi-ViT")),
        *((6, "epochs", "0", "100", method) for method in ("EMA-Teacher", "Semi-ViT")),
    ],
)
def test_paired_differences_in_the_text(table, axis, low, high, method):
    text = (STUDIES / "README.md").read_text()
    section = text[text.index(f"### Table {table}") :].split("\n### ")[0].replace("−", "-")
    cell = {"method": method} if method else {}
    before, after = (_teachers(table, **{axis: value}, **cell) for value in (low, high))
    assert set(before) == set(after) == {"0", "1", "2"}
    gains = [after[seed] - before[seed] for seed in sorted(before)]
    assert f"{statistics.mean(gains):+.1f} ± {statistics.stdev(gains):.1f}" in section
