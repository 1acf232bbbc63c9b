"""Long runs on few small images, and what they hold of memory, threads and files as they go on.

    python tests/faults/leaks.py --steps 10000 --epochs 50

trains one stage for many steps and one for many epochs, each of which is evaluated and saved, and compares
the last quarter of each with its second quarter: a process that holds more and more shows it there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kills import make_images  # beside this file
from rich.console import Console

from fastsemi.common.progress import Progress
from fastsemi.run import config as configuration
from fastsemi.run.run import Run

MOST = 16.0  # MiB that the last quarter may hold more: what the allocator keeps comes and goes
PRESET = """
log_every: {log_every}
precision: fp32
device: cpu
train: {{baseline: none}}
data: {{root: {root}, labels: {{per_class: 4}}, image_size: 16, eval_crop: 1.0}}
loader: {{threads: 2, timeout_s: 300, engine: {engine}}}
model:
  name: vit_tiny_patch16_224
  args: {{patch_size: 8, embed_dim: 16, depth: 1, num_heads: 1}}
finetune:
  {{length: {steps} steps, warmup: 2 steps, batch: 2, eval_every: {steps} steps,
    checkpoint_every: {steps} steps}}
semi:
  {{length: {epochs} epochs, warmup: 2 steps, batch: 2, unlabelled_ratio: 2, threshold: 0.3,
    eval_every: 1 epochs, checkpoint_every: 1 epochs}}
"""


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    memory: float
    """MiB that are resident."""
    threads: int
    files: int
    """Open descriptors."""


def held() -> Held:
    """As Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    memory = int(status["VmRSS"].split()[0]) / 1024
    return Held(memory, int(status["Threads"]), len(os.listdir("/proc/self/fd")))


class Watched(Progress):
    """Shows nothing; notes what is held at each row of metrics, or after each evaluation, of a stage."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.rows: dict[str, list[Held]] = {}
        self.evaluations: dict[str, list[Held]] = {}

    def update(self, step: int, row: dict[str, float]) -> None:
        """At a row."""
        self.rows.setdefault(self._stage, []).append(held())

    def scores(self, step: int, scores: dict[str, float]) -> None:
        """After an evaluation."""
        self.evaluations.setdefault(self._stage, []).append(held())


def grown(found: list[Held]) -> tuple[Held, Held]:
    """Medians of the second and of the last quarter."""
    quarter = len(found) // 4
    return _median(found[quarter : 2 * quarter]), _median(found[-quarter:])


def _median(found: list[Held]) -> Held:
    of = {name: statistics.median(getattr(one, name) for one in found) for name in Held.__dataclass_fields__}
    return Held(**of)


def leaks(before: Held, after: Held) -> bool:
    """Whether more is held."""
    return after.memory > before.memory + MOST or after.threads > before.threads or after.files > before.files


def main() -> int:
    """Train, and say what was held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000, help="of fine-tuning")
    parser.add_argument("--epochs", type=int, default=50, help="of the semi stage, each evaluated and saved")
    parser.add_argument("--engine", default="native", help="as loader.engine")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as work:
        os.environ["FASTSEMI_CACHE"] = f"{work}/cache"
        make_images(Path(work))
        preset = Path(work, "leaks.yaml")
        every = max(1, args.steps // 200)
        filled = {"steps": args.steps, "epochs": args.epochs, "engine": args.engine, "log_every": every}
        preset.write_text(PRESET.format(root=work, **filled))
        watched = Watched()
        for stage, where in (("finetune", watched.rows), ("semi", watched.evaluations)):
            config = configuration.load([preset], ["--stages", f"[{stage}]", "--output", f"{work}/{stage}"])
            Run(config, watched).train(config.stages)
            before, after = grown(where[stage])
            failed = failed or leaks(before, after)
            length = f"{args.steps:,} steps" if stage == "finetune" else f"{args.epochs} epochs"
            print(
                f"{stage}, {length}, {len(where[stage])} looks: second quarter {before.memory:.1f} MiB, "
                f"{before.threads:g} threads, {before.files:g} files; last quarter {after.memory:.1f} MiB, "
                f"{after.threads:g} threads, {after.files:g} files",
                flush=True,
            )
    return failed


if __name__ == "__main__":
    sys.exit(main())
