"""The semi step by the passes that a pseudo label of the teacher serves: time and peak memory, in one run.

    python -m benchmarks.step.label_passes [--models S,lite0,resnet] [--label_passes 1,2,4] [--json OUT.json]

As `benchmarks.step.tokens` with `semi.label_passes` in place of `semi.keep_tokens`. The times are means over
steps that the teacher labels and steps that take the labels of an earlier pass, as many of each as in
training; the peak is that of the former.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from benchmarks.harness import harness
from benchmarks.step import variants
from benchmarks.step.synthetic import DISTINCT


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options.
    """
    return variants.compare(
        argv,
        __doc__,
        "label_passes",
        models="S,lite0,resnet",
        values="1,2,4",
        full="1",
        parse=lambda text: int(text) if text.isdecimal() and int(text) else None,
        kind="number of passes, such as 2",
        cycle=lambda values: DISTINCT * math.lcm(*map(int, values)),
    )


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
