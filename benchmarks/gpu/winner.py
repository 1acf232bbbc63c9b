"""JPEG files to steps with the engine that `benchmarks.loaders` found the fastest.

    python -m benchmarks.gpu.winner FOLDER [options of benchmarks.step.end_to_end]

Reads `FOLDER/loaders.json` and writes `FOLDER/end_to_end.json`. Without rows of engines the engine is `auto`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import harness
from benchmarks.step import end_to_end

_ROWS = re.compile(r"fastsemi (native|dali, hw_load ([\d.]+))")  # engines on a folder of files


def options(rows: list[dict[str, Any]]) -> list[str]:
    """What `benchmarks.step.end_to_end` is told of the fastest engine."""
    found = [(row["median"], match) for row in rows if (match := _ROWS.fullmatch(row["label"]))]
    if not found:
        return []
    _, match = max(found, key=lambda pair: pair[0])
    return ["--engine", "dali", "--hw_load", match[2]] if match[2] else ["--engine", "native"]


def main() -> None:
    """Choose, say so, and measure."""
    folder, rest = Path(sys.argv[1]), sys.argv[2:]
    path = folder / "loaders.json"
    chosen = options(harness.read(path)) if path.exists() else []
    print(f"chosen by {path.name}: {' '.join(chosen) or 'nothing, so that the engine is auto'}")
    end_to_end.run([*chosen, "--json", str(folder / "end_to_end.json"), *rest])


if __name__ == "__main__":
    sys.exit(harness.exit_code(main))
