"""Fine-tuning on unlabelled images that label spreading labelled."""

import numpy as np
import pytest
from rich.console import Console

from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.probing.spreading import Graph
from fastsemi.run.baseline import judge_baselines
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.run.run import Run

SPREAD = ("--stages", "[finetune]", "--finetune.spread_ratio", "2", "--finetune.spread_keep", "0.5")


def test_the_surest_images_join_the_labelled_ones(tiny):
    said = []
    run = RunContext(tiny(*SPREAD), said.append)
    stage = build_stage(run, "finetune")
    role = stage.roles["spread"]
    labelled = set(run.data.labelled.ids.tolist())
    run.close()
    assert 50 <= len(role.images.ids) <= 58  # half of 108, rounded by class
    assert not labelled & set(role.images.ids.tolist())
    assert role.stream.batch == 2 * stage.roles["labelled"].stream.batch
    assert stage.main_stream is stage.roles["labelled"].stream
    given = role.images.index.labels[role.images.ids]
    assert set(np.unique(given)) == {0, 1, 2}
    assert "unlabelled images get labels by label spreading on pixels" in said[0]


def test_labels_are_spread_once_for_the_baseline_and_for_fine_tuning(tiny, monkeypatch):
    of, graphs = Graph.of, []
    monkeypatch.setattr(Graph, "of", lambda every: graphs.append(of(every)) or graphs[-1])
    run = RunContext(tiny(*SPREAD))
    judge_baselines(run)
    shared = build_stage(run, "finetune").roles["spread"].images
    run.close()
    assert len(graphs) == 1
    run.folder.spread_labels.unlink()
    alone = RunContext(run.config)
    images = build_stage(alone, "finetune").roles["spread"].images
    alone.close()
    assert len(graphs) == 2
    assert images.ids.tolist() == shared.ids.tolist()
    assert (images.index.labels == shared.index.labels).all()


def test_a_run_that_goes_on_uses_the_labels_that_it_began_with(tiny):
    config = tiny(*SPREAD)
    first = RunContext(config)
    build_stage(first, "finetune")
    first.close()
    path = first.folder.spread_labels
    with np.load(path) as stored:
        ids = stored["ids"][:30]
    np.savez(path, ids=ids, labels=np.full(30, 2))
    again = RunContext(config)
    role = build_stage(again, "finetune").roles["spread"]
    again.close()
    assert role.images.ids.tolist() == ids.tolist()
    assert set(role.images.index.labels[role.images.ids]) == {2}


def test_it_trains(tiny):
    config = tiny(*SPREAD)
    summary = Run(config, Progress(Console(quiet=True))).train(config.stages)
    assert summary["stages"]["finetune"]["steps"] == 8


def test_impossible_shares_are_refused(tiny):
    with pytest.raises(UserError, match=r"finetune\.spread_keep is 0\.0; it must lie in \(0, 1\]"):
        tiny("--finetune.spread_keep", "0")
