"""Runs that lose processes, and go on with more or fewer of them."""

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fastsemi.commands import cli
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.checkpoint.folder import Checkpoints, read_info

OPTIONS = ("--stages", "[semi]")


def spy(log, kill_at=None, wait_for_save=True):
    """Write down which images each micro-batch of this process holds; die before step `kill_at`."""
    from fastsemi.stages.inputs import Views
    from fastsemi.training.deal import micro_batches
    from fastsemi.training.trainer import Trainer

    to_device, update, seen = Views.to_device, Trainer.update, []

    def watched(self, batch):
        seen.append(batch.plan.ids.tolist())
        return to_device(self, batch)

    def step(self, batches):
        if self.step == kill_at:
            if wait_for_save:
                self.checkpoints.finish()
            os.kill(os.getpid(), signal.SIGKILL)
        seen.clear()
        update(self, batches)
        with open(log, "a") as file:
            for i, micro in enumerate(micro_batches(self.stage.config.micro_batches)):
                row = {"step": self.step, "micro": micro, "ids": seen[2 * i : 2 * i + 2]}
                file.write(json.dumps(row) + "\n")

    Views.to_device, Trainer.update = watched, step


def sequence(*logs):
    """(step, micro-batch) -> ids of unlabelled and labelled images; steps that were repeated are the same."""
    found = {}
    for line in (line for log in logs for line in Path(log).read_text().splitlines()):
        row = json.loads(line)
        key = row["step"], row["micro"]
        assert found.setdefault(key, row["ids"]) == row["ids"]
    return found


def weights(folder):
    return checkpoint_file.load(folder / "checkpoints" / "semi_result.pt")["model"]


def assert_close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def whole():
    """What an uninterrupted run in one process gave."""
    return {}


@pytest.fixture
def uninterrupted(preset, processes, tmp_path, whole):
    if not whole:
        folder, words = preset("whole", *OPTIONS)
        log = tmp_path / "whole.ids"
        codes, said = processes.run(1, words, tmp_path / "whole.log", lambda rank: spy(log))
        assert codes == [0], said
        whole.update(sequence=sequence(log), weights=weights(folder))
    return whole


def test_one_two_one_processes_killed_within_an_epoch(preset, processes, tmp_path, uninterrupted):
    """105 unlabelled images in batches of 40: steps 3 and 6, where it goes on, are within passes."""
    folder, words = preset("cut", *OPTIONS)
    checkpoints = Checkpoints(folder / "checkpoints", "semi")
    logs = [tmp_path / f"{leg}.ids" for leg in ("first", "second.0", "second.1", "third")]

    codes, said = processes.run(1, words, tmp_path / "a.log", lambda rank: spy(logs[0], 4))
    assert codes == [-signal.SIGKILL], said
    assert read_info(checkpoints.latest())["step"] == 3

    sharded = [*words, "--distributed.strategy", "fsdp"]
    prepare = lambda rank: spy(logs[1 + rank], 7 if rank else None)  # noqa: E731
    codes, said = processes.run(2, sharded, tmp_path / "b.log", prepare)
    assert codes == [2, -signal.SIGKILL], said
    assert "resumes at step 3 of 10" in said[0] and "Traceback" not in said[0]
    assert "another process of the run was lost" in said[0].splitlines()[-1]
    assert read_info(checkpoints.latest())["step"] == 6

    codes, said = processes.run(1, words, tmp_path / "c.log", lambda rank: spy(logs[3]))
    assert codes == [0], said
    assert "resumes at step 6 of 10" in said[0]

    got = sequence(*logs)
    assert got == uninterrupted["sequence"]
    assert len(got) == 10 * 4
    unlabelled = [i for key in sorted(got) for i in got[key][0]]
    for start in range(0, 315, 105):
        assert len(np.unique(unlabelled[start : start + 105])) == 105
    assert_close(weights(folder), uninterrupted["weights"])
    assert [row["step"] for row in processes.rows(folder, "semi")] == list(range(1, 11))


def lose_processes(lose, ids):
    """What each worker of torchrun does: it notes the images of its micro-batches in a file; then, by `lose`:

    worker  the second of two dies once;
    node    alone, a worker waits for a second node, whose arrival torchrun tells it by SIGTERM;
    me      that second node, which dies whole, torchrun and worker.
    """
    from fastsemi.parallel import processes
    from fastsemi.stages.inputs import Views
    from fastsemi.training.deal import micro_batches
    from fastsemi.training.trainer import Trainer

    to_device, update, seen = Views.to_device, Trainer.update, []
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def watched(self, batch):
        seen.append(batch.plan.ids.tolist())
        return to_device(self, batch)

    def step(self, batches):
        if lose == "worker" and (self.step, os.environ["TORCHELASTIC_RESTART_COUNT"]) == (5, "0"):
            self.checkpoints.finish()
            processes.barrier()  # a worker that is ended while it still writes leaves the checkpoint before
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        while lose != "worker" and self.step == 2 and world == 1 and not self._stop.now():
            time.sleep(0.05)
        if lose == "me" and self.step == 7:
            self.checkpoints.finish()
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        seen.clear()
        update(self, batches)
        with open(ids, "a") as file:
            for i, micro in enumerate(micro_batches(self.stage.config.micro_batches)):
                row = {"step": self.step, "micro": micro, "ids": seen[2 * i : 2 * i + 2], "world": world}
                file.write(json.dumps(row) + "\n")

    Views.to_device, Trainer.update = watched, step


