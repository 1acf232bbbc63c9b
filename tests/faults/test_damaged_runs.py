"""Files of a run that are damaged: the run goes on from what is sound to the same end, or says what is wrong.

Never another result without a word.
"""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fastsemi.common.checksums import write_checksums
from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision
from fastsemi.common.progress import Progress
from fastsemi.run.folder import RunFolder
from fastsemi.run.run import Run
from fastsemi.run.trained import load_trained
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.checkpoint.folder import Checkpoints, read_info, read_tensors, shapes


class Cut(Exception):
    """The end of a run that was killed."""


class Killed(Progress):
    """Quiet; ends the run after a step as a kill would, when what is being written is written."""

    def __init__(self, at):
        super().__init__(Console(quiet=True))
        self._at = at

    def update(self, step, row):
        if (self._stage, step) == self._at:
            raise Cut


def train(config, at=None):
    return Run(config, Killed(at)).train(config.stages)


def weights(config):
    return checkpoint_file.load(RunFolder(config.output).result("semi"))["model"]


OPTIONS = ("--stages", "[finetune, semi]", "--log_every", "1", "--semi.length", "8 steps")


@pytest.fixture(scope="module")
def made(make_tiny, tmp_path_factory):
    """The function `made(name)`: a "whole" run, or one "cut" in semi with checkpoints of steps 3 and 6."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = make_tiny(tmp_path_factory.mktemp(name))(*OPTIONS)
            if name == "whole":
                train(known[name])
            else:
                with pytest.raises(Cut):
                    train(known[name], ("semi", 8))
        return known[name]

    return get


@pytest.fixture
def cut(made, tiny, tmp_path):
    """A copy of the run that was cut, and the weights of the whole one."""
    shutil.copytree(made("cut").output, tmp_path / "run")
    return tiny(*OPTIONS), weights(made("whole"))


@pytest.fixture
def ended(made, tiny, tmp_path):
    """A copy of the whole run."""
    shutil.copytree(made("whole").output, tmp_path / "run")
    return tiny(*OPTIONS)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(cut, caplog, damage):
    config, _ = cut
    folder = RunFolder(config.output).checkpoints
    newest = Checkpoints(folder, "semi").latest()
    assert read_info(newest)["step"] == 6
    seen = 0
    for name, way, _ in damage.each(newest):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = Checkpoints(folder, "semi").latest()
        assert read_info(found)["step"] == 3, (name, way)
        assert "is damaged" in caplog.text and newest.name in caplog.text and found.name in caplog.text
        seen += 1
    assert seen > 20
    assert read_info(Checkpoints(folder, "semi").latest())["step"] == 6, "mended again"


def test_the_run_goes_on_from_the_one_before_to_the_same_weights(cut, damage):
    config, wanted = cut
    newest = Checkpoints(RunFolder(config.output).checkpoints, "semi").latest()
    tensors = next(newest.glob("*.distcp"))
    damage.flip(0.5)(tensors)
    train(config)
    for name, tensor in weights(config).items():
        assert torch.equal(tensor, wanted[name]), name


def test_where_none_is_sound_the_first_is_named(cut, damage):
    config, _ = cut
    for folder in RunFolder(config.output).checkpoints.glob("semi-*"):
        damage.WAYS["emptied"](folder / "info.pt")
    with pytest.raises(UserError, match=r"semi-000000006 is damaged: info\.pt .* delete it"):
        train(config)


def test_a_checkpoint_that_is_read_all_the_same_gives_what_was_written_or_an_error(cut, damage):
    """Without its checksums, as a second line."""
    config, _ = cut
    newest = Checkpoints(RunFolder(config.output).checkpoints, "semi").latest()
    for name, way, content in damage.each(newest):
        if name.endswith(".distcp") or name == "SHA256SUMS":
            continue
        try:
            into = {name: torch.empty(size) for name, size in shapes(newest).items()}
            read_tensors(newest, into)
            read_info(newest)
        except UserError as error:
            assert "\n" not in str(error), (name, way, content[:0])


def test_a_damaged_result_of_a_stage_is_an_error_or_the_same(cut, damage):
    config, _ = cut
    path = RunFolder(config.output).result("finetune")
    alone = path.parent / "alone"
    alone.mkdir()
    copy = shutil.copy(path, alone)
    before, refused = checkpoint_file.load(path), 0
    for name, way, _ in damage.each(alone):
        try:
            after = checkpoint_file.load(Path(copy))
        except UserError as error:
            assert str(copy) in str(error) and "\n" not in str(error), (name, way)
            refused += 1
            continue
        assert after["fingerprint"] == before["fingerprint"]
        assert all(torch.equal(after["model"][k], v) for k, v in before["model"].items()), (name, way)
    assert refused >= 7


def test_a_damaged_model_is_an_error(ended, damage):
    folder = RunFolder(ended.output).model
    for name, way, _ in damage.each(folder):
        with pytest.raises(UserError, match=r"is damaged|holds no trained model") as caught:
            load_trained(ended, Precision.select("fp32", torch.device("cpu")))
        assert "\n" not in str(caught.value), (name, way)
    load_trained(ended, Precision.select("fp32", torch.device("cpu")))


def test_a_pickled_file_beside_a_model_is_not_read(ended, tmp_path):
    folder = RunFolder(ended.output).model

    class Evil:
        def __reduce__(self):
            import os

            return os.mkdir, (str(tmp_path / "owned"),)

    for name in ("pytorch_model.bin", "model.pth", "open_clip_pytorch_model.bin"):
        torch.save(Evil(), folder / name)
    load_trained(ended, Precision.select("fp32", torch.device("cpu")))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        load_trained(ended, Precision.select("fp32", torch.device("cpu")))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"])
def test_the_arguments_of_a_network_cannot_load_a_file(name, tiny):
    with pytest.raises(UserError, match=rf"model\.args\.{name} says where weights come from"):
        tiny(f"--model.args.{name}", "evil.pth")


def test_lost_settings_of_a_model_are_written_again(ended):
    settings = RunFolder(ended.output).model / "config.json"
    before = settings.read_bytes()
    settings.unlink()
    train(ended)
    assert settings.read_bytes() == before


def test_the_settings_of_a_model_cannot_name_a_hub(ended):
    folder = RunFolder(ended.output).model
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"architecture": "hf-hub:some/model"}))
    write_checksums(folder)
    with pytest.raises(UserError, match="hf-hub:some/model is no network of timm"):
        load_trained(ended, Precision.select("fp32", torch.device("cpu")))


def test_a_damaged_leftover_does_not_stop_a_finished_run(cut, damage):
    config, _ = cut
    train(config)
    for leftover in RunFolder(config.output).checkpoints.glob("semi-*"):
        damage.WAYS["emptied"](leftover / "info.pt")
    train(config)
