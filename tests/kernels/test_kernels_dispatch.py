"""Choosing an implementation of the kernels: automatic falls back and says so, explicit works or raises."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastsemi.common.errors import UserError
from fastsemi.kernels import dispatch
from fastsemi.kernels.reference import pseudo_label
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS, RandAugmentPlan, ViewPlan

NEEDS_INTERPRETER = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1"
)


@pytest.fixture(autouse=True)
def fresh_log():
    dispatch._log_once.cache_clear()


def run_without_interpreter(code):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_is_the_reference():
    kernels = dispatch.select("torch", "cpu")
    assert kernels.name == "torch" and kernels.pseudo_label is pseudo_label.pseudo_label


@NEEDS_INTERPRETER
def test_triton_runs_interpreted_on_a_cpu_and_agrees_through_every_function():
    pytest.importorskip("triton")
    triton, torch_kernels = dispatch.select("triton", "cpu"), dispatch.select("torch", "cpu")
    assert triton.name == "triton"
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    partner, cutmix, centre = torch.tensor([1, 2, 0]), torch.tensor([True, False, False]), torch.rand(3, 2)
    images = torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8)
    pixels = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "dtype": torch.float16}
    op = np.array([[RANDAUGMENT_OPS.index(name)] for name in ("color", "equalize", "rotate")])
    plan = RandAugmentPlan(op, np.full(op.shape, 0.5, np.float32))
    view = ViewPlan(np.zeros((3, 4), np.int32), np.zeros(3, bool), randaugment=plan)
    results = []
    for kernels in (triton, torch_kernels):
        augmented = kernels.augment(images, view, fill=(1, 2, 3))
        label, confidence = kernels.pseudo_label(logits)
        mixed, lam = kernels.mix(images, partner, confidence, cutmix, centre, **pixels)
        plain = kernels.normalise(images, **pixels)
        loss = kernels.two_label_cross_entropy(
            logits, label, label[partner], lam, smoothing=0.1, weight=torch.tensor([1.0, 0.0, 0.5])
        )
        results.append([label, confidence, mixed, lam, plain, loss])
        results[-1].append(augmented.float() / 255)
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype and torch.allclose(got, expected, atol=4e-3)


@NEEDS_INTERPRETER
def test_auto_on_a_cpu_takes_the_reference_and_logs_why_once(caplog):
    with caplog.at_level(logging.INFO, logger="fastsemi"):
        assert dispatch.select("auto", "cpu").name == "torch"
        assert dispatch.select("auto", "cpu").name == "torch"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and "plain PyTorch" in messages[0] and "TRITON_INTERPRET=1" in messages[0]


def test_triton_without_the_interpreter_or_not_installed_is_refused_with_the_cure():
    """And auto works; in one process, since each would import PyTorch again."""
    out = run_without_interpreter(
        "import sys\nsys.modules['triton'] = None\n"  # Python then refuses `import triton`
        "from fastsemi.common.errors import UserError\n"
        "from fastsemi.kernels.dispatch import select\n"
        "for there in (False, True):\n"
        "    if there:\n        del sys.modules['triton']\n"
        "    assert select('auto', 'cpu').name == 'torch'\n"
        "    try:\n        select('triton', 'cpu')\n"
        "    except UserError as error:\n        print(error)\n"
    )
    absent, there = out.splitlines()
    assert "not installed" in absent and "install the triton package" in absent
    for part in ("kernels is triton", "device is cpu", "auto or torch", "TRITON_INTERPRET=1"):
        assert part in there


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_other_devices_take_the_reference(device, caplog):
    with caplog.at_level(logging.WARNING, logger="fastsemi"):
        assert dispatch.select("auto", device).name == "torch"
    assert device in caplog.text
    with pytest.raises(UserError, match=device):
        dispatch.select("triton", device)


def test_a_gpu_too_old_for_triton_takes_the_reference(caplog, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P40")
    with caplog.at_level(logging.WARNING, logger="fastsemi"):
        assert dispatch.select("auto", "cuda").name == "torch"
    assert "Tesla P40 has a compute capability below 7.0" in caplog.text
    with pytest.raises(UserError, match=r"below 7\.0; set kernels to auto or torch"):
        dispatch.select("triton", "cuda")


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(UserError, match="'cuda'; use auto, triton or torch"):
        dispatch.select("cuda", "cpu")


@pytest.mark.gpu
def test_auto_takes_triton_on_a_gpu():
    assert (
        run_without_interpreter(
            "from fastsemi.kernels.dispatch import select\nprint(select('auto', 'cuda').name)"
        ).strip()
        == "triton"
    )
