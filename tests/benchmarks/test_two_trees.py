"""The step of two source trees: what is asked for, kinds of operations, the table."""

import pytest

from benchmarks.harness import result_tables
from benchmarks.step import two_trees
from benchmarks.step.tree_worker import KINDS, OTHER, kind_of, shares
from benchmarks.step.two_trees import Job
from fastsemi.common.errors import UserError


def test_a_job_is_a_name_configurations_and_options(tmp_path):
    file = tmp_path / "a.yaml"
    file.touch()
    job = Job.parse(f"A ViT: --config {file} --semi.length '1 epochs' --data.mean [0,0,0]")
    assert job == Job("A ViT", (str(file),), ("--semi.length", "1 epochs", "--data.mean", "[0,0,0]"))
    for text, message in (
        (f"--config {file}", "names no configuration"),
        ("digits: --seed 1", "names no configuration"),
        (f"digits: --config {file}x", "which is no file"),
    ):
        with pytest.raises(UserError, match=message):
            Job.parse(text)
    with pytest.raises(UserError, match="holds no fastsemi"):
        two_trees.run(["--before", str(tmp_path), "--job", f"a: --config {file}"])


@pytest.mark.parametrize(
    ("name", "within", "kind"),
    [
        ("aten::addmm", [], "products"),
        ("aten::bmm", [], "products"),
        ("aten::convolution_backward", [], "products"),
        ("mkldnn::_linear_pointwise", [], "products"),
        ("aten::copy_", ["aten::addmm"], "copies"),
        ("aten::_softmax", [], "activations"),
        ("aten::native_batch_norm_backward", [], "norms"),
        ("aten::max_pool2d_with_indices", [], "pooling"),
        ("aten::mul", ["Optimizer.step#AdamW.step"], "update"),
        ("aten::lerp_", [], "update"),
        ("aten::add", [], OTHER),
    ],
)
def test_kinds_of_operations(name, within, kind):
    assert kind_of(name, within) == kind


def test_shares_add_up_and_the_product_has_most():
    import torch

    a = torch.randn(256, 256)

    def step(count):
        for _ in range(count):
            torch.add(torch.mm(a, a), 1)

    found = shares(step, 3)
    assert list(found) == [*KINDS, OTHER] and sum(found.values()) == pytest.approx(1)
    assert found["products"] == max(found.values()) and found["pooling"] == 0 < found[OTHER]


def test_the_table_has_a_row_for_each_tree():
    configuration = {"job": "digits", "before": "abc", "clock": "processors' time", "batch": 20}
    configuration |= {"images": 100, "precision": "bfloat16"}
    row = {
        "hardware": {"cpu": "A CPU", "cores": 2, "gpu": None},
        "versions": {"torch": "2.14.1"},
        **{
            "device": "cpu",
            "git": "def",
            "threads": 1,
            "n": 5,
            "median": 80.0,
            "p20": 79.0,
            "p80": 81.0,
            "unit": "ms",
        },
        "configuration": configuration,
        "kinds": {"products": 0.6, "other": 0.4},
    }
    rows = [
        row | {"tree": name, "of_before": {"median": x, "p20": x, "p80": x}}
        for name, x in (("before", 1.0), ("now", 1.25))
    ]
    lines = result_tables.two_trees(rows).splitlines()
    assert "Before: commit abc." in lines[0]
    assert lines[2].endswith("| products | other |")
    assert lines[-1] == (
        "| digits, 20 + 100, bfloat16 | now | 80 (79 to 81) | 1.25 (1.25 to 1.25) | 60% | 40% |"
    )
