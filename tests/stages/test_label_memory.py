"""Pseudo labels that serve for several passes: what is remembered, and what a step does with it."""

import pytest
import torch
from torch.testing import assert_close

from fastsemi.common.errors import UserError
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.stages.label_memory import LabelMemory
from fastsemi.stages.thresholds.base import PseudoLabels
from fastsemi.training.stage_batches import stage_batches

EVERY = ("--semi.label_passes", "2", "--semi.batch", "6", "--semi.unlabelled_ratio", "5")


def labels(ids, label, confidence):
    return PseudoLabels(
        torch.tensor(label), torch.tensor(confidence), torch.zeros(len(ids), 3), torch.tensor(ids)
    )


def test_the_last_label_is_remembered_with_its_confidence_to_the_bit():
    memory = LabelMemory(9, classes=4)
    memory.note(labels([2, 9], [3, 1], [0.7300001, 1.0]))
    memory.note(labels([0], [2], [0.25]))
    memory.update()
    memory.note(labels([9], [2], [0.5]))
    _, there = memory.recall(torch.arange(10))
    assert there.tolist() == [i in (0, 2, 9) for i in range(10)]
    memory.update()
    found, there = memory.recall(torch.tensor([9, 2, 0, 5]))
    assert found.label.tolist() == [2, 3, 2, 0] and there.tolist() == [True, True, True, False]
    assert torch.equal(found.confidence, torch.tensor([0.5, 0.7300001, 0.25, 0.25]))
    assert found.logits is None and found.confidence.dtype == torch.float32


def test_of_an_image_that_comes_twice_in_a_step_the_surer_label_stays():
    noted = [labels([4, 4], [0, 2], [0.6, 0.9]), labels([4], [1], [0.8])]
    for parts in (noted, noted[::-1]):
        memory = LabelMemory(4, classes=3)
        memory.note(labels([4], [1], [0.99]))  # of a step before: forgotten all the same
        memory.update()
        for part in parts:
            memory.note(part)
        memory.update()
        found, _ = memory.recall(torch.tensor([4]))
        assert found.label.tolist() == [2]
        assert_close(found.confidence, torch.tensor([0.9]))


def test_what_it_knows_goes_through_a_checkpoint():
    memory, other = LabelMemory(3, classes=3), LabelMemory(3, classes=3)
    memory.note(labels([1, 3], [2, 0], [0.6, 0.9]))
    memory.update()
    other.load_state_dict(memory.state_dict())
    for a, b in zip(memory.recall(torch.arange(4)), other.recall(torch.arange(4)), strict=True):
        for x, y in zip(a, b, strict=True):
            assert (x is y is None) or torch.equal(x, y)


@pytest.fixture
def opened(tiny):
    """The function `opened(*options)`: a run, its semi stage and the batches of its steps."""
    runs = []

    def _open(*options):
        run = RunContext(tiny("--stages", "[semi]", "--semi.length", "12 steps", *EVERY, *options))
        runs.append(run)
        stage = build_stage(run, "semi", fresh=True)
        return run, stage

    yield _open
    for run in runs:
        run.close()


@pytest.mark.parametrize("engine", ["native", "thread_pool", "reference"])
@pytest.mark.parametrize("drop_last", ["false", "true"])
def test_every_other_pass_has_the_strong_view_alone_and_the_same_pixels(opened, engine, drop_last):
    options = ("--loader.engine", engine, "--semi.drop_last", drop_last)
    run, stage = opened(*options)
    stream = stage.roles["unlabelled"].stream
    per_pass = stream.steps_per_pass
    both, few = opened(*options, "--semi.label_passes", "1")
    with (
        stage_batches(stage, run.views, run.data.load, range(12)) as batches,
        stage_batches(few, both.views, both.data.load, range(12)) as whole,
    ):
        for step, (some, every) in enumerate(zip(batches, whole, strict=True)):
            some, every = some["unlabelled"], every["unlabelled"]
            assert len(every.images) == 2
            assert len(some.images) == len(some.plans) == len(some.erase) == 2 - int(step / per_pass) % 2
            assert torch.equal(some.images[-1], every.images[1]) and torch.equal(some.ids, every.ids)
        assert int(11 / per_pass) >= 2, "three passes are seen"


def test_labels_of_the_pass_before_are_what_the_student_learns_from(opened):
    """In the passes between, the teacher is not asked and nothing is observed."""
    run, stage = opened("--semi.threshold_rule", "freematch", "--semi.align", "uniform")
    stream, asked, seen = stage.roles["unlabelled"].stream, [], {}
    stage.teacher.register_forward_pre_hook(lambda *_: asked.append(True))
    teach = stage._teach

    def noted(batch):
        pseudo, keys = teach(batch)
        for i, label, confidence in zip(*(t.tolist() for t in (pseudo.ids, *pseudo[:2])), strict=True):
            seen[i] = label, confidence
        return pseudo, keys

    stage._teach = noted
    with stage_batches(stage, run.views, run.data.load, range(7)) as batches:
        for step, batch in enumerate(batches):
            before = {name: value.clone() for name, value in stage.rule.state_dict().items()}
            average = stage.alignment.average.clone()
            taught = int(step / stream.steps_per_pass) % 2 == 0
            asked.clear()
            pseudo, _, _ = stage._labels(batch["unlabelled"])
            stage.after_update()
            assert bool(asked) == taught
            same = all(torch.equal(value, before[name]) for name, value in stage.rule.state_dict().items())
            assert same == torch.equal(stage.alignment.average, average) == (not taught)
            if not taught:
                said = zip(pseudo.label.tolist(), pseudo.confidence.tolist(), strict=True)
                assert [seen[i] for i in pseudo.ids.tolist()] == list(said)
        assert not taught


def test_an_image_without_a_label_does_not_count(opened):
    run, stage = opened("--semi.threshold", "0", "--semi.mixing", "prob")
    step = int(stage.roles["unlabelled"].stream.steps_per_pass) + 1
    with stage_batches(stage, run.views, run.data.load, range(step, step + 1)) as batches:
        batch = next(batches)
    output = stage.loss(batch)  # of a stage that has labelled nothing yet
    output.loss.backward()
    assert float(output.metrics["loss_unlabelled"].total) == 0 == float(output.metrics["acceptance"].total)
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--semi.label_passes", "0"), r"semi\.label_passes is 0; it must be at least 1"),
        (("--semi.contrast", "1"), r"semi\.label_passes is 2; it must be 1, or set semi\.contrast to 0"),
        (
            ("--semi.threshold_rule", "softmatch", "--semi.softmatch.align", "true"),
            r"semi\.label_passes is 2; it must be 1, or set semi\.softmatch\.align to false",
        ),
        (("--plan.record", "a"), r"with semi\.label_passes 2 some steps have fewer"),
    ],
)
def test_what_needs_each_label_anew_is_refused(tiny, options, message):
    with pytest.raises(UserError, match=message):
        tiny(*EVERY, *options)
