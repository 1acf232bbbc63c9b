"""What a row says of the machine."""

import pytest
import torch

from benchmarks.harness import environment
from benchmarks.harness.cells import machine


@pytest.mark.parametrize(
    ("vectors", "name", "told"),
    [
        ("AVX512", "a-cpu-2-cores", "A CPU (AVX512), 2 cores"),
        ("AVX2", "a-cpu-avx2-2-cores", "A CPU (AVX2), 2 cores"),
        ("NO AVX", "a-cpu-no-avx-2-cores", "A CPU (NO AVX), 2 cores"),
    ],
)
def test_cpus_of_one_name_are_told_apart_by_their_vectors(vectors, name, told, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    monkeypatch.setattr(environment, "_cpu", lambda: "A CPU")
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda pid: {0, 1})
    hardware = environment.hardware()
    assert hardware["name"] == name
    row = {"hardware": hardware, "device": "cpu", "versions": {}, "n": 5, "git": None}
    assert machine(row).startswith(f"{told}, PyTorch")
