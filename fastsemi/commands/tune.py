"""The command `fastsemi tune`."""

from __future__ import annotations

import re
from pathlib import Path

from fastsemi.commands.inputs import require_file, require_inputs
from fastsemi.commands.options import command_parser, configure
from fastsemi.common.errors import UserError
from fastsemi.common.telling import tell
from fastsemi.stages.names import STAGES


def seconds(text: str) -> float:
    """A time such as 60, 60s or 2m, in seconds.

    Raises:
        UserError: It is none, or not positive.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|)", text.strip())
    if not found or float(found[1]) <= 0:
        raise UserError(f"--budget {text} is no time; write 60s or 2m")
    return float(found[1]) * (60 if found[2] == "m" else 1)


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi tune` with the words that follow it; returns the exit code."""
    parser = command_parser(
        "tune",
        "Find the fastest loader settings on this machine and write them as a preset, to be added as a "
        "second --config.",
    )
    parser.add_argument("what", choices=("loader",), help="what to tune")
    parser.add_argument("--budget", default="60s", help="time to take, such as 60s or 2m")
    parser.add_argument("--out", type=Path, default=Path("tuned.yaml"), help="preset to write")
    parser.add_argument("--stage", choices=STAGES, help="by default the last stage")
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    require_inputs(config, config.stages)
    budget = seconds(options.budget)
    require_file("--out", options.out)  # before a minute of measurements
    from rich.table import Table

    from fastsemi.common.files import replacing
    from fastsemi.common.hardware import hardware
    from fastsemi.common.progress import QuietConsole
    from fastsemi.run.fit_batches import with_fitting_batches
    from fastsemi.tools.profile.search import search
    from fastsemi.tools.profile.tuning import Bench, table_rows, to_yaml

    config = with_fitting_batches(config, options.by_hand)
    bench = Bench(config, options.stage or config.stages[-1])
    try:
        result = search(
            config.loader, bench.changes(), bench.measure, budget, say=lambda text: tell(f"measuring {text}")
        )
    finally:
        bench.close()
    console = QuietConsole()
    table = Table("engine", "threads", "prefetch", "DALI", title="medians of n measurements at any time")
    table.add_column("images/s", justify="right")
    table.add_column("n", justify="right")
    table.add_column("")
    for row in table_rows(result):
        table.add_row(*row)
    console.print(table)
    machine = hardware()
    with replacing(options.out) as file:
        file.write(to_yaml(result, f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores"))
    if result.best == result.default:
        text = "nothing was faster than the default in the final check, so the default is written"
    else:
        assert result.gain is not None
        text = f"in the final check {result.gain[0]:.2f} times the default's rate (p20 {result.gain[1]:.2f})"
    console.print(f"{text}: add --config {options.out}", highlight=False, soft_wrap=True)
    return 0
