"""The roofline: what a launch takes, what is fused, and what the table says of it."""

import pytest
import torch

from benchmarks.harness import result_tables
from benchmarks.step import predicted
from benchmarks.step.predicted import Machine, fused
from fastsemi.common.errors import UserError
from fastsemi.run.trace import Operation


def operation(name, flops=0, read=0, written=0):
    return Operation(name, flops, read, written, torch.bfloat16)


STEP = [
    operation("mm", 4000, 10, 10),  # 4 s of operations
    operation("add", 0, 30, 10),  # 4 s of bytes
    operation("gelu", 0, 10, 50),  # 6 s
    operation("_foreach_add_", 0, 5, 5),  # 1 s
    operation("mix_kernel", 0, 10, 0),  # 1 s
    operation("mul", 0, 10, 10),  # 2 s
]


def test_a_launch_takes_its_operations_or_its_bytes_and_a_gap():
    assert Machine(1000, 10, 0.5).seconds(STEP) == pytest.approx(4 + 4 + 6 + 1 + 1 + 2 + 6 * 0.5)


def test_what_lies_between_products_is_one_launch():
    together = fused(STEP)
    assert [each.name for each in together] == ["mm", "fused", "_foreach_add_", "mix_kernel", "fused"]
    assert (together[1].read, together[1].written) == (30, 50)
    assert Machine(1000, 10, 0.0).seconds(together) == pytest.approx(4 + 8 + 1 + 1 + 2)


def test_the_table_says_that_it_is_predicted():
    row = {"kind": "predicted", "model": "ViT", "labelled": 1, "unlabelled": 5, "gpu": "a GPU", "launches": 7}
    row |= {"precision": "float16", "peak_bytes": 2**31, "fits": False}
    row |= {f"{how}_{what}": 0.25 for how in ("eager", "fused") for what in ("ms", "utilisation")}
    table = result_tables.predicted([row])
    assert table.startswith("PREDICTED, not measured on any GPU")
    assert table.endswith("| ViT, 1 + 5 | a GPU, float16 | 7 | 2.0, too much | 0 | 25% | 0 | 25% |")


def test_wrong_options():
    for options, message in (
        (["--models", "S,Q"], "'Q' is unknown; use S, B, L, H"),
        (["--cpu-batch", "-1"], "must be 0 or more"),
    ):
        with pytest.raises(UserError, match=message):
            predicted.run(options)
