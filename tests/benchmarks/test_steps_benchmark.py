"""The step benchmark: its peer is the method of the paper, its counts are right, its rows say all."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.harness import harness, plots, result_tables
from benchmarks.step import end_to_end, steps
from benchmarks.step.paper_step import PaperSettings, PaperStep, random_batch
from benchmarks.step.step_cases import SIZES, ProductStep, forward_flops, model_flops
from benchmarks.step.step_profile import Reads
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision
from fastsemi.models.create import create_model

CPU = torch.device("cpu")
TINY = SIZES["tiny"]
ONCE = ("--seconds", "0.1")  # no round after the first


def _peer(**settings):
    torch.manual_seed(0)
    model = create_model(TINY.model, num_classes=TINY.classes, image_size=TINY.image_size)
    return PaperStep(model, CPU, PaperSettings(**{"lr": 1e-3, "threshold": 0.0, **settings}))


def _batch(seed=0):
    return random_batch(4, 20, classes=TINY.classes, image_size=TINY.image_size, seed=seed, pin=False)


def test_the_operations_of_a_vit_are_counted():
    # ViT-B/16 at 224 pixels has 17.6 billion multiply-adds, as its authors and timm give it.
    assert forward_flops(SIZES["B"]) == pytest.approx(2 * 17.58e9, rel=0.01)
    assert model_flops(1.0, 4, 13) == 20 + 3 * 17


def test_the_peer_learns_and_its_teacher_follows():
    peer = _peer(momentum=0.9)
    batch = _batch()
    before = [p.clone() for p in peer.teacher.parameters()]
    students = [p.clone() for p in peer.model.parameters()]
    peer.step(batch)
    for old, teacher, student in zip(before, peer.teacher.parameters(), peer.model.parameters(), strict=True):
        torch.testing.assert_close(teacher, 0.9 * old + 0.1 * student)
    assert any((a != b).any() for a, b in zip(students, peer.model.parameters(), strict=True))
    losses = []
    for _ in range(40):
        peer.step(batch)
        losses.append(peer.metrics["loss_labelled"])
    assert sum(losses[-10:]) < sum(losses[:10])


def test_the_peer_mixes_by_confidence_and_rejects():
    peer = _peer()
    images = torch.rand(6, 3, 16, 16)
    target = torch.eye(6)
    confidence = torch.tensor([0.9, 0.2, 0.3, 0.6, 0.4, 0.1])
    mixed, soft, best = peer._mix_unlabelled(images, target, confidence)
    assert best.tolist() == pytest.approx([0.9, 0.4, 0.6, 0.6, 0.4, 0.9])
    torch.testing.assert_close(soft.sum(1), torch.ones(6))
    for i in range(6):
        j, lam = 5 - i, soft[i, i].item()
        blend = lam * images[i] + (1 - lam) * images[j]
        pasted = ((mixed[i] == images[i]) | (mixed[i] == images[j])).all()
        assert pasted or torch.allclose(mixed[i], blend, atol=1e-6)
        if not pasted:
            assert lam == pytest.approx((confidence[i] / (confidence[i] + confidence[j])).item())
        else:
            assert (mixed[i] == images[j]).float().mean() == pytest.approx(1 - lam, abs=1e-6)
    peer = _peer(threshold=1.0)
    peer.step(_batch())
    assert peer.metrics["acceptance"] == 0 and peer.metrics["loss_unlabelled"] == 0


def test_rejected_samples_do_not_enter_the_products_student():
    step = ProductStep(TINY, 8, Precision(CPU, torch.float32), compiled="no", augment=False)
    try:
        kept = step.work()
        step.reject(0.35)
        rejected = [step.work() for _ in range(2)]
    finally:
        step.close()
    assert (kept.entered, kept.accepted) == (40, 1.0)
    assert sum(work.accepted for work in rejected) / 2 == pytest.approx(0.65, abs=0.03)
    for work in rejected:  # rounded up to an eighth of the batch
        assert work.accepted * 40 <= work.entered < work.accepted * 40 + 5


def test_reads_of_the_host_are_counted_but_not_those_of_an_optimizer():
    weight = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([weight], foreach=False, fused=False)
    with Reads() as reads:
        weight.sum().backward()
        optimizer.step()
        optimizer.step()
    assert reads.count == 0
    with Reads() as reads:
        weight.sum().item()
        weight[weight > 0]
    assert reads.count == 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    options = ["--models", "tiny", "--no-compile", "--peer-fused", *ONCE]
    found = steps.run([*options, "--json", str(folder / "steps.json")])
    assert harness.read(folder / "steps.json") == found
    return found


def test_rows_hold_what_the_table_and_the_plots_need(rows, tmp_path):
    assert [row["case"] for row in rows] == ["kept", "rejected", "paper", "paper, fused attention"]
    for row in rows:
        assert row["unit"] == "images_per_s" and 0 < row["p20"] <= row["median"] <= row["p80"]
        assert row["of_paper"]["median"] > 0 and row["utilisation"]["median"] > 0
        assert row["peak_bytes"] > row["state_bytes"] > 0
        spent = sum(row["phases_ms"].values())
        assert {"teacher", "mix", "student", "loss", "backward", "optimizer", "ema"} <= set(row["phases_ms"])
        assert spent > 0
    product, peer = rows[0], rows[2]
    assert product["host_waits"] == 2  # kept samples; on a CPU whether the gradient is finite
    assert peer["host_waits"] == 7 and peer["of_paper"]["median"] == 1
    assert "| tiny, 2 + 10 | fastsemi, all kept |" in result_tables.steps(rows)
    names = {path.name for path in plots.steps(rows, tmp_path)}
    assert names == {"step_breakdown.png", "step_breakdown.svg"}


def test_an_absent_case_is_named(rows):
    settings = {**rows[0]["configuration"], "absent": {"kept, compiled": "RuntimeError: no compiler"}}
    text = result_tables.steps([{**rows[0], "configuration": settings}])
    assert "Not measured: tiny kept, compiled (RuntimeError: no compiler)." in text


def test_end_to_end_waits_less_than_it_takes(tmp_path, photo):
    for i in range(48):
        photo(40 + i, 50, i).save(tmp_path / f"{i}.jpg")
    options = ["--model", "tiny", "--batch", "2", "--count", "48", "--steps", "1", "--images", str(tmp_path)]
    options += ONCE
    found = end_to_end.run([*options, "--json", str(tmp_path / "out.json"), "--plots", str(tmp_path)])
    assert [row["name"].split("/")[1] for row in found] == ["end to end", "loader", "step"]
    for row in found:
        assert 0 <= row["wait_percent"]["median"] <= 100 and row["median"] > 0
    assert found[2]["wait_percent"]["p80"] == 0 and found[2]["of_step"]["median"] == 1
    assert "| step alone, batches in memory |" in result_tables.end_to_end(found)
    assert (tmp_path / "end_to_end.svg").exists()


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (steps, ["--models", "XXL"], "use S, B, L, H"),
        (steps, ["--batch", "0"], "at least 1"),
        (steps, ["--device", "cuda:99"], "not there"),
        (end_to_end, ["--model", "XXL"], "use S, B, L, H"),
        (end_to_end, ["--images", "/nonexistent"], "no folder"),
    ],
)
def test_wrong_options_end_with_one_line(module, options, message, monkeypatch, capsys):
    with pytest.raises(UserError, match=message):
        module.run(options)
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    assert harness.exit_code(module.run) == 2
    assert message in (text := capsys.readouterr().err) and text.count("\n") == 1


# One process, since each would import PyTorch again.
BARE = """
import json, runpy, sys
for name in ("jsonargparse docstring_parser rich tensorboard scipy simplejpeg matplotlib pyarrow ffcv "
             "nvidia.dali pytest sklearn skimage").split():
    sys.modules[name] = None  # as if it were not installed
