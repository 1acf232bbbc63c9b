"""Samples of functions are added up to parts, and the table names the largest and the next."""

import pytest

from benchmarks.harness.result_tables import parts
from benchmarks.loading.parts import shares
from fastsemi.common.errors import UserError

REPORT = """
    40.00%|_native.cpython-311-x86_64-linux-gnu.so|[.] fastsemi::(anonymous namespace)::decode_rows_bmi2
    10.00%|_native.cpython-311-x86_64-linux-gnu.so|[.] fastsemi::(anonymous namespace)::horizontal
    15.00%|_native.cpython-311-x86_64-linux-gnu.so|[.] fastsemi::(anonymous namespace)::vertical
    10.00%|[kernel.kallsyms]|[k] _copy_to_iter
     5.00%|libunknown.so|[.] a::kernels::open
"""


def test_functions_become_parts_largest_first():
    found = shares(REPORT)
    assert list(found) == ["entropy decoding", "resize", "copy from the page cache", "other"]
    assert found == pytest.approx(
        {"entropy decoding": 0.5, "resize": 0.3125, "copy from the page cache": 0.125, "other": 0.0625}
    )


def test_no_samples_are_an_error():
    with pytest.raises(UserError, match="no samples"):
        shares("# nothing\n")


def test_the_table_names_the_bound_the_next_and_the_rest():
    row = {"name": "native", "us": {"median": 500.4}, "parts": shares(REPORT), "threads": 2, "git": "abc"}
    row["hardware"] = {"cpu": "a CPU", "cores": 2}
    step = {"tree": "now", "median": 1200.0, "kinds": {"copies": 0.2, "products": 0.8}}
    step["configuration"] = {"job": "S", "precision": "bfloat16"}
    start = [
        {"name": "import timm", "label": "`import timm`", "cpu_s": 5.0},
        {"name": "probe", "label": "`fastsemi probe`, 100 images", "cpu_s": 8.0},
    ]
    lines = parts([row], [step, step | {"tree": "before"}], start).splitlines()[4:]
    assert lines == [
        "| native | 500 µs an image | entropy decoding 50% | resize 31% "
        "| copy from the page cache 12%, other 6% |",
        "| step of S, bfloat16 | 1,200 ms a step | products 80% | copies 20% |  |",
        "| `fastsemi probe`, 100 images | 8.00 s | imports 62% | all else 38% |  |",
    ]
