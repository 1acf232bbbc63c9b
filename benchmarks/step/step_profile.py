"""What one step does besides taking time: memory, launches, waits of the host, and the time of its phases."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from fastsemi.common.spans import BETWEEN, STEP, Recorder, record, recording

WINDOW = "benchmarks.step"
# Operations whose result the host needs: item(), float(), bool(), and indexing with a mask.
MASKED = ("aten::index", "aten::index_put_")
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")


def phases(step: Callable[[], object], device: torch.device, count: int) -> dict[str, float]:
    """Milliseconds of each span that `step` records, the median of `count` steps.

    Time counts for the innermost span; `step` is what lies in none.
    """
    found: dict[str, list[float]] = {}
    for _ in range(count):
        recorder = Recorder(device, steps=1, warmup=0)
        with recording(recorder), record(STEP):
            step()
        for name, seconds in recorder.per_step().items():
            found.setdefault(name, []).append(1e3 * seconds)
    return {name: statistics.median(values) for name, values in found.items() if name != BETWEEN}


class Reads(TorchDispatchMode):
    """Counts the values that the host reads: where a step on a GPU would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and go on. An optimizer's step counters are on the host anywhere."""
        name = func._schema.name
        masks = name in MASKED and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += (name in READS or masks) and not _inside_optimizer()
        return func(*args, **(kwargs or {}))


def _inside_optimizer() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if "torch/optim/" in frame.f_code.co_filename and frame.f_code.co_name != "wrapper":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def state_bytes(networks: Iterable[nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Bytes that stay between steps: weights, buffers and the optimizer's state."""
    tensors = [t for network in networks for t in (*network.parameters(), *network.buffers())]
    tensors += [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return sum(t.nbytes for t in {id(t): t for t in tensors}.values())


def inspect(
    step: Callable[[], object], device: torch.device, *, compiled: bool = False
) -> dict[str, int | None]:
    """Run one step under PyTorch's profiler.

    Args:
        step: What to run.
        device: Where it runs.
        compiled: Whether torch.compile is in it, which does not go together with counting on a CPU.

    Returns:
        `launches`: kernels launched, None on a CPU. `host_waits`: calls in which the host waited for the GPU;
        on a CPU the values it read, for which it would wait on a GPU, None where compiled. `step_bytes`: most
        memory allocated at once beyond what was before the step.
    """
    gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with profile(activities=kinds, profile_memory=not gpu) as found:
        with record_function(WINDOW):
            step()
        if gpu:
            torch.cuda.synchronize()
    assert found.profiler is not None and found.profiler.kineto_results is not None
    events = found.profiler.kineto_results.events()
    (window,) = [e for e in events if e.name() == WINDOW and str(e.device_type()).endswith("CPU")][:1]
    first, last = window.start_ns(), window.start_ns() + window.duration_ns()
    inside = [e for e in events if first <= e.start_ns() <= last]
    if gpu:
        names = [e.name() for e in inside if str(e.device_type()).endswith("CPU")]
        return {
            "launches": sum("LaunchKernel" in name for name in names),
            "host_waits": sum(name.startswith("cu") and "Synchronize" in name for name in names),
            "step_bytes": torch.cuda.max_memory_allocated() - before,
        }
    reads = None
    if not compiled:
        with Reads() as counter:
            step()
        reads = counter.count
    return {
        "launches": None,
        "host_waits": reads,
        "step_bytes": _peak(e for e in inside if e.name() == "[memory]"),
    }


def _peak(events: Iterable[Any]) -> int:
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
