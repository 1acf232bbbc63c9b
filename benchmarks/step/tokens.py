"""The semi step by the share of the patches that the student sees: time and peak memory, in one run.

    python -m benchmarks.step.tokens [--models S,small] [--keep_tokens 1,0.75,0.5,0.25] [--json OUT.json]

As `benchmarks.step.adapt` with `semi.keep_tokens` in place of `model.adapt`: whole updates on loaded batches,
every sample kept. The teacher sees all patches in any case.
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
        "keep_tokens",
        models="S,small",
        values="1,0.75,0.5,0.25",
        full="1",
        parse=_share,
        kind="share in (0, 1], such as 0.5",
    )


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 < share <= 1 else None


if __name__ == "__main__":
    sys.exit(harness.exit_code(run))
