"""What is refused before a run's first step: settings, data and directories that do not go together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from fastsemi.common.errors import UserError
from fastsemi.common.yaml_file import read_yaml
from fastsemi.parallel import processes
from fastsemi.parallel.rendezvous import require_split
from fastsemi.run.context import RunContext
from fastsemi.run.fingerprint import (
    changes,
    fingerprint,
    node_settings,
    refuse_changes,
    refuse_differences,
)
from fastsemi.run.order import STAGE_CLASSES, earlier, evaluation_digest, images_digest, settings
from fastsemi.run.plan_file import check_record, plan_digest, replayed
from fastsemi.run.start_weights import check_network, sees_one_image, start_weights
from fastsemi.stages.base import make_schedule
from fastsemi.stages.names import StageName, has_classifier
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.checkpoint.folder import Checkpoints, read_info
from fastsemi.training.selection import EVALUATED


def check_stage(run: RunContext, name: StageName) -> None:
    """Find what is wrong with the data and the settings of a stage, and what its network cannot train.

    Raises:
        UserError: Says what.
    """
    config = settings(run.config, name)
    if has_classifier(name):
        run.config.require_choice()  # of a stage that `stages` does not name too
    roles = STAGE_CLASSES[name].build_roles(config, run.data, run.config.seed)
    schedule = make_schedule(config, next(iter(roles.values())).stream)
    check_record(run.config)
    replayed(run.config, name, roles, schedule.total_steps)
    require_split(name, config.micro_batches, config.batch, processes.world())
    if has_classifier(name) and run.config.data.evaluates and not len(run.data.val.ids):
        raise UserError(f"{run.data.val.index.root} holds no images to evaluate on; add some")
    evaluated = [run.data.val, run.data.selection] if has_classifier(name) else []
    for images in (*(role.images for role in roles.values()), *evaluated):
        run.data.require_memory(images)
    start = None if earlier(run.config, name) else start_weights(run.config.model)
    special = run.config.model.adapt != "full" or getattr(config, "keep_tokens", 1.0) < 1
    special |= bool(getattr(config, "image_sizes", ()) or getattr(config, "merge_tokens", 0))
    special |= sees_one_image(run.config, name)
    if start or (has_classifier(name) and special):
        check_network(run.config, name, len(run.data.classes), start)


def check_images(run: RunContext, stages: Sequence[StageName]) -> None:
    """Refuse more images that cannot be read than may be skipped, as far as the index knows them.

    Raises:
        UserError: Says how many the stages would meet, and names one.
    """
    data, limit = run.data, run.config.data.max_bad
    sets = []
    for name in stages:
        roles = STAGE_CLASSES[name].build_roles(settings(run.config, name), data, run.config.seed)
        sets += [role.images for role in roles.values()]
        sets += [data.val, data.selection] if has_classifier(name) else []
    broken = {
        images.source.name(int(i)) for images in sets for i in np.intersect1d(images.ids, images.index.broken)
    }
    if len(broken) > limit:
        count = f"{len(broken):,} images" if len(broken) > 1 else "1 image"
        raise UserError(
            f"{count} cannot be read, such as {min(broken)}, and data.max_bad is {limit}; repair or remove "
            f"what is broken, or set data.max_bad to {len(broken)} to skip it"
        )


def check_nodes(run: RunContext, stages: Sequence[StageName]) -> None:
    """Refuse processes that would train on other images or with other settings than the first one.

    Raises:
        UserError: Names the first difference.
    """
    if processes.world() == 1:
        return
    mine: dict[str, Any] = {**node_settings(run.config), "precision": run.precision.label}
    for name in stages:
        mine[f"the list of images of {name}"] = images_digest(run.config, run.data, name)
        if has_classifier(name):
            mine["the number of evaluation images"] = len(run.data.val.ids)
    refuse_differences(processes.from_main(mine), mine)


def check_folder(run: RunContext, name: StageName, wanted: Sequence[StageName]) -> None:
    """Refuse a directory that holds the stage with other settings, before anything is written to it.

    A stage that is not in `wanted`, those to run, is compared too: its settings in the folder's configuration
    would be lost.

    Raises:
        UserError: Names the first setting that differs.
    """
    if name not in wanted and name not in run.config.stages:
        return
    result = run.folder.result(name)
    finished, written = processes.from_main((result.exists(), _written(run)))
    path = result if finished else Checkpoints(run.folder.checkpoints, name).latest()
    if path is None:
        return
    state = checkpoint_file.load(path, mmap=True) if finished else read_info(path)
    if "fingerprint" not in state:
        raise UserError(f"{path} is no checkpoint of a run; move it away or give another --output")
    changed = changes(state["fingerprint"], stage_fingerprint(run, name), written)
    if not run.config.train.allow_changed:
        refuse_changes(changed, name, run.folder.path)
    for text in changed:
        run.say(f"{name} goes on with other settings than it was begun with: {text}")


def _written(run: RunContext) -> dict[str, Any]:
    """The configuration that the run's directory holds, nested; empty where none can be read."""
    content = None
    with suppress(UserError):
        content = read_yaml(run.folder.config, "config", "it comes with the first stage")
    return content if isinstance(content, dict) else {}


def stage_fingerprint(run: RunContext, name: StageName) -> dict[str, Any]:
    """All that the weights of a stage depend on."""
    kept = fingerprint(run.config, name, earlier(run.config, name))
    kept |= {"precision": run.precision.label, "images": images_digest(run.config, run.data, name)}
    if has_classifier(name):
        kept[EVALUATED] = evaluation_digest(run.data)
    if run.config.plan.replay:
        kept["replayed plan"] = plan_digest(run.config.plan.replay, name)
    return kept
