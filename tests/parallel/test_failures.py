"""What is wrong ends all processes with one line."""

import shutil

import pytest

from fastsemi.commands import cli
from fastsemi.common.errors import UserError
from fastsemi.parallel.rendezvous import require_split


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
        from fastsemi.training.trainer import Trainer

        update = Trainer.update

        def step(self, batches):
            if rank == at and self.step == 2:
                raise UserError("the disk is gone; plug it in")
            update(self, batches)

        Trainer.update = step

    line = one_line(*processes.run(2, words, tmp_path / "failing.log", prepare))
    assert line == "fastsemi: error: the disk is gone; plug it in"


def on_two_nodes(processes, log, first, second):
    """Two processes with a command each."""

    def main(rank):
        return cli.main(second if rank else first)

    codes = processes.wait(processes.start(2, main, log))
    return codes, [open(f"{log}.{rank}").read() for rank in range(2)]


def test_a_node_without_the_data_is_reported_once(preset, processes, tmp_path):
    _, words = preset("nodes")
    elsewhere = [*words, "--data.root", str(tmp_path / "nowhere")]
    line = one_line(*on_two_nodes(processes, tmp_path / "log", words, elsewhere))
    assert "nowhere" in line and "does not exist" in line


def test_a_node_with_other_images_is_refused(preset, processes, shapes, tmp_path):
    folder, words = preset("nodes", "--stages", "[semi]")
    root = tmp_path / "copy"
    shutil.copytree(shapes, root)
    (root / "train" / "dot" / "007.png").unlink()
    elsewhere = [*words, "--data.root", str(root)]
    line = one_line(*on_two_nodes(processes, tmp_path / "log", words, elsewhere))
    assert "the list of images of semi is" in line and "give all nodes the same command" in line
    assert not (folder / "config.yaml").exists()


def test_a_node_with_another_command_is_refused(preset, processes, tmp_path):
    _, words = preset("nodes", "--stages", "[semi]")
    line = one_line(*on_two_nodes(processes, tmp_path / "log", words, [*words, "--log_every", "2"]))
    assert "log_every is 2 on" in line and "and 1 in the first process" in line


def test_a_directory_of_other_settings_is_refused_once(preset, processes, tmp_path):
    folder, words = preset("kept", "--stages", "[finetune]", "--finetune.length", "2 steps")
    assert processes.run(1, words, tmp_path / "one.log")[0] == [0]
    before = (folder / "config.yaml").read_text()
    line = one_line(*processes.run(2, [*words, "--finetune.base_lr", "0.5"], tmp_path / "two.log"))
    assert "holds stage finetune with other settings (finetune.base_lr" in line
    assert (folder / "config.yaml").read_text() == before


def test_an_image_that_one_process_cannot_read_ends_all(preset, processes, shapes, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(shapes, root)
    (root / "val" / "dot" / "009.png").write_bytes(b"no picture")
    _, words = preset("broken", "--stages", "[finetune]", "--data.root", str(root))
    line = one_line(*processes.run(2, words, tmp_path / "log"))
    assert "009.png" in line
