"""Mean and deviation over seeds beside the paper's numbers, as CSV and Markdown."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastsemi.common.files import csv_safe, replacing
from fastsemi.tools.study.jobs import SeededCell
from fastsemi.tools.study.study_file import QUANTITIES, Cell, Number, Study

HEADS = {"finetune": "fine-tuned", "student": "student", "teacher": "teacher", "gain": "teacher - fine-tuned"}


@dataclass(frozen=True)
class Row:
    """A cell over its seeds."""

    cell: Cell
    seeds: tuple[int, ...]  # those that have finished
    values: dict[str, tuple[float, ...]]  # by quantity, one for each of the seeds

    def mean(self, quantity: str) -> float | None:
        """Mean over the seeds; None without any."""
        values = self.values.get(quantity)
        return statistics.mean(values) if values else None

    def deviation(self, quantity: str) -> float | None:
        """Sample standard deviation over the seeds (n - 1 in the denominator); None below two."""
        values = self.values.get(quantity, ())
        return statistics.stdev(values) if len(values) > 1 else None


def seed_means(study: Study, entries: Sequence[SeededCell]) -> list[Row]:
    """One row a cell, in the order of the grid.

    The quantity `gain` is the teacher's top-1 minus that of the fine-tuned network of the same seed.
    """
    found = []
    for cell in study.cells:
        mine = [entry for entry in entries if entry.cell is cell and entry.finished]
        scores = [entry.accuracies() for entry in mine]
        for score in scores:
            if {"teacher", "finetune"} <= score.keys():
                score["gain"] = score["teacher"] - score["finetune"]
        names = [name for name in HEADS if scores and all(name in score for score in scores)]
        values = {name: tuple(score[name] for score in scores) for name in names}
        found.append(Row(cell, tuple(entry.seed for entry in mine), values))
    return found


def paper_columns(study: Study) -> list[tuple[str, str, str]]:
    """Columns of the paper's numbers: head, preset of the paper ("" for the cell's own), quantity."""
    columns = {}
    for cell in study.cells:
        own = set(cell.paper) <= {cell.preset}
        for preset, numbers in cell.paper.items():
            for quantity in (name for name in QUANTITIES if name in numbers):
                what = "" if quantity == "teacher" else f", {HEADS[quantity]}"
                name = "" if own else preset
                columns[f"paper{what}" if own else f"paper: {name}{what}"] = (name, quantity)
    return [(head, *column) for head, column in columns.items()]


def paper_number(cell: Cell, preset: str, quantity: str) -> Number | None:
    """The paper's number in a column of `paper_columns`."""
    return cell.paper.get(preset or cell.preset, {}).get(quantity)


def text_table(study: Study, results: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and rows as text: `mean ± deviation`, seeds, and the paper's numbers."""
    several = len({row.cell.preset for row in results}) > 1
    shown = [name for name in HEADS if any(name in row.values for row in results)]
    columns = paper_columns(study)
    head = [*(["preset"] if several else []), *study.axes, *(HEADS[name] for name in shown), "seeds"]
    head += [column[0] for column in columns]
    lines = []
    for row in results:
        line = [row.cell.preset] if several else []
        line += [*row.cell.values, *(_text(row, name) for name in shown), str(len(row.seeds))]
        for _, preset, quantity in columns:
            number = paper_number(row.cell, preset, quantity)
            line.append("" if number is None else str(number))
        lines.append(line)
    return head, lines


def _text(row: Row, quantity: str) -> str:
    mean, deviation = row.mean(quantity), row.deviation(quantity)
    if mean is None:
        return ""
    sign = "+" if quantity == "gain" else ""
    return f"{mean:{sign}.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def write_markdown(study: Study, results: Sequence[Row], path: Path) -> None:
    """The table with its title, what the columns mean, and the failures of the paper spelled out."""
    head, lines = text_table(study, results)
    text = [f"# {study.title}", "", "Top-1 in %: mean ± sample standard deviation over the seeds.", ""]
    if study.note:
        text += [study.note.strip(), ""]
    text += [_markdown(head), _markdown(["---"] * len(head)), *map(_markdown, lines)]
    with replacing(path) as file:
        file.write("\n".join(text) + "\n")


def _markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def write_cells(study: Study, results: Sequence[Row], path: Path) -> None:
    """A CSV with a line for each cell: means, deviations, number of seeds, the paper's numbers."""
    columns = paper_columns(study)
    head = ["preset", *study.axes, "n"]
    head += [f"{name}_{part}" for name in HEADS for part in ("mean", "std")] + [c[0] for c in columns]
    with replacing(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(csv_safe, head))
        for row in results:
            figures = [x for name in HEADS for x in (row.mean(name), row.deviation(name))]
            numbers = [paper_number(row.cell, preset, quantity) for _, preset, quantity in columns]
            writer.writerow(
                [
                    *map(csv_safe, (row.cell.preset, *row.cell.values)),
                    len(row.seeds),
                    *("" if figure is None else f"{figure:.4f}" for figure in figures),
                    *("" if number is None else number for number in numbers),
                ]
            )


def write_seeds(study: Study, entries: Sequence[SeededCell], path: Path) -> None:
    """A CSV with a line for each finished cell and seed, and the run directory of its last stage."""
    with replacing(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(csv_safe, ("preset", *study.axes, "seed", *QUANTITIES, "seconds", "run")))
        for entry in entries:
            if entry.finished:
                scores = entry.accuracies()
                figures = [f"{scores[name]:.4f}" if name in scores else "" for name in QUANTITIES]
                run = entry.jobs[-1].folder.name
                writer.writerow(
                    [
                        *map(csv_safe, (entry.cell.preset, *entry.cell.values)),
                        entry.seed,
                        *figures,
                        f"{entry.seconds():.1f}",
                        run,
                    ]
                )
