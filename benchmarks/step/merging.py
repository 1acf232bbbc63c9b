"""The semi step by the tokens that each block of the teacher merges: time and peak memory, in one run.

    python -m benchmarks.step.merging [--models S] [--merge_tokens 0,4,8,13] [--json OUT.json]

As `benchmarks.step.tokens` with `semi.merge_tokens` in place of `semi.keep_tokens`. The student merges none
in any case.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.harness import harness
from benchmarks.step import variants


def run(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and write what the command line asks for.

    Raises:
        UserError: Wrong options.
    """
    return variants.compare(
        argv,
        __doc__,
        "merge_tokens",
        models="S",
        values="0,4,8,13",
        full="0",
        parse=lambda text: int(text) if text.isdecimal() else None,
        kind="number of tokens, such as 8",
    )


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
