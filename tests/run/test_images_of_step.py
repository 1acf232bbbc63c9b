"""A step that is not finite names its images, and the command that shows them."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.run.images_of_step import images_of_step, naming_images
from fastsemi.run.run import Run
from fastsemi.stages.semi import Semi
from fastsemi.training.update import NotFiniteError


@pytest.mark.parametrize("spoiled", [0, 1])
def test_the_images_of_the_micro_batch_are_named(tiny, monkeypatch, spoiled):
    config = tiny("--stages", "[semi]", "--semi.micro_batches", "2", "--semi.checkpoint_every", "100 steps")
    loss, seen = Semi.loss, []

    def at_step_one(stage, batch):
        seen.append({name: part.ids.tolist() for name, part in batch.items()})
        output = loss(stage, batch)
        return replace(output, loss=output.loss * float("nan")) if len(seen) == 3 + spoiled else output

    monkeypatch.setattr(Semi, "loss", at_step_one)
    with pytest.raises(UserError) as caught:
        Run(config, Progress(Console(quiet=True))).train(["semi"])
    monkeypatch.undo()
    message = str(caught.value)
    command = f"fastsemi replay {config.output} 1 --stage semi --micro {spoiled}"
    assert message.startswith("the loss is not finite at step 1,") and message.endswith(command)
    assert "\n" not in message
    run = RunContext(config)
    try:
        stage = build_stage(run, "semi", fresh=True)
        images = list(images_of_step(stage, 1, spoiled))
        ids = seen[2 + spoiled]
        for role, wanted in ids.items():
            names = [stage.roles[role].images.source.name(i) for i in wanted]
            assert [image.name for image in images if image.role == role] == names
        assert all(image.name in message for image in images[:3])
        assert {Path(image.name).suffix for image in images} == {".png"}
        whole = list(images_of_step(stage, 1))
        assert len(whole) == 2 * len(images) and [i for i in whole if i.micro == spoiled] == images
        with pytest.raises(
            UserError, match=f"the images of the step .* replay {config.output} 5 --stage semi$"
        ):
            with naming_images(run, stage):
                raise NotFiniteError("the gradient's norm is not finite at step 5", 5, None)
    finally:
        run.close()


def test_other_errors_pass(tiny):
    run = RunContext(tiny("--stages", "[semi]"))
    with pytest.raises(UserError, match=r"^no$"), naming_images(run, build_stage(run, "semi", fresh=True)):
        raise UserError("no")
    run.close()
