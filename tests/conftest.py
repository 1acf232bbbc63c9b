"""Shared fixtures, and the skip of tests that need a GPU."""

import contextlib
import gc
import importlib
import logging
import os
import runpy
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import pytest
from PIL import Image

gc.disable()  # until all tests are imported, of which nothing goes
ROOT = Path(__file__).parent

# The files that take longest start first, so that none is left for the end, when other processes have nothing
# to do; each is one process's (`--dist loadfile`), so that what its tests share is made once.
LONGEST = """
parallel/test_elastic.py parallel/test_world_sizes.py benchmarks/test_loaders_benchmark.py tools/test_study.py
benchmarks/test_gpu.py parallel/test_slurm.py run/test_interrupted_runs.py parallel/test_rules_shared.py
tools/test_dry_run.py rehearsal/test_steps.py loaders/test_engines.py house/test_contributing.py
tools/test_profile.py kernels/test_triton_mix.py kernels/test_triton_compiled.py
kernels/test_triton_augment.py benchmarks/test_steps_benchmark.py loaders/test_engine_failures.py
test_api.py tools/test_memory.py models/test_export.py rehearsal/test_graphs.py tools/test_estimate.py
tools/test_report.py rehearsal/test_planted_faults.py probing/test_probe_in_a_run.py stages/test_compile.py
run/test_plan_file.py run/test_presets.py stages/test_rules_in_training.py tools/test_budget.py
stages/test_kernel_choice.py run/test_run.py stages/test_host_waits.py tools/test_tune.py
probing/test_classifiers.py commands/test_cli.py tools/test_cluster_page.py faults/test_hostile_files.py
faults/test_stuck.py
""".split()


# Tests in these fork the process that they run in, which later tests may leave unfit for it: autograd on a
# device, also on one that is pretended, starts threads that a child does not have.
FORKING = (
    *("parallel", "faults", "run/test_interrupted_runs.py", "commands/test_cli.py", "tools/test_study.py"),
    *("benchmarks/test_gpu.py", "benchmarks/test_loaders_benchmark.py"),
)


def _place(item):
    name = os.path.relpath(item.path, ROOT)
    longest = LONGEST.index(name) if name in LONGEST else len(LONGEST)
    return not name.startswith(FORKING), longest


def pytest_collection_modifyitems(config, items):
    items.sort(key=_place)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


def pytest_runtest_setup(item):
    """Skip what needs an engine that is not installed; not before, since to import FFCV takes seconds."""
    from fastsemi.loaders.engines import dali, ffcv

    asked = {"dali": dali.available, "ffcv": ffcv.available}
    engine = item.callspec.params.get("engine") if hasattr(item, "callspec") else None
    if engine in asked and (reason := asked[engine]()):
        pytest.skip(reason)


def pytest_collection_finish(session):
    """Spare each later collection of garbage what all tests share: a fifth of a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def loggers_as_they_were():
    """Let no command that a test runs in this process silence what a later test listens to."""
    yield
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "fastsemi"]:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def index_cache(tmp_path_factory, monkeypatch):
    """Keep the index cache of the tests out of the user's home."""
    monkeypatch.setenv("FASTSEMI_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def warm():
    """What a run imports and makes once, for the processes that are forked from this one."""
    for name in (
        *("torch.distributed.fsdp", "torch.distributed.tensor", "torch.utils.tensorboard"),
        *("fastsemi.commands.train", "fastsemi.run.run", "fastsemi.tools.report.page"),
    ):
        importlib.import_module(name)
    from fastsemi.run.config import make_parser

    make_parser()
    Image.init()


@pytest.fixture
def pageless(monkeypatch):
    """Runs draw no page about themselves, which takes as long as their training; the function that would."""
    from fastsemi.commands import train

    draw = train._report
    monkeypatch.setattr(train, "_report", lambda config, console: None)
    return draw


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
def fork(warm):
    """The class above."""
    return _Fork


class _Held:
    """The threads, open files and child processes of this process, when it was made."""

    def __init__(self):
        gc.collect()
        tasks = os.listdir("/proc/self/task")
        self.counts = {"python threads": threading.active_count(), "threads": len(tasks)}
        self.counts["files"] = len(os.listdir("/proc/self/fd"))
        self.counts["children"] = 0
        for task in tasks:
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/self/task/{task}/children") as file,
            ):
                self.counts["children"] += len(file.read().split())

    def assert_nothing_more(self, patience_s=20):
        """Fail where there is more now, and still after a while: what was closed may need a moment to end.

        Less is no fault: what an earlier test left may end at any time.
        """
        deadline = time.monotonic() + patience_s
        while more := {name: count for name, count in _Held().counts.items() if count > self.counts[name]}:
            assert time.monotonic() < deadline, f"{more}, before: {self.counts}"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def held():
    """The class above: `before = held()`, then `before.assert_nothing_more()`."""
    return _Held


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


@pytest.fixture(scope="session")
def grey_shapes(shapes, tmp_path_factory):
    """The pictures of `shapes` without colours."""
    root = tmp_path_factory.mktemp("grey_shapes")
    for path in shapes.rglob("*.png"):
        target = root / path.relative_to(shapes)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("L").save(target)
    return root


@pytest.fixture(scope="session")
def make_tiny(shapes):
    """The function `make_tiny(folder)`: `tiny` of runs in a folder."""
    return lambda folder: _tiny(shapes, folder)


@pytest.fixture
def tiny(make_tiny, tmp_path):
    """The function `tiny(*options)`: a configuration of three stages that trains in a second or two."""
    return make_tiny(tmp_path)


def _tiny(shapes, folder):
    from fastsemi.run import config as configuration

    preset = folder / "tiny.yaml"
    preset.write_text(
        f"""
output: {folder / "run"}
log_every: 2
train:
  baseline: none
  calibrate: false
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


@pytest.fixture
def untrained(tiny):
    """The function `untrained(*options)`: a configuration whose run has a network of random weights."""
    from fastsemi.common.files import replacing
    from fastsemi.models.create import create_model
    from fastsemi.models.timm_folder import export_timm
    from fastsemi.run import config as configuration

    def make(*options, classes=("bar", "cross", "dot")):
        config = tiny(*options)
        torch.manual_seed(0)
        network = create_model(config.model, num_classes=len(classes), image_size=16)
        with torch.no_grad():
            network.head.weight.mul_(1e3)  # so that it has opinions
        described = {"mean": config.data.mean, "std": config.data.std, "crop": config.data.eval_crop}
        folder = config.output / "model"
        export_timm(network, folder, config=config.model, class_names=classes, image_size=16, **described)
        with replacing(config.output / "config.yaml") as file:
            file.write(configuration.to_yaml(config))
        return config

    return make
