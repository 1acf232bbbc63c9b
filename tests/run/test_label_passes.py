"""Runs whose pseudo labels serve for several passes: they resume to the bit, in any number of processes."""

import pytest
import torch

from fastsemi.stages.advice import unused_label_passes
from fastsemi.stages.semi_config import SemiConfig
from fastsemi.training.trainer import Interrupted

OPTIONS = ("--stages", "[semi]", "--semi.length", "12 steps", "--semi.unlabelled_ratio", "5")
TWO = ("--semi.label_passes", "2")


@pytest.mark.parametrize("step", [2, 6, 9])
def test_a_run_stopped_in_any_pass_ends_like_an_uninterrupted_one(tiny, trained, runs, step):
    options = (*OPTIONS, *TWO, "--log_every", "1")
    whole, _ = trained(*options)
    cut = tiny(*options)
    with pytest.raises(Interrupted, match=f"step {step} of 12 of semi"):
        runs.train(cut, runs.Quiet("semi", step))
    runs.train(cut)
    runs.assert_equal(runs.weights(whole), runs.weights(cut))


def test_labels_that_serve_twice_train_another_network(trained, runs):
    plain, _ = trained(*OPTIONS, "--semi.threshold", "0")
    twice, _ = trained(*OPTIONS, *TWO, "--semi.threshold", "0")
    a, b = runs.weights(plain), runs.weights(twice)
    assert a.keys() == b.keys() and not all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("passes", "steps", "says"), [(1, 5, False), (2, 12, False), (2, 11, True)])
def test_a_stage_of_one_pass_says_that_labels_serve_once(passes, steps, says):
    said = unused_label_passes(SemiConfig(label_passes=passes), steps, 10.5)
    assert bool(said) == says and (not says or said.startswith("semi.label_passes 2 changes nothing"))
