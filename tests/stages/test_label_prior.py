"""Pseudo labels that lean on label spreading over the teacher's features."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fastsemi.common.errors import UserError
from fastsemi.stages.label_prior import LabelPrior, NoPrior

IDS = np.array([3, 7, 8])


def test_predictions_are_mixed_with_the_shares_and_unknown_images_keep_theirs():
    prior = LabelPrior(IDS, classes=2, weight=0.5, every=4)
    prior.spread(np.array([7, 3]), np.array([[1, 0], [0.25, 0.75]], np.float32))
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]])
    mixed = prior(logits, torch.tensor([7, 3, 8])).softmax(1)
    assert_close(mixed[:2], torch.tensor([[0.75, 0.25], [0.375, 0.625]]), atol=1e-3, rtol=0)
    assert_close(mixed[2], logits[2].softmax(0))


def test_the_weight_falls_to_half_until_labels_are_spread_anew():
    prior = LabelPrior(IDS, classes=2, weight=0.8, every=4)
    shares = np.array([[1, 0]], np.float32)
    prior.spread(IDS[:1], shares)
    first = []
    for _ in range(5):
        first.append(float(prior(torch.zeros(1, 2), torch.tensor([3])).softmax(1)[0, 0]))
        prior.update()
    assert first == pytest.approx([0.5 + w / 2 for w in (0.8, 0.7, 0.6, 0.5, 0.4)], abs=1e-3)
    prior.spread(IDS[1:2], shares)
    assert float(prior(torch.zeros(1, 2), torch.tensor([3])).softmax(1)[0, 0]) == pytest.approx(0.5)


def test_what_it_knows_goes_through_a_checkpoint():
    prior, other = (LabelPrior(IDS, classes=2, weight=0.5, every=4) for _ in range(2))
    prior.spread(IDS, np.eye(2, dtype=np.float32)[[0, 1, 1]])
    prior.update()
    other.load_state_dict(prior.state_dict())
    ids, logits = torch.tensor(IDS), torch.randn(3, 2)
    assert_close(other(logits, ids), prior(logits, ids))


def test_no_prior_changes_nothing():
    logits = torch.randn(3, 2)
    assert NoPrior()(logits, torch.tensor(IDS)) is logits


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--semi.spread_weight", "1.5"], "semi.spread_weight is 1.5; it must lie in"),
        (["--semi.spread_every", "0 steps"], "semi.spread_every is 0 steps"),
        (["--semi.contrast", "-1"], "semi.contrast is -1"),
        (["--semi.contrast_temperature", "0"], "semi.contrast_temperature is 0"),
    ],
)
def test_impossible_values_are_refused(option, words, tiny):
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        tiny(*option)
