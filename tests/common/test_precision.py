"""Which number format runs where, and what PyTorch is told about fp32."""

import warnings

import pytest
import torch

from fastsemi.common import precision
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision, choose_dtype, select_device

V100, T4, A100, H100, B200 = (7, 0), (7, 5), (8, 0), (9, 0), (10, 0)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        (V100, torch.float16),
        (T4, torch.float16),
        (A100, torch.bfloat16),
        ((8, 9), torch.bfloat16),
        (H100, torch.bfloat16),
        (B200, torch.bfloat16),
        ((12, 0), torch.bfloat16),
    ],
)
def test_auto_goes_by_the_gpu(capability, dtype):
    assert choose_dtype("auto", capability, cpu_bf16=False) == dtype


@pytest.mark.parametrize("quick", [True, False])
def test_a_cpu_without_products_in_bf16_is_told_of_once(quick, monkeypatch, caplog):
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: quick)
    precision._warn_of_slow_bf16.cache_clear()
    for name in ("bf16", "bf16", "fp32", "auto"):
        Precision.select(name, torch.device("cpu"))
    told = [r.message for r in caplog.records]
    assert len(told) == (0 if quick else 1)
    assert all("use --precision auto or fp32" in line for line in told)


def test_auto_goes_by_the_cpu():
    assert choose_dtype("auto", None, cpu_bf16=True) == torch.bfloat16
    assert choose_dtype("auto", None, cpu_bf16=False) == torch.float32


@pytest.mark.parametrize("capability", [None, V100, H100])
def test_an_explicit_format_is_taken_everywhere(capability):
    for name in ("fp32", "tf32"):
        assert choose_dtype(name, capability, cpu_bf16=True) == torch.float32
    assert choose_dtype("bf16", capability, cpu_bf16=False) == torch.bfloat16
    if capability:
        assert choose_dtype("fp16", capability, cpu_bf16=False) == torch.float16
    else:
        with pytest.raises(UserError, match="fp16 needs a CUDA GPU"):
            choose_dtype("fp16", capability, cpu_bf16=False)


@pytest.mark.parametrize("name", ["mps", "meta", "gpu"])
def test_other_devices_are_refused(name):
    with pytest.raises(UserError, match=f"device '{name}' is unknown; use auto, cpu, cuda or cuda:N"):
        select_device(name)


@pytest.mark.gpu
def test_a_gpu_given_by_its_number_is_the_current_one():
    last = torch.cuda.device_count() - 1
    before = torch.cuda.current_device()
    try:
        assert select_device(f"cuda:{last}") == torch.device("cuda", last)
        assert torch.cuda.current_device() == last
    finally:
        torch.cuda.set_device(before)


def switches():
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, torch.backends.cuda.matmul.fp32_precision


@pytest.fixture
def default_switches():
    """What PyTorch begins with, before and after the test."""
    yield switches()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (Precision(torch.device("cuda"), torch.float32, tf32=True), ("high", True, "tf32")),
        (Precision(torch.device("cuda"), torch.float32), ("highest", False, "ieee")),
        (Precision(torch.device("cuda"), torch.float16), None),
        (Precision(torch.device("cpu"), torch.float32), None),
    ],
    ids=["tf32", "fp32", "fp16", "cpu"],
)
def test_products_and_convolutions_are_as_exact_as_asked_for(precision, expected, default_switches):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precision.apply()
        # Reading the older switches fails where they contradict the newer ones.
        assert switches() == (expected or default_switches)


def test_tf32_is_fp32_on_a_cpu(tiny):
    from fastsemi.run.checks import stage_fingerprint
    from fastsemi.run.context import RunContext

    run = RunContext(tiny("--precision", "tf32", "--device", "cpu"))
    assert run.precision == Precision(torch.device("cpu"), torch.float32)
    # A run that was begun in fp32 on a CPU may go on.
    assert stage_fingerprint(run, "finetune")["precision"] == "torch.float32"
    run.close()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "tf32"])
def test_a_gpu_multiplies_as_asked(name, default_switches):
    device = torch.device("cuda")
    precision = Precision.select(name, device)
    precision.apply()
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(512, 512, device=device, generator=generator) for _ in range(2))
    error = ((a @ b).double() - a.double() @ b.double()).abs().max()
    assert precision.tf32 == (name == "tf32" and torch.cuda.get_device_capability() >= A100)
    assert error > 1e-2 if precision.tf32 else error < 1e-3
