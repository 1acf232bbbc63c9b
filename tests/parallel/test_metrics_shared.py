"""Sums of metrics of all processes, and what a checkpoint keeps of them between two rows."""

import json
import math

import torch

from fastsemi.parallel import processes as group
from fastsemi.parallel.settings import DistributedConfig
from fastsemi.stages.base import Ratio
from fastsemi.training.metrics import Accumulator
from fastsemi.training.trainer import _update_metrics

PARTS = [(0.1, 3), (0.7, 5), (1e7, 1), (1e-3, 2)]  # of four micro-batches; sums in fp32 depend on their order


def add(metrics, parts):
    for total, count in parts[group.rank() :: group.world()]:
        classes = Ratio(torch.tensor([total, 0.0]), torch.tensor([count, 0]))
        metrics.add(
            {"loss": Ratio(torch.tensor(total), count), "none": Ratio(torch.tensor(0.0), 0), "by": classes}
        )


def test_a_row_after_a_checkpoint_is_that_of_all_steps_since_the_row_before(processes, tmp_path):
    def main(rank):
        with group.session(DistributedConfig(timeout_s=60), "cpu"):
            whole, cut = (Accumulator(torch.device("cpu")) for _ in range(2))
            add(whole, PARTS)
            whole.add(_update_metrics(torch.tensor(4.0), torch.tensor(False)))
            kept = group.from_main(json.loads(json.dumps(whole.state())))
            cut.restore(kept)
            add(whole, PARTS)
            add(cut, PARTS)
            rows = whole.read(), cut.read()
            assert all(math.isnan(row["by"][1]) and row["by"][0] == row["loss"] for row in rows)
            found = [*(row["loss"] for row in rows), kept]
            if group.is_main():
                (tmp_path / "found.json").write_text(json.dumps(found))
        return 0

    assert processes.wait(processes.start(2, main, tmp_path / "log")) == [0, 0]
    whole, cut, kept = json.loads((tmp_path / "found.json").read_text())
    assert cut == whole and len(kept) == 2
    shared = [[sums[name] for sums in kept] for name in ("grad_norm", "skipped_steps")]
    assert shared == [[[4.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]], "of one step, not of one a process"
    alone = Accumulator(torch.device("cpu"))  # fewer processes go on with the sums of all
    alone.restore(kept)
    assert alone.read()["loss"] == torch.tensor([p[0] for p in PARTS]).sum() / sum(p[1] for p in PARTS)
