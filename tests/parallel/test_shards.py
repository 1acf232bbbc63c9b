"""Evaluation, and a teacher in half precision, when processes share the work or the weights."""

import json
import shutil

import pytest
import torch

from fastsemi.models.lora import merged
from fastsemi.parallel import processes as group
from fastsemi.parallel.shards import whole, whole_state
from fastsemi.run import config as configuration
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.run.new_stage import new_model
from fastsemi.training.evaluate import evaluate
from fastsemi.training.plain_state import plain_state
from fastsemi.training.strategy import Parallel, choose_strategy


def in_session(processes, world, words, log, work):
    """Call `work(run, rank)` in each of `world` processes."""
    config = configuration.load([words[2]], words[3:])

    def main(rank):
        with group.session(config.distributed, "cpu"):
            work(RunContext(config), rank)
        return 0

    codes = processes.wait(processes.start(world, main, log))
    assert codes == [0] * world, [open(f"{log}.{rank}").read() for rank in range(world)]


def test_evaluation_is_exact_at_any_world_size(preset, processes, shapes, tmp_path):
    """29 images in batches of 7: of two processes one has a pass more, which shards must be gathered for."""
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    (root / "val" / "dot" / "009.png").unlink()
    _, words = preset("eval", "--data.root", str(root))
    scores = {}
    for world, strategy in ((1, "ddp"), (2, "fsdp"), (3, "ddp")):
        out = tmp_path / f"{world}.json"

        def work(run, rank, strategy=strategy, out=out):
            stage = build_stage(run, "finetune", fresh=True)
            Parallel(stage, strategy, run.precision)
            found = evaluate(stage.eval_models(), run.data, run.views, run.precision, batch=7)
            if rank == 0:
                out.write_text(json.dumps({name: vars(score) for name, score in found.items()}))
            run.close()

        in_session(processes, world, words, tmp_path / f"{world}.log", work)
        scores[world] = json.loads(out.read_text())
    assert scores[1]["model"]["images"] == 29
    assert 0 < scores[1]["model"]["top1"] < 100
    assert scores[2] == scores[1] and scores[3] == scores[1]


def test_a_teacher_in_half_precision_follows_in_shards(preset, processes, tmp_path):
    _, words = preset("half", "--semi.teacher_dtype", "bf16", "--semi.momentum", "0.75")

    def work(run, rank):
        stage = build_stage(run, "semi", fresh=True)
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        before = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
        Parallel(stage, "fsdp", run.precision)
        with torch.no_grad():
            for parameter in stage.model.parameters():
                parameter.add_(1.0)
        stage.after_update()
        average, copy = whole_state(stage.teacher.model), whole_state(stage.teacher.runner)
        for name, tensor in before.items():
            torch.testing.assert_close(average[name], tensor + 0.25, msg=name)
            assert torch.equal(copy[name], average[name].bfloat16()), name
        assert len(stage.teacher.model.head.weight.to_local()) < len(before["head.weight"])
        assert stage.teacher(images).shape == (4, 3)
        assert whole(stage.teacher.runner.head.weight).dtype == torch.bfloat16
        run.close()

    in_session(processes, 2, words, tmp_path / "half.log", work)


def test_lora_in_shards_trains_and_leaves_plain_weights(preset, processes, tmp_path):
    _, words = preset(
        "lora", "--model.adapt", "lora", "--model.lora_rank", "4", "--model.weights", "not-read"
    )

    def work(run, rank):
        torch.manual_seed(rank)  # what is drawn may not depend on the process
        plain = new_model(run.config, "semi", 3).state_dict()
        stage = build_stage(run, "semi", fresh=True)
        with torch.no_grad():
            stage.model.blocks[0].mlp.fc1.lora_b.fill_(1.0)
        expected = merged(stage.model, {n: t.clone() for n, t in stage.model.state_dict().items()})
        Parallel(stage, "fsdp", run.precision)
        found = plain_state(stage.model)
        assert found.keys() == plain.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-7, msg=name)
        stage.model(torch.ones(2, 3, 16, 16)).square().sum().backward()
        layer = stage.model.blocks[0].mlp.fc1
        assert layer.weight.grad is None and whole(layer.lora_a.grad).abs().sum() > 0
        stage.after_update()
        run.close()

    in_session(processes, 2, words, tmp_path / "lora.log", work)


@pytest.mark.parametrize(("needed", "strategy"), [(70, "ddp"), (75, "fsdp"), (900, "fsdp")])
def test_auto_shards_what_does_not_fit(needed, strategy):
    assert choose_strategy("auto", needed, 80) == strategy
    assert choose_strategy("ddp", needed, 80) == "ddp"
