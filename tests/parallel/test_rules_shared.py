"""Threshold rules learn from the micro-batches of all processes."""

import pytest
import torch

from fastsemi.parallel import processes as group
from fastsemi.parallel.settings import DistributedConfig
from fastsemi.stages.thresholds.base import PseudoLabels
from fastsemi.stages.thresholds.flexmatch import FlexMatch
from fastsemi.stages.thresholds.freematch import FreeMatch
from fastsemi.stages.thresholds.settings import FlexMatchConfig, FreeMatchConfig, SoftMatchConfig, SSTConfig
from fastsemi.stages.thresholds.softmatch import SoftMatch
from fastsemi.stages.thresholds.sst import SST
from fastsemi.training.checkpoint import file as checkpoint_file


def learn(batches):
    """The state of each rule after `batches`: of each step, logits and ids by micro-batch."""
    rules = [
        FlexMatch(0.5, FlexMatchConfig(), 4, 40, 39),
        FreeMatch(FreeMatchConfig(momentum=0.5), 4),
        SoftMatch(SoftMatchConfig(momentum=0.5), 4),
        SST(0.5, SSTConfig(), 4, 40),
    ]
    for step in batches:
        for logits, ids in step[group.rank() :: group.world()]:
            confidence, label = torch.softmax(logits, 1).max(1)
            for rule in rules:
                rule.observe(PseudoLabels(label, confidence, logits, ids))
        for rule in rules:
            rule.update()
    return [rule.state_dict() for rule in rules]


def test_every_process_learns_what_one_does(processes, tmp_path):
    rng = torch.Generator().manual_seed(0)
    batches = [
        [(3 * torch.randn(8, 4, generator=rng), torch.randint(40, (8,), generator=rng)) for _ in range(4)]
        for _ in range(3)
    ]

    def main(rank):
        with group.session(DistributedConfig(timeout_s=60), "cpu"):
            torch.save(learn(batches), tmp_path / f"{rank}.pt")
        return 0

    assert processes.wait(processes.start(2, main, tmp_path / "log")) == [0, 0]
    one = learn(batches)
    for rank in (0, 1):
        for mine, theirs in zip(one, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            assert mine.keys() == theirs.keys() and mine
            for name in mine:
                torch.testing.assert_close(mine[name], theirs[name], rtol=1e-6, atol=0)


# SoftMatch learns from sums as FreeMatch does.
@pytest.mark.parametrize(("rule", "strategy"), [("flexmatch", "ddp"), ("freematch", "fsdp")])
def test_two_processes_train_as_one_does(preset, processes, tmp_path, rule, strategy):
    rows, weights = {}, {}
    for world in (1, 2):
        folder, words = preset(
            f"{rule}{world}",
            *("--stages", "[semi]", "--semi.length", "5 steps", "--semi.threshold_rule", rule),
            *("--semi.freematch.momentum", "0.5", "--distributed.strategy", strategy),
            # Confidences of all sizes, none hidden by a greater one.
            *("--model.head_init_scale", "30", "--semi.threshold", "0.8", "--semi.mixing", "none"),
            *("--semi.flexmatch.warmup", "false"),
        )
        codes, said = processes.run(world, words, tmp_path / f"{world}.log")
        assert codes == [0] * world, said
        rows[world] = [(row["acceptance"], row["loss"]) for row in processes.rows(folder, "semi")]
        weights[world] = checkpoint_file.load(folder / "checkpoints" / "semi_result.pt")["model"]
    assert len(rows[1]) == 5 and rows[2] == [pytest.approx(row, rel=1e-5, abs=1e-5) for row in rows[1]]
    assert len({acceptance for acceptance, _ in rows[1]}) > 1, "the rule moves"
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[2][name], tensor, rtol=0, atol=1e-5, msg=name)
