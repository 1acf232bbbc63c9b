"""The backward pass node by node in Python, for tensors on a device that this machine does not have.

PyTorch's engine makes each node's device the current one, which only a device that is there can be. The nodes
themselves do not care: this calls them in the engine's order and frees what they saved as the engine does.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_TASK = 1  # any number: what names a backward pass to `torch.utils.checkpoint`


class _Saved:
    """A tensor that a node keeps for its backward pass, until that has run."""

    def __init__(self, tensor: Tensor):
        self.tensor: Tensor | None = tensor


@contextmanager
def python_backward() -> Iterator[None]:
    """Within, backward passes of graphs built within run here, in place of PyTorch's engine."""
    used: list[_Saved] = []

    def unpack(saved: _Saved) -> Tensor:
        used.append(saved)
        assert saved.tensor is not None, "a graph has one backward pass"
        return saved.tensor

    def run(
        roots: Sequence[Tensor],
        grads: Sequence[Tensor],
        keep_graph: bool,
        create_graph: bool,
        inputs: tuple[Any, ...],
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, ...]:
        if keep_graph or create_graph:
            raise NotImplementedError("a graph has one backward pass, and none of its own")
        edges, wanted = ([torch.autograd.graph.get_gradient_edge(t) for t in ts] for ts in (roots, inputs))
        caught: dict[Any, list[Tensor | None]] = {edge.node: [] for edge in wanted}
        with torch.no_grad():
            _run(edges, grads, used, caught)
        return tuple(caught[node][place] if caught[node] else None for node, place, *_ in wanted)  # type: ignore

    engine, task = torch.autograd._engine_run_backward, torch._C._current_graph_task_id
    torch.autograd._engine_run_backward = run  # type: ignore[assignment,attr-defined]
    torch._C._current_graph_task_id = lambda: _TASK  # type: ignore[assignment]
    try:
        with saved_tensors_hooks(_Saved, unpack):
            yield
    finally:
        torch.autograd._engine_run_backward = engine  # type: ignore[attr-defined]
        torch._C._current_graph_task_id = task


def _run(
    edges: list[Any], grads: Sequence[Tensor], used: list[_Saved], caught: dict[Any, list[Tensor | None]]
) -> None:
    """From the newest node to the oldest, each once all that it feeds is known.

    Args:
        edges: Nodes to begin with, and which of their results.
        grads: Of these.
        used: What nodes read of what they saved.
        caught: Nodes of which the gradients are asked for, which are filled in; the pass ends at them, and
            nothing is then left in `grad`.
    """
    roots = list(dict.fromkeys(edge.node for edge in edges))
    waits_for = _dependencies(roots)
    arrived: dict[Any, list[Tensor | None]] = {}
    order, ready = count(), list[tuple[int, int, Any]]()
    for edge, start in zip(edges, grads, strict=True):
        _arrive(arrived, edge.node, edge.output_nr, start)
    for root in roots:
        if not waits_for[root]:
            heapq.heappush(ready, (-root._sequence_nr(), next(order), root))
    while ready:
        node = heapq.heappop(ready)[2]
        following_edges = [edge for edge in node.next_functions if edge[0] is not None]
        got = arrived.pop(node, None)
        if node in caught:
            caught[node] = list(got or [])
        if node in caught or (caught and hasattr(node, "variable")):
            got = None
        found = _call(node, got)
        for saved in used:
            saved.tensor = None
        used.clear()
        for (following, position), grad in zip(following_edges, found, strict=True):
            if grad is not None:
                _arrive(arrived, following, position, grad)
            waits_for[following] -= 1
            if not waits_for[following]:
                heapq.heappush(ready, (-following._sequence_nr(), next(order), following))
        del found
        grad = None  # or it would be alive in the next node


def _dependencies(roots: list[Any]) -> Counter[Any]:
    """How many nodes feed each."""
    fed, seen, stack = Counter[Any](), set(roots), list(roots)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                fed[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    return fed


def _arrive(arrived: dict[Any, list[Tensor | None]], node: Any, position: int, grad: Tensor) -> None:
    """Add a gradient to what a node has got, in the shape and type of what it was taken of."""
    metadata = node._input_metadata
    buffer = arrived.setdefault(node, [None] * len(metadata))
    of = metadata[position]
    assert grad.device == of.device, f"a gradient of {node.name()} is on {grad.device}, not on {of.device}"
    grad = (grad if grad.shape == of.shape else grad.sum_to_size(of.shape)).to(of.dtype)
    before = buffer[position]
    buffer[position] = grad if before is None else before + grad


def _call(node: Any, grads: list[Tensor | None] | None) -> list[Tensor | None]:
    """The gradients of what a node's inputs were that need one; none where nothing has come to the node."""
    if grads is None:
        return [None for following, _ in node.next_functions if following is not None]
    if hasattr(node, "variable"):
        _accumulate(node.variable, grads[0])
        return []
    needed: Sequence[bool]
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        described = node._input_metadata  # type: ignore[attr-defined]
        filled = [
            torch.zeros(of.shape, dtype=of.dtype, device=of.device) if grad is None else grad
            for grad, of in zip(grads, described, strict=True)
        ]
        grads.clear()
        needed = node.needs_input_grad  # of all arguments; the graph knows of tensors alone
        found = _tuple(node.apply(*filled))
    else:
        needed = [following is not None for following, _ in node.next_functions]
        found = _tuple(node(*grads))
        grads.clear()
    return [grad for grad, wanted in zip(found, needed, strict=True) if wanted]


def _tuple(found: Any) -> tuple[Tensor | None, ...]:
    return found if isinstance(found, tuple) else (found,)


def _accumulate(parameter: Tensor, grad: Tensor | None) -> None:
    """What `AccumulateGrad` does; called from Python it would copy the gradient."""
    assert grad is not None
    if parameter.grad is None:
        parameter.grad = grad.detach()
    else:
        parameter.grad += grad
    for hook in (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values():
        hook(parameter)
