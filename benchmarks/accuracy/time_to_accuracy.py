"""Accuracy over CPU seconds: fastsemi, a plain FixMatch, and FixMatch and FreeMatch of semilearn.

    pip install --no-deps --target SITE semilearn==0.3.2 ruamel.yaml progress
    OMP_NUM_THREADS=1 PYTHONPATH=SITE python -m benchmarks.time_to_accuracy data/digits \
        --seeds 0,1,2,3,4 --seconds 60 --batch 8 --ema 0.99

All have the same labels, images, network and one thread. Methods take turns on each seed, so that all see the
same load of the machine; CPU seconds of the process and of its workers are counted, not those of the clock. A
training that the file of results has is not run again. `--methods fastsemi,plain` does without semilearn.
`--lr`, `--batch` and `--ema` change settings of the peers.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import curve_plot, fastsemi_curve, peer_plain, peer_semilearn
from benchmarks.harness import curves, tables
from benchmarks.harness.curves import Curve
from benchmarks.harness.environment import environment
from fastsemi.common.allocator import keep_memory
from fastsemi.common.errors import UserError
from fastsemi.run.config import Config, load

ROOT = Path(__file__).parents[2]
ORDER = ("fastsemi", "plain", *peer_semilearn.METHODS)


def main() -> int:
    """Train what is missing; returns the exit code."""
    options = _parser().parse_args()
    out = options.out or ROOT / "benchmarks" / "results" / "peers" / f"{options.data.name}.json"
    torch.set_num_threads(1)
    keep_memory()  # which fastsemi does for itself
    try:
        for number, seed in enumerate(options.seeds):
            turn = number % len(options.methods)
            for method in (*options.methods[turn:], *options.methods[:turn]):
                _once(options, out, method, seed)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.plots:
        spreading = tables.label_spreading(options.data.name)
        curve_plot.draw(curves.read(out), spreading, options.plots, f"{out.stem}_curves")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that `fastsemi data` wrote")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "demo" / "digits.yaml")
    parser.add_argument("--seeds", type=_seeds, default=(0, 1, 2, 3, 4), help="such as 0,1,2")
    parser.add_argument("--methods", type=_methods, default=ORDER, help=f"some of {','.join(ORDER)}")
    parser.add_argument("--seconds", type=_positive, default=60.0, help="CPU seconds of each peer")
    parser.add_argument("--every", type=_positive, default=5.0, help="CPU seconds between their evaluations")
    parser.add_argument("--lr", type=_positive, default=peer_semilearn.RECOMMENDED["lr"])
    parser.add_argument("--batch", type=_count, default=peer_semilearn.RECOMMENDED["batch_size"])
    parser.add_argument("--ema", type=_share, default=peer_semilearn.RECOMMENDED["ema_m"])
    parser.add_argument("--out", type=Path, help="JSON file that results are added to")
    parser.add_argument("--plots", type=Path, help="folder of the plot")
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below one")
    return value


def _methods(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if odd := set(words) - set(ORDER):
        raise argparse.ArgumentTypeError(f"unknown {', '.join(sorted(odd))}; known are {', '.join(ORDER)}")
    return words


def _once(options: argparse.Namespace, out: Path, method: str, seed: int) -> None:
    peer = {"lr": options.lr, "batch": options.batch, "ema": options.ema, "budget": options.seconds}
    settings = {} if method == "fastsemi" else peer
    if any(_is(curve, method, seed, settings) for curve in curves.read(out)):
        return
    with tempfile.TemporaryDirectory() as folder:
        config = configure(options.config, options.data, seed, Path(folder) / "run")
        curve = _train(options, method, config)
    curves.add(out, curve, environment())
    shown = ", ".join(f"{name} {top1:.1f}" for name, top1 in curve.points[-1].top1.items())
    print(
        f"{method} {settings or ''} seed {seed}: {curve.steps} steps, {curve.seconds:.0f} s, {shown}",
        flush=True,
    )


def _train(options: argparse.Namespace, method: str, config: Config) -> Curve:
    name, lr, batch, ema = options.data.name, options.lr, options.batch, options.ema
    span = {"budget": options.seconds, "every": options.every}
    if method == "fastsemi":
        return fastsemi_curve.train(config, name)
    if method == "plain":
        return peer_plain.train(config, name, **span, lr=lr, batch=batch, ema=ema)
    changed = {"lr": lr, "batch_size": batch, "ema_m": ema}
    return peer_semilearn.train(config, name, method, **span, settings=changed)


def _is(curve: Curve, method: str, seed: int, settings: dict[str, Any]) -> bool:
    return (curve.method, curve.seed) == (method, seed) and settings.items() <= curve.settings.items()


def configure(preset: Path, data: Path, seed: int, output: Path) -> Config:
    """The recipe on these labels, in one thread, evaluated more often, its last network kept."""
    return load(
        [preset],
        [
            *("--data.root", str(data), "--output", str(output)),
            *("--seed", str(seed), "--data.labels.seed", str(seed)),
            *("--device", "cpu", "--loader.threads", "1"),
            *("--train.baseline", "none", "--train.select", "last", "--train.calibrate", "false"),
            *("--finetune.eval_every", "50 steps", "--semi.eval_every", "50 steps"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
