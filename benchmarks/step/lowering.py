"""Networks through torch.compile for a CUDA GPU that is not there, down to the text of the Triton kernels.

Dynamo, AOTAutograd and Inductor are PyTorch's own, with fake tensors for inputs and the data sheet of an H100
for a device. Nothing is run, autotuned or timed. Inductor's parts are called as its own `compile_fx` does,
by names that are private to it: with another PyTorch this may need another look.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo.device_interface as device_interface
import torch._functorch.config as functorch
import torch._inductor.config as inductor
import torch._inductor.scheduler as scheduler
import triton
from torch import Tensor, nn
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor import ir
from torch._inductor.compile_fx import (
    _recursive_post_grad_passes,
    _recursive_record_original_output_strides,
    compile_fx,
    fake_tensor_prop,
    shape_env_from_inputs,
    view_to_reshape,
)
from torch._inductor.debug import DebugContext
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from triton.backends.compiler import GPUTarget

from fastsemi.run.pretended_cuda import DEVICE
from fastsemi.run.trace import Operation, Watch

CAPABILITY = (9, 0)
# Lines of Inductor's program: a launch of a Triton kernel, and a sum over what its programs left.
_KERNEL, _SUM = r"^ +triton_\w+\.run\(", r"^ +\w+ = workspace_\w+\[.*\.sum\(dim=0\)"
# An H100 SXM, of what Inductor asks a device for.
PROPERTIES = SimpleNamespace(
    name="NVIDIA H100",
    major=CAPABILITY[0],
    minor=CAPABILITY[1],
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    total_memory=80 << 30,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
    L2_cache_size=50 << 20,
    gcnArchName="",
)


class _Target:
    """In place of Triton's driver."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return DEVICE


@dataclass(frozen=True)
class Graph:
    """What Inductor makes of a graph of PyTorch's operations."""

    what: str
    """`forward`, `backward`, or `inference` where no gradient is asked for."""
    products: list[Operation]
    """Matrix products, attention and convolutions, each a call of a library; what they read and write."""
    fused: list[Operation]
    """What Inductor fuses, in order; bytes by its own count: of each buffer what is used, once."""
    kernels: int
    """How many of them are Triton kernels. The others add up what such a kernel leaves, by PyTorch's sum."""
    others: Counter[str]
    """Calls of PyTorch's other operations, as random numbers, by name."""
    code: str
    """The Python program with the text of the kernels."""

    @property
    def launches(self) -> int:
        """On the device, where each call is one."""
        return len(self.products) + len(self.fused) + self.others.total()


def lower(network: nn.Module, images: Tensor, dtype: torch.dtype) -> list[Graph]:
    """Compile a call of a network, and its backward pass where gradients are on.

    Within `pretended_cuda` and a `FakeTensorMode` that allows inputs which are not fake.

    Args:
        network: On `DEVICE`, with fake tensors.
        images: [B, 3, S, S] on `DEVICE`, a fake tensor.
        dtype: Of autocast.

    Returns:
        Graphs in the order in which Inductor gets them; one of a kind where nothing breaks a graph.
    """
    found: list[Graph] = []

    def inner(gm: torch.fx.GraphModule, inputs: Any, **options: Any) -> Any:
        with _pretended_compiler():
            found.append(_lower(gm, inputs, options))
        return make_boxed_func(gm.forward)

    def backend(gm: torch.fx.GraphModule, inputs: Any) -> Any:
        return compile_fx(gm, inputs, inner_compile=inner)

    torch._dynamo.reset()
    with (
        functorch.patch(force_non_lazy_backward_lowering=True),  # with its forward pass, not when it is run
        # Random numbers as in training. Constants are folded on a device, which is not there. With threads to
        # compile with, Triton begins in other processes.
        inductor.patch(fallback_random=True, joint_graph_constant_folding=False, compile_threads=1),
        torch.autocast("cuda", dtype),
    ):
        torch.compile(network, backend=backend)(images)
    torch._dynamo.reset()
    return found


def _lower(gm: torch.fx.GraphModule, inputs: Any, options: dict[str, Any]) -> Graph:
    """What `compile_fx_inner` does to a graph, but for running Triton."""
    inference, backward = options.get("is_inference", False), options.get("is_backward", False)
    view_to_reshape(gm)
    with torch.no_grad():
        mode = fake_tensor_prop(gm, inputs)
    _recursive_record_original_output_strides(gm)
    with V.set_fake_mode(mode):
        _recursive_post_grad_passes(gm, is_inference=inference)
        graph = GraphLowering(
            gm,
            example_inputs=inputs,
            shape_env=shape_env_from_inputs(inputs),
            is_inference=inference,
            is_backward=backward,
            graph_id=options.get("graph_id"),
        )
        with V.set_debug_handler(DebugContext()), V.set_graph_handler(graph), V.set_extern_kernel_nodes([]):
            graph.run(*inputs)
            code = graph.codegen()[0].value
            fused, libraries = _nodes(graph)
        kernels, sums = (len(re.findall(line, code, re.MULTILINE)) for line in (_KERNEL, _SUM))
        assert len(fused) == kernels + sums, f"{len(fused)} operations, {kernels} kernels and {sums} sums"
        with torch.no_grad(), mode, Watch(device=DEVICE) as watch:
            gm(*inputs)
    products = [operation for operation in watch.operations if operation.flops]
    others = libraries - Counter(operation.name for operation in products)
    assert libraries.total() == len(products) + others.total(), "a product is no call of a library"
    what = "backward" if backward else "inference" if inference else "forward"
    return Graph(what, products, fused, kernels, others, code)


def _nodes(graph: GraphLowering) -> tuple[list[Operation], Counter[str]]:
    """Fused kernels, and how often which operation of a library is called."""
    fused, libraries = list[Operation](), Counter[str]()
    for node in graph.scheduler.nodes:
        if isinstance(node, scheduler.ExternKernelSchedulerNode):
            if not isinstance(node.node, ir.MultiOutput):  # one result of several is no call
                libraries[_name(node.node)] += 1
        elif not isinstance(node, scheduler.NopKernelSchedulerNode):
            read, written = (
                node.get_read_write_buffers_sizes_impl(include_reads=reads, include_writes=not reads)
                for reads in (True, False)
            )
            fused.append(Operation("fused", 0, read, written, torch.float32))
    return fused, libraries


def _name(node: Any) -> str:
    """`mm` of `extern_kernels.mm` and of `torch.ops.aten.mm.default`."""
    parts = node.python_kernel_name.split(".")
    return parts[parts.index("aten") + 1] if "aten" in parts else parts[-1]


@contextmanager
def _pretended_compiler() -> Iterator[None]:
    """Within, Inductor and Triton find an H100."""
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda *_: PROPERTIES,
        "get_device_capability": lambda *_: CAPABILITY,
        "get_device_name": lambda *_: PROPERTIES.name,
        "is_current_stream_capturing": lambda: False,
        "_lazy_init": lambda *_: None,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_: None,
    }
    with ExitStack() as stack:
        for name, instead in cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, instead))
        for where, name, value in (
            (triton.runtime.driver, "_active", _Target()),
            (scheduler, "has_triton", lambda: True),
            (device_interface.CudaInterface, "get_device_properties", staticmethod(lambda *_: PROPERTIES)),
        ):
            stack.enter_context(patch.object(where, name, value))
        for cache, value in (("properties", [PROPERTIES]), ("current", 0)):
            caches = {
                "properties": device_interface.caching_worker_device_properties,
                "current": device_interface.caching_worker_current_devices,
            }
            stack.enter_context(patch.dict(caches[cache], cuda=value))
        yield
