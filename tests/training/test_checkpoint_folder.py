"""Checkpoints are whole or not there, and reading one runs no code."""

import os
import pickle
import signal

import pytest
import torch
from torch.distributed import checkpoint as dcp

from fastsemi.common.errors import UserError
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.checkpoint.folder import Checkpoints, read_info, read_tensors, shapes


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of step 3."""
    checkpoints = Checkpoints(tmp_path, "semi")
    tensors = {"model.weight": torch.arange(6.0).reshape(2, 3), "optimizer.step.weight": torch.tensor(3.0)}
    checkpoints.save(3, {"step": 3}, tensors)
    tensors["model.weight"].zero_()  # training goes on while it is written
    checkpoints.finish()
    return checkpoints


def test_it_holds_what_was_there_when_it_was_saved(saved):
    folder = saved.latest()
    assert read_info(folder) == {"step": 3}
    assert shapes(folder) == {"model.weight": (2, 3), "optimizer.step.weight": ()}
    weight = torch.zeros(2, 3)
    read_tensors(folder, {"model.weight": weight})
    assert torch.equal(weight, torch.arange(6.0).reshape(2, 3))


def test_a_newer_one_takes_the_place_of_the_older(saved, tmp_path):
    saved.save(6, {"step": 6}, {"model.weight": torch.ones(2, 3)})
    saved.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["semi-000000006"]


def test_a_kill_in_the_middle_of_a_save_leaves_the_older_one(saved, tmp_path):
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            dcp.FileSystemWriter.finish = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
            saved.save(6, {"step": 6}, {"model.weight": torch.ones(2, 3)})
            saved.finish()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert (tmp_path / ".semi-000000006.tmp").exists()
    assert read_info(saved.latest())["step"] == 3
    saved.save(9, {"step": 9}, {"model.weight": torch.ones(2, 3)})
    saved.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["semi-000000009"]


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_reading_runs_no_code(saved, tmp_path):
    folder = saved.latest()
    (folder / ".metadata").write_bytes(pickle.dumps(_Evil(str(tmp_path / "owned"))))
    with pytest.raises(UserError, match=r"it names (posix|os)\.mkdir, which no checkpoint holds"):
        shapes(folder)
    assert not (tmp_path / "owned").exists()


def test_pytorchs_advice_to_run_code_is_not_passed_on(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(_Evil(str(tmp_path / "owned")), path)
    with pytest.raises(UserError, match=r"would run Python code \((posix|os)\.mkdir\); delete it") as caught:
        checkpoint_file.load(path)
    path.write_bytes(b"\x80\x02}q\x00.")  # no zip archive
    with pytest.raises(UserError) as other:
        checkpoint_file.load(path)
    assert "weights_only" not in str(caught.value) + str(other.value)
    assert not (tmp_path / "owned").exists()


def test_what_does_not_fit_is_named(saved):
    folder = saved.latest()
    with pytest.raises(UserError, match=r"model\.weight is \(2, 3\) .* and \(3, 3\) in this configuration"):
        read_tensors(folder, {"model.weight": torch.zeros(3, 3)})
    with pytest.raises(UserError, match=r"has no model\.bias"):
        read_tensors(folder, {"model.bias": torch.zeros(3)})


def test_damaged_files_are_reported(saved):
    folder = saved.latest()
    for file in folder.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="cannot read checkpoint"):
        read_tensors(folder, {"model.weight": torch.zeros(2, 3)})
    (folder / ".metadata").write_bytes(b"\x80")
    with pytest.raises(UserError, match="cannot read checkpoint"):
        shapes(folder)


def test_a_disk_that_refuses_is_reported(saved, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", full)
    saved.save(6, {"step": 6}, {"model.weight": torch.ones(2, 3)})
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*No space left on device"):
        saved.finish()
    assert read_info(saved.latest())["step"] == 3


def test_a_damaged_one_is_replaced_and_counts_for_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path, "semi", keep=1)
    for step in (50, 100):
        saved = Checkpoints(tmp_path, "semi", keep=2)
        saved.save(step, {"step": step}, {"x": torch.ones(2)})
        saved.finish()
    (tmp_path / "semi-000000100" / "info.pt").write_bytes(b"")
    assert read_info(checkpoints.latest())["step"] == 50
    checkpoints.save(75, {"step": 75}, {"x": torch.ones(2)})
    checkpoints.finish()
    assert read_info(checkpoints.latest())["step"] == 75
    checkpoints.save(100, {"step": 100}, {"x": torch.ones(2)})
    checkpoints.finish()
    assert read_info(checkpoints.latest())["step"] == 100
    assert [path.name for path in tmp_path.iterdir()] == ["semi-000000100"]
