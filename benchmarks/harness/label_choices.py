"""What labels are worth by how they were chosen, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.curves import spread

LEARNERS = ("label spreading", "logistic regression")


def table(found: Sequence[dict[str, Any]], part: str = "first") -> str:
    """Rows of `benchmarks.accuracy.suggest` by data, number of labels and choice, beside labels at random.

    Args:
        found: Of each data what its file holds.
        part: first, next or recipe.
    """
    learners = ("teacher",) if part == "recipe" else LEARNERS
    heads = [f"{name} | above random" for name in learners]
    lines = [
        f"| data | labels | chosen | classes found | {' | '.join(heads)} | seeds |",
        "|---|--:|---|--:|" + "--:|--:|" * len(learners) + "--:|",
    ]
    for data in found:
        rows = [row for row in data["rows"] if row["part"] == part]
        for labels, choice in dict.fromkeys((row["labels"], row["choice"]) for row in rows):
            mine = {r["seed"]: r for r in rows if (r["labels"], r["choice"]) == (labels, choice)}
            base = {r["seed"]: r for r in rows if (r["labels"], r["choice"]) == (labels, "random")}
            both = [seed for seed in mine if seed in base]
            cells = []
            for name in learners:
                cells.append(spread([row[name] for row in mine.values()]))
                above = [mine[seed][name] - base[seed][name] for seed in both]
                cells.append(spread(above, sign=True) if above and choice != "random" else "")
            classes = sum(row["classes"] for row in mine.values()) / len(mine)
            cells = [data["data"], str(labels), choice, f"{classes:.1f}", *cells, str(len(mine))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
