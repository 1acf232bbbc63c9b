"""The command `fastsemi probe`."""

from __future__ import annotations

import json
import sys

from fastsemi.commands.inputs import require_inputs
from fastsemi.commands.options import command_parser, configure
from fastsemi.common.telling import tell


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi probe` with the words that follow it; returns the exit code."""
    parser = command_parser(
        "probe",
        "What the labels are worth without training: simple classifiers on the pixels and, with "
        "model.pretrained or model.weights, on the frozen features.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    require_inputs(config, config.stages)
    from rich.table import Table

    from fastsemi.common.progress import QuietConsole
    from fastsemi.probing.probe import to_json
    from fastsemi.run.baseline import judge_run
    from fastsemi.run.selected import evaluated_on

    found = judge_run(config, tell)
    if options.json:
        sys.stdout.write(json.dumps(to_json(found.rows), indent=2) + "\n")
        return 0
    images = f"{found.images} {evaluated_on(config)}"
    table = Table(title=f"{found.labels} labels, {found.classes} classes, {images}; nothing is trained")
    for column in ("features", "classifier", "top-1 %", "balanced %", "seconds"):
        table.add_column(column, justify="left" if column in ("features", "classifier") else "right")
    for row in found.rows:
        table.add_row(
            row.features, row.classifier, f"{row.top1:.1f}", f"{row.balanced:.1f}", f"{row.seconds:.1f}"
        )
    QuietConsole().print(table)
    return 0
