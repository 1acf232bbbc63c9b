"""The same command again, and another one in the same folder."""

import io
import shutil

import pytest
from rich.console import Console

from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.run.folder import RunFolder
from fastsemi.run.run import Run


def test_finished_stages_are_skipped_and_other_settings_refused(tiny, tmp_path, runs):
    config = tiny("--stages", "[finetune, semi]")
    first = runs.train(config)
    files = {path: path.stat().st_mtime_ns for path in (config.output / "checkpoints").iterdir()}
    assert runs.train(tiny("--stages", "[finetune, semi]", "--loader.threads", "1")) == first
    assert files == {path: path.stat().st_mtime_ns for path in (config.output / "checkpoints").iterdir()}
    with pytest.raises(UserError, match=r"semi\.threshold: 0\.3, now 0\.4.*--output"):
        runs.train(tiny("--stages", "[finetune, semi]", "--semi.threshold", "0.4"))
    with pytest.raises(UserError, match=r"data\.labels\.seed"):
        runs.train(tiny("--stages", "[finetune, semi]", "--data.labels.seed", "4"))
    said = Console(file=io.StringIO(), width=200)
    changed = tiny("--stages", "[finetune, semi]", "--semi.threshold", "0.4", "--train.allow_changed", "true")
    assert Run(changed, Progress(said)).train(changed.stages) == first
    assert "semi goes on with other settings than it was begun with: semi.threshold: 0.3, now 0.4" in (
        said.file.getvalue()
    )


def test_a_refused_command_leaves_the_run_as_it_is(finetuned, tiny, runs):
    before = (finetuned.output / "config.yaml").read_text()
    with pytest.raises(UserError, match="other settings"):
        runs.train(tiny("--stages", "[finetune]", "--finetune.base_lr", "0.5"))
    assert (finetuned.output / "config.yaml").read_text() == before


def test_a_lost_model_folder_is_written_again(finetuned, runs):
    before = (finetuned.output / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(finetuned.output / "model")
    runs.train(finetuned)
    assert (finetuned.output / "model" / "model.safetensors").read_bytes() == before


def test_new_images_in_the_folder_are_noticed(tiny, tmp_path, shapes, runs):
    root = tmp_path / "grows"
    shutil.copytree(shapes, root)
    options = ["--stages", "[finetune]", "--data.root", str(root)]
    runs.train(tiny(*options))
    shutil.copy(root / "train" / "bar" / "000.png", root / "train" / "bar" / "zzz.png")
    with pytest.raises(UserError, match="images: "):
        runs.train(tiny(*options))


def test_a_checkpoint_behind_the_new_end_of_a_stage_is_refused(finetuned, tiny, runs):
    RunFolder(finetuned.output).result("finetune").unlink()
    (finetuned.output / "summary.json").unlink()
    shorter = ("--finetune.length", "3 steps", "--finetune.warmup", "1 steps")
    shorter += ("--train.allow_changed", "true")
    with pytest.raises(UserError, match=r"is at step 8, and finetune now ends at step 3"):
        runs.train(tiny("--stages", "[finetune]", *shorter))


def test_a_damaged_summary_is_told_before_anything_else(tiny, runs):
    config = tiny("--data.root", "/nowhere")
    config.output.mkdir()
    (config.output / "summary.json").write_text('{"stages": {}, "skipped_images": 3}')
    with pytest.raises(UserError, match=r"summary\.json is damaged; delete it"):
        runs.train(config)
    assert not (config.output / "config.yaml").exists()
