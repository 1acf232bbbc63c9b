"""What `fastsemi study` prints, and the files it leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastsemi.tools.study.jobs import StudyPlan
from fastsemi.tools.study.results import (
    seed_means,
    text_table,
    write_cells,
    write_markdown,
    write_seeds,
)
from fastsemi.tools.study.study_file import Study


def show_overview(console: Console, study: Study, plan: StudyPlan) -> None:
    """One line: cells, seeds, runs by stage, and how many of them have finished."""
    stages = Counter(job.stage for job in plan.jobs.values())
    done = sum(job.result.exists() for job in plan.jobs.values())
    runs = ", ".join(f"{count} {stage}" for stage, count in stages.items())
    console.print(
        f"{study.title}: {len(study.cells)} cells, {len(plan.entries)} with all seeds, in {len(plan.jobs)} "
        f"runs ({runs}); {done} finished",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def show_progress(console: Console, plan: StudyPlan) -> None:
    """A line for each cell and seed: which stage runs it is made of, and which have finished."""
    table = Table()
    for column in ("cell", "seed", "runs", "state"):
        table.add_column(column)
    for entry in plan.entries:
        done = [job.result.exists() for job in entry.jobs]
        state = "finished" if all(done) else f"{sum(done)} of {len(done)} stages"
        runs = " ".join(job.folder.name for job in entry.jobs)
        table.add_row(escape(entry.cell.name), str(entry.seed), runs, state)
    console.print(table)


def report_results(
    console: Console, study: Study, plan: StudyPlan, folder: Path, failed: Mapping[Path, str]
) -> None:
    """Print the table and what failed; write `cells.csv`, `seeds.csv`, `table.md` and the plot."""
    from fastsemi.tools.study.plot import draw

    rows = seed_means(study, plan.entries)
    for job, reason in failed.items():
        cells = [e for e in plan.entries if any(j.folder == job for j in e.jobs)]
        names = "; ".join(f"{entry.cell.name}, seed {entry.seed}" for entry in cells[:3])
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        console.print(
            f"failed: {names}{more}: {reason} (see {job}/log.txt)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if not any(row.seeds for row in rows):
        return
    head, lines = text_table(study, rows)
    table = Table(title=escape(study.title))
    for column in head:
        table.add_column(escape(column))
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)
    folder.mkdir(parents=True, exist_ok=True)
    write_cells(study, rows, folder / "cells.csv")
    write_seeds(study, plan.entries, folder / "seeds.csv")
    write_markdown(study, rows, folder / "table.md")
    draw(study, rows, folder)
    console.print(f"written to {folder}", highlight=False, markup=False, soft_wrap=True)