for command in json.loads(sys.argv[1]):
    sys.argv = command
    try:
        runpy.run_module(command[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
    print("done:", *command[:2])
"""


@pytest.mark.slow
def test_a_machine_with_torch_and_timm_alone_is_enough(tmp_path, photo):
    for i in range(36):
        photo(50, 40 + i, i).save(tmp_path / f"{i}.jpg")
    out = str(tmp_path)
    end = ["--model", "tiny", "--batch", "2", "--steps", "1", "--count", "36", "--images", out, *ONCE]
    few = ["--count", "4", "--batch", "4", "--parts", "views", *ONCE]
    small = ["--batch", "2", "--size", "8", "--classes", "10"]
    commands = [
        ["benchmarks.step.steps", "--models", "tiny", "--no-compile", *ONCE],
        ["benchmarks.ops.kernels", "--no-compile", *ONCE, *small],
        ["benchmarks.step.end_to_end", *end],
        ["benchmarks.gpu.parts", "waits", "--tiny", "--out", out],
        ["benchmarks.loading.loaders", "--only", "native,full", "--images", out, *few],
        ["benchmarks.gpu.parts", "environment", "--tiny", "--out", out],
    ]
    done = subprocess.run(
        [sys.executable, "-c", BARE, json.dumps(commands)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for command in commands:
        assert f"done: {' '.join(command[:2])}\n" in done.stdout
    assert re.search(r"missing packages: .*scipy, simplejpeg.*jsonargparse", done.stdout)
