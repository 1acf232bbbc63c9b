"""Shared fixtures, and the skip of tests that need a GPU."""

import os
import runpy
import subprocess
import sys
import time
import traceback

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import pytest
from PIL import Image


def pytest_collection_modifyitems(config, items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def index_cache(tmp_path_factory, monkeypatch):
    """Keep the index cache of the tests out of the user's home."""
    monkeypatch.setenv("FASTSEMI_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


class _Fork:
    """What `subprocess.Popen` is for `python -m MODULE ...`, forked from the tests' process.

    The imports of a new one take longer than what most of the tests run in it.
    """

    def __init__(self, command, *, stdout, stderr, stdin=None, cwd=None, env=None, start_new_session=True):
        assert command[:2] == [sys.executable, "-m"] and start_new_session
        self.pid, self.returncode = os.fork(), None
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            os.dup2(stdout.fileno(), 1)
            os.dup2(1 if stderr == subprocess.STDOUT else stderr.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            os.chdir(cwd or ".")
            os.environ |= env or {}
            sys.argv = command[2:]
            runpy.run_module(command[2], run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self):
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def wait(self, timeout=100):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.02)
        return self.returncode


@pytest.fixture(scope="session")
def fork():
    """The class above."""
    return _Fork


@pytest.fixture(scope="session")
def photo():
    """The function `photo(width, height, seed)`."""
    return _photo


def _photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A colourful picture with edges and gradients, unlike noise kind to JPEG."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / rng.uniform(3, 30) + y / rng.uniform(3, 30) + rng.uniform(0, 6)) for _ in range(3)]
    image = np.stack(waves, -1) * 100 + 128
    image[height // 4 : height // 2, width // 4 : width // 2] = rng.integers(0, 255, 3)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A learnable image folder: three classes of 16 x 16 pictures, 40 to train and 10 to evaluate each."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for label, name in enumerate(("bar", "cross", "dot")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 60, (16, 16, 3))
                x, y = rng.integers(4, 12, 2)
                if label < 2:
                    image[y - 1 : y + 1] = 220
                if label == 1:
                    image[:, x - 1 : x + 1] = 220
                if label == 2:
                    image[y - 2 : y + 2, x - 2 : x + 2] = 220
                Image.fromarray(image.astype(np.uint8)).save(folder / f"{i:03}.png")
    return root


@pytest.fixture
def tiny(shapes, tmp_path):
    """The function `tiny(*options)`: a configuration of three stages that trains in a second or two."""
    from fastsemi.run import config as configuration

    preset = tmp_path / "tiny.yaml"
    preset.write_text(
        f"""
output: {tmp_path / "run"}
log_every: 2
train:
  baseline: none
precision: fp32
data: {{root: {shapes}, labels: {{per_class: 4}}, image_size: 16, eval_crop: 1.0}}
loader: {{threads: 2, timeout_s: 30}}
model:
  name: vit_tiny_patch16_224
  args: {{patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2}}
pretrain: {{length: 8 steps, warmup: 2 steps, batch: 24, decoder_dim: 16, decoder_depth: 1, decoder_heads: 2}}
finetune: {{length: 8 steps, warmup: 2 steps, batch: 12, eval_every: 4 steps, checkpoint_every: 3 steps}}
semi: {{length: 8 steps, warmup: 2 steps, batch: 6, momentum: 0.9, threshold: 0.3, checkpoint_every: 3 steps}}
"""
    )
    return lambda *options: configuration.load([preset], options)
