"""The network that a run leaves: `model/`, brought up to date with the last finished stage."""

from __future__ import annotations

import shutil

from fastsemi.models.create import create_model
from fastsemi.models.timm_folder import export_timm
from fastsemi.run.context import RunContext
from fastsemi.run.summary import read_summary, write_summary
from fastsemi.stages.names import STAGES, has_classifier
from fastsemi.training.checkpoint import file as checkpoint_file


def leave_model(run: RunContext) -> None:
    """Bring `model/` up to date with the last finished stage that has a classifier, if there is one."""
    folder, config = run.folder, run.config
    done = [name for name in STAGES if has_classifier(name) and folder.result(name).exists()]
    summary = read_summary(folder.summary)
    if not done or (summary.get("model") == done[-1] and folder.weights.exists() and folder.has_model):
        return
    data = config.data
    model = create_model(config.model, num_classes=len(run.data.classes), image_size=data.image_size)
    model.load_state_dict(checkpoint_file.load(folder.result(done[-1]))["model"])
    shutil.rmtree(folder.fresh_model, ignore_errors=True)
    export_timm(
        model,
        folder.fresh_model,
        config=config.model,
        class_names=run.data.classes,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        crop=data.eval_crop,
    )
    shutil.rmtree(folder.model, ignore_errors=True)
    folder.fresh_model.rename(folder.model)
    write_summary(folder.summary, {**summary, "model": done[-1]})
