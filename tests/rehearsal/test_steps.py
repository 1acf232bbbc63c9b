"""The trainer's own step of every stage, and evaluation, at the paper's sizes, on tensors of a GPU."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from fastsemi.loaders.data import Data
from fastsemi.run.memory import measure_stage

pytest.importorskip("triton")

GIB = 2**30
COUNT = {"compaction.py:select": 1}  # of kept samples: the one thing that a step waits for
PLANS = {"packing.py:upload": 3}  # of the colours of three views
WIDTHS = {"small": (384, 12, 16), "base": (768, 12, 16), "large": (1024, 24, 16), "huge": (1280, 32, 14)}


def forward_flops(size, *, attention):
    """Of an image of 224 pixels and 1,000 classes by hand: to cut patches, and the rest.

    A multiply-add is two; the products of attention have a factor.
    """
    width, depth, patch = WIDTHS[size]
    patches = (224 // patch) ** 2
    tokens = patches + 1
    embed, head = 2 * patches * 3 * patch**2 * width, 2 * width * 1000
    return embed, depth * 24 * tokens * width**2 + attention * depth * 4 * tokens**2 * width + head


def semi_flops(size, labelled):
    """Teacher: forward. Student: forward and twice as much backward, but no gradient of pixels; attention's
    backward pass computes its weights again."""
    unlabelled = 5 * labelled
    embed, rest = forward_flops(size, attention=1)
    _, with_backward = forward_flops(size, attention=3.5 / 3)
    return unlabelled * (embed + rest) + (labelled + unlabelled) * (2 * embed + 3 * with_backward)


@pytest.mark.parametrize(
    ("size", "labelled", "dtype", "kernels", "operations", "peak"),
    [
        ("small", 16, torch.bfloat16, "triton", 1197, 3.46),
        ("small", 16, torch.float32, "torch", 2693, 5.78),
        ("large", 8, torch.bfloat16, "triton", 2227, 13.1),
    ],
)
def test_a_semi_step(paper, rehearse, sound, size, labelled, dtype, kernels, operations, peak):
    config, data = paper(size, "semi", labelled)
    found = rehearse(config, "semi", data, dtype, kernels)
    uploads = PLANS if kernels == "triton" else {"cpu.py:_augment_": 3}
    stated = {"operations": operations, "flops": semi_flops(size, labelled), "peak": peak * GIB}
    sound(found, waits=COUNT, uploads=uploads, **stated)


def test_a_teacher_that_merges_tokens_waits_for_nothing(paper, rehearse):
    """Behind 13 of 197 tokens in each block, its operations are those of 0.6 of its pass."""
    config, data = paper("small", "semi", 16, merge_tokens=13)
    found = rehearse(config, "semi", data, torch.bfloat16)
    assert (dict(found.waits), dict(found.uploads), dict(found.mixed)) == (COUNT, PLANS, {})
    assert found.flops < semi_flops("small", 16) - 0.35 * 80 * sum(forward_flops("small", attention=1))


def test_a_semi_step_of_vit_huge_on_a_gpu_of_32_gb(paper, rehearse, sound):
    """In fp16, as on the paper's GPUs: two micro-batches; loss scaling waits for nothing either.

    The estimate that users see is of the same tensors.
    """
    config, data = paper("huge", "semi", 2, micro_batches=2)
    found = rehearse(config, "semi", data, torch.float16)
    twice = {"waits": {"compaction.py:select": 2}, "uploads": {"packing.py:upload": 6}}
    sound(found, **twice, operations=6047, flops=2 * semi_flops("huge", 2), peak=17.3 * GIB)
    needs = measure_stage(config, "semi", data, dtype=torch.float16)
    memory = needs.memory()
    assert needs.step_flops == found.flops
    assert found.peak == pytest.approx(memory.total - memory.reserve - memory.batches, rel=0.01)
    # AdamW counts its steps too, a number for each weight
    assert found.state == pytest.approx(memory.parameters + memory.optimizer + memory.teacher, rel=1e-5)


def test_a_finetuning_step_with_clipping_and_an_average(paper, rehearse, sound):
    config, data = paper("small", "finetune", 64, clip_grad=1.0, ema=0.999)
    found = rehearse(config, "finetune", data, torch.float16)
    embed, rest = forward_flops("small", attention=3.5 / 3)
    stated = {"operations": 1056, "flops": 64 * (2 * embed + 3 * rest), "peak": 2.41 * GIB}
    sound(found, waits={}, uploads={"packing.py:upload": 1}, **stated)


def test_a_pretraining_step(paper, rehearse, sound):
    """A quarter of the tokens in the encoder; colours are left alone, so nothing is uploaded."""
    config, data = paper("base", "pretrain", 128)
    found = rehearse(config, "pretrain", data, torch.bfloat16)
    sound(found, waits={}, uploads={}, operations=1157, flops=128 * 58.8e9, peak=7.4 * GIB)


def test_an_evaluation_reads_its_tables_when_all_is_done(paper, rehearse):
    config, data = paper("small", "semi", 16)
    images = replace(data.labelled, ids=data.labelled.ids[: config.eval_batch + 1])
    found = rehearse(config, "semi", data, torch.bfloat16, images=images)
    # student and teacher: hits by class, top 5 and the loss; the images by class
    assert dict(found.waits) == {"evaluate.py:evaluate": 3 * 1001 + 2}
    assert not found.uploads and not found.mixed
    embed, rest = forward_flops("small", attention=1)
    assert found.flops == pytest.approx(2 * len(images.ids) * (embed + rest), rel=0.005)
    assert len(found.operations) < 2000


def test_a_rehearsal_leaves_pytorch_as_it_was(tiny, rehearse):
    config = tiny()
    kept = torch.nn.functional.scaled_dot_product_attention, torch.autograd._engine_run_backward
    state = torch.random.get_rng_state()
    found = rehearse(config, "finetune", Data(config.data, config.loader), torch.bfloat16)
    assert found.operations
    assert kept == (torch.nn.functional.scaled_dot_product_attention, torch.autograd._engine_run_backward)
    assert torch.equal(state, torch.random.get_rng_state())
    weight = torch.ones(2, requires_grad=True)
    weight.square().sum().backward()
    assert weight.grad.tolist() == [2, 2] and not isinstance(weight.grad, FakeTensor)
