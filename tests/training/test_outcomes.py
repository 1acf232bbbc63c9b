"""What a network makes of each image, against PyTorch's own functions."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fastsemi.common.precision import Precision
from fastsemi.loaders.data import Data
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.stages.inputs import Views
from fastsemi.training.evaluate import class_logits
from fastsemi.training.outcomes import Outcomes, outcomes


def test_each_image_has_its_answer_and_broken_ones_have_none(tiny, shapes, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).eval()
    config, device = tiny("--data.max_bad", "1"), torch.device("cpu")
    views, precision = Views(config.data, device), Precision.select("fp32", device)
    with closing(Data(config.data, config.loader)) as data:
        said = class_logits(model, data, views, precision, batch=7, images=data.val)
        found, sharper = outcomes(said), outcomes(said, 0.5)
        with data.load(data.val, evaluation_batches(data.val.index, data.val.ids, 30, 1.0)) as loader:
            logits = model(views.normalise(views.to_device(next(loader)).images[0])).detach()
        nothing = replace(data.val, ids=data.val.ids[:0])
        none = outcomes(class_logits(model, data, views, precision, batch=7, images=nothing))
    assert found.ids.tolist() == list(range(30)) and found.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert found.predicted.tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(found.confidence, logits.softmax(1).amax(1), rtol=1e-5)
    np.testing.assert_allclose(sharper.confidence, (logits / 0.5).softmax(1).amax(1), rtol=1e-5)
    np.testing.assert_array_equal(sharper.energy, found.energy)
    np.testing.assert_allclose(found.energy, -logits.exp().sum(1).log(), rtol=1e-4)
    assert len(none.ids) == 0 and none.confusion(3).sum() == 0


def test_confusions_have_true_classes_in_their_rows():
    zeros = np.zeros(3, np.float32)
    found = Outcomes(np.arange(3), np.array([0, 0, 1]), np.array([0, 2, 1]), zeros, zeros)
    assert found.confusion(3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert found.right.tolist() == [True, False, True]
