"""The host does not wait for the device in a step, except where it is said."""

import traceback
from collections import Counter

import pytest
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from fastsemi.common.progress import Progress
from fastsemi.run.build import build_stage, build_trainer
from fastsemi.run.context import RunContext
from fastsemi.stages.base import Ratio
from fastsemi.training.metrics import Accumulator, MetricLog

# Operations whose result the host needs: they wait on a GPU.
WAITING = {
    "aten::_local_scalar_dense",  # item(), int(), float(), bool()
    "aten::nonzero",  # also boolean indexing
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::bincount",
    "aten::repeat_interleave.Tensor",
}


class HostWaits(TorchDispatchMode):
    """Counts waiting operations by the function of the project that asked for them."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        boolean = func._schema.name in ("aten::index", "aten::index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if func._schema.name in WAITING or boolean:
            frames = [f for f in traceback.extract_stack() if "/fastsemi/" in f.filename]
            where = f"{frames[-1].filename.rsplit('/', 1)[1]}:{frames[-1].name}" if frames else "elsewhere"
            self.found[f"{func._schema.name} in {where}"] += 1
        return func(*args, **(kwargs or {}))


def steps(run, stage_name, count):
    """The function `go(mode)`: `count` steps of a stage through the trainer's own update, under a mode."""
    trainer = build_trainer(
        run,
        build_stage(run, stage_name),
        stage_name,
        MetricLog(run.folder.metrics, run.folder.board),
        Progress(Console(quiet=True)),
    )

    def go(mode):
        with trainer.batches(trainer.data.load) as batches:
            with mode:
                for _ in range(count):
                    trainer.update(batches)
                    trainer.step += 1

    return go


def test_the_counter_sees_what_waits():
    x = torch.arange(4)
    with HostWaits() as waits:
        x[0].item()
        x[x > 1]
        x.nonzero()
        int(x.sum())
        bool(x.any())
    assert sum(waits.found.values()) >= 5


class Copies(TorchDispatchMode):
    """Counts tensors made of numbers of the host's, by torch.tensor or torch.as_tensor.

    What copies them to a GPU waits for all that was launched before.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name == "aten::lift_fresh"
        return func(*args, **(kwargs or {}))


def test_metrics_copy_no_number_to_the_device():
    with Copies() as copies:
        torch.as_tensor(1, dtype=torch.float32)
    assert copies.count == 1
    metrics, total = Accumulator(torch.device("cpu")), torch.ones(())
    with Copies() as copies:
        metrics.add({"ratio": Ratio(total, 4), "flags": Ratio(total > 0, (total > 0).sum())})
        metrics.add({"ratio": Ratio(total, 4)})
    assert copies.count == 0
    assert metrics.read() == {"ratio": 0.25, "flags": 1.0}


@pytest.mark.parametrize(
    ("mixing", "skip", "kernels"),
    [
        ("prob", "true", "torch"),
        ("prob", "false", "torch"),
        ("pseudo_plus", "true", "torch"),
        ("pseudo_plus", "false", "torch"),
        ("prob", "false", "triton"),  # in the interpreter slow: each choice once
        ("pseudo_plus", "true", "triton"),
    ],
)
def test_a_semi_step_reads_one_count(tiny, kernels, skip, mixing):
    """The count of kept samples of each micro-batch; on a CPU also whether the gradient is finite."""
    run = RunContext(
        tiny(
            *("--stages", "[semi]", "--kernels", kernels, "--semi.skip_rejected", skip),
            *("--semi.mixing", mixing, "--semi.micro_batches", "2", "--semi.clip_grad", "1"),
            *("--semi.batch", "2", "--semi.unlabelled_ratio", "2", "--semi.merge_tokens", "2"),
        )
    )
    waits, count = HostWaits(), 2 if kernels == "torch" else 1
    try:
        steps(run, "semi", count)(waits)
    finally:
        run.close()
    expected = {"aten::_local_scalar_dense in update.py:check": count}
    if skip == "true":
        expected["aten::_local_scalar_dense in compaction.py:select"] = 2 * count
    assert dict(waits.found) == expected


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_other_stages_read_nothing(tiny, stage):
    run = RunContext(tiny("--stages", f"[{stage}]"))
    waits = HostWaits()
    try:
        steps(run, stage, 3)(waits)
    finally:
        run.close()
    assert dict(waits.found) == {"aten::_local_scalar_dense in update.py:check": 3}


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("stage", ["pretrain", "finetune", "semi"])
def test_no_operation_waits_on_a_gpu(tiny, kernels, stage):
    run = RunContext(tiny("--stages", f"[{stage}]", "--kernels", kernels, "--device", "cuda"))
    go = steps(run, stage, 20)
    try:
        with torch.random.fork_rng():
            torch.cuda.set_sync_debug_mode("error")
            go(torch.random.fork_rng())
    finally:
        torch.cuda.set_sync_debug_mode("default")
        run.close()
