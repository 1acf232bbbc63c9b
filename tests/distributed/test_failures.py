"""What is wrong ends all processes with one line."""

import pytest

from fastsemi.errors import UserError
from fastsemi.rendezvous import require_split


@pytest.mark.parametrize(
    ("micro_batches", "batch", "processes", "cure"),
    [
        (1, 512, 8, r"start 1 process, or set semi\.micro_batches to 8 \("),
        (4, 24, 3, r"start 2 or 4 processes, or set semi\.micro_batches to 3 or 6 \("),
        (4, 8, 3, r"start 2 or 4 processes \(no multiple of 3 divides the batch of 8"),
        (12, 48, 8, r"start 6 or 12 processes, or set semi\.micro_batches to 8 or 16 \("),
    ],
)
def test_an_impossible_split_names_the_nearest_possible_ones(micro_batches, batch, processes, cure):
    with pytest.raises(UserError, match=cure):
        require_split("semi", micro_batches, batch, processes)


def test_possible_splits_pass():
    for processes in (1, 2, 3, 4, 6, 12):
        require_split("semi", 12, 48, processes)


def one_line(codes, said):
    assert codes == [2] * len(codes), said
    lines = [line for text in said for line in text.splitlines()]
    errors = [line for line in lines if "error" in line]
    assert len(errors) == 1 and errors[0].startswith("fastsemi: error: "), said
    assert not any("Traceback" in line for line in lines), said
    return errors[0]


def test_three_processes_refuse_four_micro_batches_once(preset, processes, tmp_path):
    _, words = preset("split")
    line = one_line(*processes.run(3, words, tmp_path / "split.log"))
    assert "pretrain.micro_batches is 4, which 3 processes cannot share evenly" in line


def test_a_wrong_configuration_is_reported_once(preset, processes, tmp_path):
    _, words = preset("wrong", "--semi.treshold", "0.5")
    line = one_line(*processes.run(2, words, tmp_path / "wrong.log"))
    assert "did you mean semi.threshold?" in line


@pytest.mark.parametrize("at", [0, 1])
def test_an_error_in_one_process_ends_all(preset, processes, tmp_path, at):
    _, words = preset("failing", "--stages", "[semi]")

    def prepare(rank):
        from fastsemi.trainer import Trainer

        update = Trainer._update

        def step(self, batches):
            if rank == at and self.step == 2:
                raise UserError("the disk is gone; plug it in")
            update(self, batches)

        Trainer._update = step

    line = one_line(*processes.run(2, words, tmp_path / "failing.log", prepare))
    assert line == "fastsemi: error: the disk is gone; plug it in"
