"""What torch.compile writes for a GPU: Inductor compiles a ViT's step for one that is not there."""

import re

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig
from fastsemi.run.pretended_cuda import DEVICE, pretended_cuda
from fastsemi.run.trace import materialise

pytest.importorskip("triton")
lowering = pytest.importorskip(
    "benchmarks.step.lowering",
    reason="this PyTorch has other names inside of torch._inductor",
    exc_type=ImportError,
)

DEPTH, BATCH, WIDTH = 2, 4, 32
VIT = {"patch_size": 8, "embed_dim": WIDTH, "num_heads": 1, "depth": DEPTH}
# Of PyTorch 2.14 there are 29 and 38, and of eager operations besides products 44 and 54.
MOST = {"forward": 32, "backward": 42}


@pytest.mark.slow
def test_a_student_is_two_graphs_of_few_kernels():
    model = ModelConfig("vit_tiny_patch16_224", VIT)
    network = create_model(model, num_classes=3, image_size=16, drop_path=0.1).train()
    counters.clear()
    with pretended_cuda(), FakeTensorMode(allow_non_fake_inputs=True):
        materialise(network, DEVICE)
        images = torch.empty(BATCH, 3, 16, 16, device=DEVICE, dtype=torch.bfloat16)
        graphs = {graph.what: graph for graph in lowering.lower(network, images, torch.bfloat16)}
    assert list(graphs) == ["forward", "backward"] and not counters["graph_break"]
    # Patches, four linear layers and attention a block, the head; a layer's gradients are two products, but
    # that of the images, for which nobody asks.
    linear = 4 * DEPTH + 1
    assert len(graphs["forward"].products) == 1 + linear + DEPTH
    assert len(graphs["backward"].products) == 1 + 2 * linear + DEPTH
    assert graphs["forward"].others == {"bernoulli_": 2 * (DEPTH - 1)}  # none in the first block
    for what, graph in graphs.items():
        assert graph.kernels <= len(graph.fused) <= MOST[what]
        written = re.findall(r"^(triton_\w+) = async_compile\.triton\(", graph.code, re.MULTILINE)
        assert 0 < len(set(written)) <= graph.kernels  # layers of a shape share one
        assert graph.code.count("cc=90") == len(written) and "cpp_fused" not in graph.code
    # The first kernel turns the patches' weights to bf16, which is 4 bytes read and 2 written for each.
    weights = 3 * 8 * 8 * WIDTH
    assert (4 * weights, 2 * weights) in [(each.read, each.written) for each in graphs["forward"].fused]
