"""Runs that are killed, again and again, at random moments and inside of writing, and what they leave.

    python tests/faults/kills.py --kills 20

kills a small run of three stages with each engine that is here, and compares the weights of every stage with
those of a run that was left alone.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

# What a run needs, imported once: each run is a fork.
import fastsemi.run.run
import fastsemi.tools.report.page  # noqa: F401
from fastsemi.commands import cli
from fastsemi.loaders.engines.choose import unavailable
from fastsemi.run.folder import RunFolder
from fastsemi.stages.names import STAGES
from fastsemi.training.checkpoint import file as checkpoint_file

PRESET = """
log_every: 1
precision: fp32
device: cpu
train: {{baseline: none}}
data: {{root: {root}, labels: {{per_class: 4}}, image_size: 32, eval_crop: 1.0}}
loader: {{threads: 2, timeout_s: 60}}
model:
  name: vit_tiny_patch16_224
  args: {{patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}}
pretrain:
  {{length: {steps} steps, warmup: 2 steps, batch: 12, checkpoint_every: 2 steps,
    decoder_dim: 16, decoder_depth: 1, decoder_heads: 2}}
finetune:
  {{length: {steps} steps, warmup: 2 steps, batch: 6, ema: 0.9, eval_every: 5 steps,
    checkpoint_every: 2 steps}}
semi:
  {{length: {steps} steps, warmup: 2 steps, batch: 4, momentum: 0.9, threshold: 0.3, eval_every: 5 steps,
    checkpoint_every: 2 steps}}
"""


@dataclass(frozen=True)
class Kill:
    """When a run is killed: some seconds after its start, or as it is about to sync its n-th file."""

    seconds: float | None = None
    syncs: int | None = None


@dataclass
class Ended:
    """A run that came to its end."""

    kills: int
    """Kills that met it alive."""
    in_writing: int
    """Those of them that came inside of writing."""


def make_images(root: Path) -> None:
    """Three classes of JPEGs and PNGs, 16 to train and 4 to evaluate each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for label, name in enumerate("abc"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (6, 7, 3)).astype(np.uint8)
                pixels[..., label] //= 3
                image = Image.fromarray(pixels).resize((48 + i, 44))
                image.save(folder / f"{i:02}.{'png' if i % 4 == 3 else 'jpg'}")


def preset(folder: Path, steps: int) -> Path:
    """The images and a configuration that trains on them."""
    make_images(folder / "images")
    path = folder / "preset.yaml"
    path.write_text(PRESET.format(root=folder / "images", steps=steps))
    return path


def run(words: Sequence[str], log: Path, kill: Kill | None = None) -> int:
    """Run `fastsemi` in a fork.

    Returns:
        Its exit code; negative where a signal ended it.
    """
    pid = os.fork()
    if not pid:
        code = 70
        try:
            with log.open("a") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            torch.set_num_threads(1)
            if kill and kill.syncs is not None:
                _die_at_sync(kill.syncs)
            code = cli.main(words)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + (kill.seconds if kill and kill.seconds is not None else 600)
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _die_at_sync(number: int) -> None:
    """Kill this process as it is about to sync its n-th file: what it wrote may lie there unnamed."""
    left, sync = [number], os.fsync

    def fsync(file: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    os.fsync = fsync


def run_to_the_end(words: Sequence[str], log: Path, kills: Sequence[Kill]) -> Ended:
    """Start a run again after each kill until it ends.

    Raises:
        RuntimeError: It ended with an error; its output is in the log.
    """
    ended = Ended(0, 0)
    for kill in [*kills, None]:
        code = run(words, log, kill)
        if code == 0:
            return ended
        if kill is None or code != -signal.SIGKILL:
            raise RuntimeError(f"{' '.join(words)} ended with {code}: {log.read_text()[-2000:]}")
        ended.kills += 1
        ended.in_writing += kill.syncs is not None
    raise AssertionError("the last run is not killed")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that every stage of a run left."""
    results = {stage: RunFolder(folder).result(stage) for stage in STAGES}
    found = {s: checkpoint_file.load(path)["model"] for s, path in results.items() if path.exists()}
    return {f"{stage}.{name}": tensor for stage, state in found.items() for name, tensor in state.items()}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Tensors that are not equal, bit for bit."""
    return [
        name
        for name in sorted(a.keys() | b.keys())
        if name not in a or name not in b or not torch.equal(a[name], b[name])
    ]


def draw(rng: random.Random, count: int, seconds: float) -> list[Kill]:
    """As many kills, half of them inside of writing."""
    return [
        Kill(syncs=rng.randint(1, 25)) if rng.random() < 0.5 else Kill(seconds=rng.uniform(0, seconds))
        for _ in range(count)
    ]


def main() -> int:
    """Kill runs of each engine and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of the runs of each engine")
    parser.add_argument("--steps", type=int, default=30, help="of each of the three stages")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    missing = unavailable()
    rng, failed = random.Random(args.seed), False
    with tempfile.TemporaryDirectory() as work:
        os.environ["FASTSEMI_CACHE"] = f"{work}/cache"
        config = preset(Path(work), args.steps)
        for engine in ("native", "dali", "reference"):
            if engine in missing:
                print(f"{engine}: not tried, {missing[engine]}")
                continue
            words = ["train", "--config", str(config), "--loader.engine", engine, "--output"]
            alone = Path(work, f"{engine}-alone")
            begun = time.monotonic()
            run_to_the_end([*words, str(alone)], Path(work, f"{engine}.log"), [])
            seconds, wanted = time.monotonic() - begun, weights(alone)
            total, writing, runs, wrong = 0, 0, 0, 0
            while total < args.kills:
                runs += 1
                folder = Path(work, f"{engine}-{runs}")
                moments = draw(rng, args.kills - total, seconds / 2)
                ended = run_to_the_end([*words, str(folder)], Path(f"{folder}.log"), moments)
                total, writing = total + ended.kills, writing + ended.in_writing
                wrong += bool(differing(weights(folder), wanted))
            print(
                f"{engine}: {total} kills, {writing} of them inside of writing, in {runs} runs; "
                f"{runs - wrong} ended with the weights of the run that was left alone, bit for bit",
                flush=True,
            )
            failed = failed or wrong > 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
