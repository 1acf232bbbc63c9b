"""The toy kernel against its specification, through the dispatch."""

import os

import pytest
import torch

pytest.importorskip("triton")

from fastsemi.kernels import dispatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="needs a GPU or TRITON_INTERPRET=1"
)


@pytest.mark.parametrize("shape", [(1, 1), (3, 10), (2, 5000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_energy_is_that_of_the_specification(shape, dtype):
    logits = (4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(DEVICE, dtype)
    expected = dispatch.select("torch", DEVICE).energy(logits)
    got = dispatch.select("triton", DEVICE).energy(logits)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-5)