def torchrun(words, lose, ids, **options):
    """What a process of `processes.start` does to be torchrun, of these options.

    The launcher in it, with workers that are forks: new ones would each import PyTorch again.
    """

    def worker():
        for number in (signal.SIGTERM, signal.SIGINT):  # as in a new process, not the launcher's
            signal.signal(number, signal.SIG_DFL)
        lose_processes(lose, ids)
        if code := cli.main(words):
            sys.exit(code)

    def main(rank):
        config = LaunchConfig(
            **{"min_nodes": 1, "start_method": "fork", "rdzv_backend": "c10d", "max_restarts": 2},
            **{"monitor_interval": 0.1, **options},
        )
        elastic_launch(config, worker)()
        return 0

    return main


@pytest.mark.slow
def test_a_run_that_lost_a_worker_is_started_again(preset, tmp_path, processes, uninterrupted):
    folder, words = preset("elastic", *OPTIONS)
    ids, log = tmp_path / "ids", tmp_path / "log"
    options = {"max_nodes": 1, "nproc_per_node": 2, "rdzv_endpoint": "localhost:0", "run_id": "elastic"}
    codes = processes.wait(processes.start(1, torchrun(words, "worker", ids, **options), log), 200)
    said = (tmp_path / "log.0").read_text()
    assert codes == [0], said
    assert "resumes at step 3 of 10" in said
    assert sequence(ids) == uninterrupted["sequence"]
    assert_close(weights(folder), uninterrupted["weights"])
    assert [row["step"] for row in processes.rows(folder, "semi")] == list(range(1, 11))


@pytest.mark.slow
def test_a_second_node_comes_and_is_lost(preset, tmp_path, processes, uninterrupted, monkeypatch):
    """`--nnodes=1:2`: one node, two, and one again take the steps of a run that nothing happened to."""
    # Else PyTorch 2.14 lets no node join a running one.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    folder, words = preset("nodes", *OPTIONS)
    options = {
        **{"max_nodes": 2, "nproc_per_node": 1, "run_id": "nodes"},
        "rdzv_endpoint": f"127.0.0.1:{processes.free_port()}",
        # How long a node waits for a second one, and for a sign of life from it: by default 30 s and 15 s.
        "rdzv_configs": {"last_call_timeout": 1, "keep_alive_interval": 1, "keep_alive_max_attempt": 10},
    }
    ids, others = tmp_path / "first.ids", tmp_path / "second.ids"
    started = processes.start(1, torchrun(words, "node", ids, **options), tmp_path / "first")
    deadline = time.monotonic() + 100
    while not ids.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    started += processes.start(1, torchrun(words, "me", others, **options), tmp_path / "second")
    codes = processes.wait(started, 200)
    said = [(tmp_path / f"{name}.0").read_text() for name in ("first", "second")]
    assert codes == [0, -signal.SIGKILL], said

    rows = [json.loads(line) for line in ids.read_text().splitlines()]
    worlds = [world for world, _ in itertools.groupby(row["world"] for row in rows)]
    assert worlds == [1, 2, 1], said
    assert sequence(ids, others) == uninterrupted["sequence"]
    assert_close(weights(folder), uninterrupted["weights"])
    assert [row["step"] for row in processes.rows(folder, "semi")] == list(range(1, 11))


def test_a_signal_to_one_process_stops_all_after_the_same_step(preset, processes, tmp_path):
    folder, words = preset("stopped", *OPTIONS)

    def prepare(rank):
        from fastsemi.training.trainer import Trainer

        update = Trainer.update

        def step(self, batches):
            if rank == 1 and self.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            update(self, batches)

        Trainer.update = step

    codes, said = processes.run(2, words, tmp_path / "stopped.log", prepare)
    assert codes == [143, 143], said
    # The vote of step 5 is counted in the evaluation after it, which is made up for later.
    assert "stopped at step 5 of 10 of semi; the same command resumes there" in said[0]
    assert not said[1]
    assert read_info(Checkpoints(folder / "checkpoints", "semi").latest())["step"] == 5


def test_a_signal_to_one_process_before_the_first_step_ends_all(preset, processes, tmp_path):
    _, words = preset("stopped", *OPTIONS)

    def prepare(rank):
        from fastsemi.run import run

        check = run.check_stage

        def stopped(*arguments):
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            check(*arguments)

        run.check_stage = stopped

    codes, said = processes.run(2, words, tmp_path / "stopped.log", prepare)
    assert codes == [2, 143], said  # the one that was lost says why, the other one that it was left
    assert "stopped by SIGTERM; the same command resumes there" in said[1]
