"""What can be said of the compiled kernels without a GPU: registers, load widths, and what a tracer sees."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

OLD = pytest.importorskip("triton").__version__.startswith("3.6.")

ROOT = Path(__file__).parents[2]
# The most instructions of sm_90, a tenth above what there were when the kernels were last made faster.
MOST_INSTRUCTIONS = {
    "pseudo_label, C = 1000": 460,
    "soft_ce forward, C = 1000": 410,
    "soft_ce backward, C = 1000": 460,
    "mix, erase": 1560,  # a mask for each pixel in place of each group of 16 took 2,480
    "mix, erase, fp32": 1690,
    "mix, erase, side 98": 710,
    "mix, nothing erased": 880,
    "mix, normalise only": 285,
    "augment, statistics": 4400 if OLD else 1830,
    "augment, pass": 2500,
}
CAPABILITIES = {70, 75, 80, 90, 100, 120}

# Traces every operator on tensors that have a shape and a device but no data. Triton's analysis of which
# arguments a kernel writes asks the driver for its target, and without a GPU there is no driver to ask.
TRACE = """
import torch, triton
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from fastsemi.kernels import pseudo_label, soft_ce
from fastsemi.kernels.augment import operator as augment
from fastsemi.kernels.mix import operator as mix

class Target:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Target())
with FakeTensorMode():
    logits = torch.empty(4, 10, device="cuda")
    label, box, key = (torch.empty(s, dtype=torch.int64, device="cuda") for s in (4, (4, 4), (4, 2)))
    lam, centre = torch.empty(4, device="cuda"), torch.empty(4, 2, device="cuda")
    cutmix = torch.empty(4, dtype=torch.bool, device="cuda")
    passes = torch.empty(6, 8, dtype=torch.int32, device="cuda")
    op, affine = torch.empty(7, dtype=torch.int32, device="cuda"), torch.empty(1, 6, device="cuda").double()
    images = torch.empty(4, 32, 32, 3, dtype=torch.uint8, device="cuda")

def step(logits, label, lam, box, key, centre, cutmix, images, passes, op, affine):
    plan = passes, op, logits[0], affine
    images = torch.ops.fastsemi.augment(images, *plan, [4, 2, 1, 2, 0, 0], 2, [1, 2, 3])
    pixels = dict(erase_box=box, erase_key=key, mean=(0.5,) * 3, std=(0.5,) * 3, dtype=torch.bfloat16)
    top, confidence = pseudo_label.pseudo_label(logits)
    mixed, kept = mix.mix(images, label, confidence, cutmix, centre, **pixels)
    plain = mix.normalise(images, **pixels)
    rows = logits, top, label, kept, lam
    loss, log_sum = torch.ops.fastsemi.soft_ce(*rows, 0.1)
    return mixed, plain, torch.ops.fastsemi.soft_ce_backward(loss, *rows, log_sum, 0.1)

graph = aot_export_joint_simple(
    step, [logits, label, lam, box, key, centre, cutmix, images, passes, op, affine], trace_joint=False
).graph
names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
print(sum("triton_kernel_wrapper" in name for name in names), sum("fastsemi" in name for name in names))
"""


# Both in one process, since each would import PyTorch again.
COMPILE = "from benchmarks.ops.kernel_resources import main; main()"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Rows of every kernel for every GPU, and what the trace printed."""
    table = tmp_path_factory.mktemp("compiled") / "resources.json"
    done = subprocess.run(
        [sys.executable, "-c", COMPILE + TRACE, "--json", str(table)],
        **{"cwd": ROOT, "env": {**os.environ, "TRITON_INTERPRET": "0"}},
        **{"capture_output": True, "text": True, "timeout": 580},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(table.read_text()), done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kernels_compile_for_every_gpu_without_spills_and_with_wide_loads(compiled):
    rows, _ = compiled
    kernels = {row["kernel"] for row in rows}
    assert {(row["kernel"], row["capability"]) for row in rows} == {
        (k, c) for k in kernels for c in CAPABILITIES
    }
    for row in rows:
        assert row["spill_bytes"] == 0, row
        assert row["wide_loads"] >= row["least_wide_loads"], row
        # With 96 an SM of 65,536 registers still holds five blocks of four warps, with 128 four: Triton 3.6
        # takes as many on the GPUs after Hopper.
        instructions = row.get("instructions", {"all": 0})["all"]
        assert instructions <= MOST_INSTRUCTIONS.get(row["kernel"], instructions), row
        assert (instructions > 0) == (row["capability"] == 90), row
        assert row["registers"] <= (128 if OLD and row["capability"] >= 100 else 96), row


@pytest.mark.slow
def test_a_compiled_graph_sees_the_kernels_inside_the_operators(compiled):
    kernels, opaque = map(int, compiled[1].split())
    assert kernels == 5 + 4 and opaque == 0
