"""Runs of several processes on this machine, each a fork of the test's with torchrun's environment."""

import json
import os
import signal
import socket
import sys
import time
import traceback
from types import SimpleNamespace

import pytest
import torch

from fastsemi.commands import cli

# Sets that no batch divides: 15 labelled images in batches of 8, 105 unlabelled ones in batches of 40. 3 more
# labelled ones choose the network, fewer than there may be processes.
PRESET = """
output: {output}
log_every: 1
precision: fp32
device: cpu
eval_batch: 8
train: {{baseline: none}}
data: {{root: {root}, labels: {{per_class: 6, validation: 0.17}}, image_size: 16, eval_crop: 1.0}}
loader: {{threads: 1, timeout_s: 60}}
distributed: {{timeout_s: 90}}
model:
  name: vit_tiny_patch16_224
  args: {{patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2}}
pretrain:
  {{length: 3 steps, warmup: 1 steps, batch: 24, micro_batches: 4,
    decoder_dim: 16, decoder_depth: 1, decoder_heads: 2}}
finetune: {{length: 3 steps, warmup: 1 steps, batch: 8, micro_batches: 4, ema: 0.9, drop_path: 0.5}}
semi:
  {{length: 10 steps, warmup: 2 steps, batch: 8, micro_batches: 4, momentum: 0.9, threshold: 0.3,
    drop_path: 0.5, clip_grad: 3.0, eval_every: 5 steps, checkpoint_every: 3 steps}}
"""


@pytest.fixture
def preset(shapes, tmp_path):
    """The function `preset(name)`: the output directory and the words of `fastsemi train` for it."""

    def write(name, *options):
        folder = tmp_path / name
        path = tmp_path / f"{name}.yaml"
        path.write_text(PRESET.format(output=folder, root=shapes))
        return folder, ["train", "--config", str(path), *options]

    return write


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(world, main, log):
    """Fork `world` processes that each call `main(rank)`, the exit code; their output goes to `log`.N."""
    port, pids = free_port(), []
    for rank in range(world):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        code = 70
        try:
            with open(f"{log}.{rank}", "a") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            torch.set_num_threads(1)
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            code = main(rank)
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pids


def wait(pids, seconds=100):
    """Exit codes, negative where a signal ended a process; kills what hangs."""
    codes, deadline = {}, time.monotonic() + seconds
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for pid in set(pids) - set(codes):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                codes[pid] = "hung"
        time.sleep(0.05)
    return [codes[pid] for pid in pids]


def run(world, words, log, prepare=lambda rank: None):
    """Run the command line `words`, after `prepare(rank)`; the exit codes, and what all processes said."""

    def main(rank):
        prepare(rank)
        return cli.main(words)

    codes = wait(start(world, main, log))
    return codes, [open(f"{log}.{rank}").read() for rank in range(world)]


def rows(folder, stage, key="loss"):
    """The rows of `metrics.jsonl` of a stage that hold `key`."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["stage"] == stage and key in row]


@pytest.fixture
def processes(warm, pageless):
    """The functions above."""
    return SimpleNamespace(free_port=free_port, start=start, wait=wait, run=run, rows=rows)
