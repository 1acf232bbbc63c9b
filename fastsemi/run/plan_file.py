"""What the stages of a run draw about their data, in a file: to be replayed, or for another program.

A `.safetensors` file of arrays [steps, micro-batches, ...] called `STAGE.ROLE.NAME`, with the names of
`loaders/plan/arrays.py`. Its metadata has the `seed`, which drop path goes by, and for each `STAGE.ROLE` the
files of the images that occur, `{id: name}` as JSON. docs/parity.md describes it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fastsemi.common.errors import UserError
from fastsemi.common.files import UNREADABLE, replacing
from fastsemi.loaders.plan.arrays import to_arrays
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS
from fastsemi.loaders.recorded import RecordedStream
from fastsemi.loaders.stream import Stream
from fastsemi.models.mae import MaskedAutoencoder
from fastsemi.parallel import processes
from fastsemi.run.config import Config
from fastsemi.stages.base import Role, Stage
from fastsemi.stages.names import StageName
from fastsemi.training.deal import seed_device

Arrays = dict[str, NDArray]


def record_plan(config: Config, name: StageName, stage: Stage, device: torch.device) -> None:
    """Add the draws of a stage's first steps to the file of `--plan.record`, in the main process.

    Raises:
        UserError: In all processes: the file holds other draws of the stage, or is none of these.
    """
    refusal = None
    if processes.is_main():
        try:
            _record(config, name, stage, device)
        except UserError as error:
            refusal = str(error)
    refusal = processes.from_main(refusal)
    if refusal:
        raise UserError(refusal)


def check_record(config: Config) -> None:
    """Refuse, before training, to add to a file of `--plan.record` that another run has begun.

    Raises:
        UserError: It has the draws of another seed or image size, or is no such file.
    """
    path = config.plan.record
    if path is None or not path.exists():
        return
    metadata = _read(path)[1]
    for key, value in _of_run(config).items():
        if metadata.get(key) != value:
            raise UserError(
                f"plan.record {path} was written with {key} {metadata.get(key)}, and it is {value} now; give "
                "another file"
            )


def _record(config: Config, name: StageName, stage: Stage, device: torch.device) -> None:
    path = config.plan.record
    assert path is not None
    steps = min(config.plan.steps, stage.schedule.total_steps)
    arrays: Arrays = {}
    names: dict[str, str] = {}
    for role, images in stage.roles.items():
        found = _draws(stage, images.stream, config.seed, steps, device)
        arrays |= {f"{name}.{role}.{key}": array for key, array in found.items()}
        occurring = np.unique(found["ids"]).tolist()
        names[f"{name}.{role}"] = json.dumps({i: images.stream.index.relative_path(i) for i in occurring})
    before, metadata = _read(path) if path.exists() else ({}, {})
    if any(key.startswith(f"{name}.") for key in before):
        if _stage_digest(before, name) != _stage_digest(arrays, name):
            raise UserError(f"plan.record {path} holds other draws of {name}; give another file")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "wb") as file:
        file.write(save({**before, **arrays}, {**metadata, **names, **_of_run(config)}))


def _of_run(config: Config) -> dict[str, str]:
    """What of a run's settings its draws depend on, besides those that arrays show."""
    return {"seed": str(config.seed), "data.image_size": str(config.data.image_size)}


def replayed(config: Config, name: StageName, roles: Mapping[str, Role], steps: int) -> Mapping[str, Role]:
    """The streams of a stage with the draws of `--plan.replay`, where it is set.

    Args:
        config: The run.
        name: Of the stage.
        roles: Its streams.
        steps: How many the stage has.

    Raises:
        UserError: The file is of other images, settings or stages, or too short.
    """
    path = config.plan.replay
    if path is None:
        return roles
    arrays, metadata = _read(path)
    where = f"plan.replay {path}"
    for key, value in _of_run(config).items():
        if metadata.get(key, value) != value:
            raise UserError(
                f"{where} was recorded with {key} {metadata[key]}, and it is {value} now; set it to that"
            )
    streams = {}
    for role, images in roles.items():
        own = {k.split(".", 2)[2]: a for k, a in arrays.items() if k.startswith(f"{name}.{role}.")}
        _check(where, f"{name}.{role}", own, images.stream, metadata, steps)
        inherited = {f.name: getattr(images.stream, f.name) for f in dataclasses.fields(Stream) if f.init}
        streams[role] = Role(images.images, RecordedStream(**inherited, arrays=own))
    return streams


def plan_digest(path: Path, name: StageName) -> str:
    """A fingerprint of a stage's draws in a file."""
    return _stage_digest(_read(path)[0], name)


def _draws(stage: Stage, stream: Stream, seed: int, steps: int, device: torch.device) -> Arrays:
    """All that is drawn for a stream, each [steps, micro-batches, ...]."""
    rows = []
    for step in range(steps):
        for micro in range(stream.micro_batches):
            row = to_arrays(stream.plan(step, micro))
            if isinstance(stage.model, MaskedAutoencoder):
                seed_device(seed, step, micro)  # what the loss then draws first
                shape = (len(row["ids"]), stage.model.encoder.patch_embed.num_patches)
                row["hide"] = torch.rand(shape, device=device).cpu().numpy()
            rows.append(row)
    result = {}
    for key, first in rows[0].items():
        table = np.stack([row[key] for row in rows]).reshape(steps, stream.micro_batches, *first.shape)
        result[key] = np.ascontiguousarray(table)  # the file's format knows no other order
    return result


def _check(
    where: str, key: str, arrays: Arrays, stream: Stream, metadata: Mapping[str, str], steps: int
) -> None:
    """Refuse draws that are not of these images and settings.

    Raises:
        UserError: Says what differs.
    """
    if "ids" not in arrays:
        raise UserError(f"{where} holds no draws called {key}; record one of this run's stages")
    wanted = to_arrays(stream.plan(0, 0))
    if missing := sorted(wanted.keys() - arrays.keys()):
        raise UserError(f"{where} lacks {key}.{missing[0]}, which the settings of the stage need")
    if "hide" in arrays and key.startswith("pretrain."):  # [B, N], N patches
        patches = arrays["hide"].shape[3:][:1]
        wanted["hide"] = np.empty((*wanted["ids"].shape, *(patches or (1,))), np.float32)
    for name, array in arrays.items():
        if name not in wanted:
            raise UserError(f"{where} has {key}.{name}, which the settings of the stage do not know")
        if array.dtype != wanted[name].dtype:
            raise UserError(f"{where} has {key}.{name} as {array.dtype}; write it as {wanted[name].dtype}")
        shape = (stream.micro_batches, *wanted[name].shape)
        if array.shape[1:] != shape:
            raise UserError(
                f"{where} has {key}.{name} of {list(array.shape[1:])} a step, and the settings need "
                f"{list(shape)}; set batch and micro_batches as they were"
            )
        if array.shape[:1] != arrays["ids"].shape[:1]:
            raise UserError(
                f"{where} has {key}.{name} of {len(array)} steps and {key}.ids of {len(arrays['ids'])}; "
                "give another file"
            )
    if len(arrays["ids"]) < steps:
        raise UserError(
            f"{where} holds {len(arrays['ids'])} steps of {key}, and the stage has {steps}; record more "
            "(plan.steps) or shorten it"
        )
    _check_values(f"{where}: {key}", arrays, stream)
    for number, path in _names(where, key, metadata).items():
        here = stream.index.relative_path(number) if 0 <= number < len(stream.index) else "none"
        if here != path:
            raise UserError(
                f"image {number} of {key} is {path} in {where} and {here} here; give the data it was "
                "recorded on"
            )


def _names(where: str, key: str, metadata: Mapping[str, str]) -> dict[int, Any]:
    """The files of a role's images, by id."""
    try:
        return {int(number): path for number, path in json.loads(metadata.get(key, "{}")).items()}
    except (ValueError, AttributeError, RecursionError):
        raise UserError(
            f"metadata {key} of {where} is no JSON object of ids and files; record it again"
        ) from None


def _check_values(where: str, arrays: Arrays, stream: Stream) -> None:
    """Refuse draws that no image and no batch has, before an engine or a kernel reads past their ends.

    Raises:
        UserError: Names the first kind.
    """
    ids, labels = arrays["ids"], arrays["labels"]
    if ids.min() < 0 or ids.max() >= len(stream.index):
        raise UserError(f"{where}.ids has images that are not there; give the data it was recorded on")
    known = np.asarray(stream.index.labels)[stream.ids].min() >= 0
    if labels.min() < (0 if known else -1) or labels.max() >= len(stream.index.classes):
        raise UserError(f"{where}.labels has classes that are not there; give the data it was recorded on")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{where}.{name} is not finite everywhere; give another file")
    for name, high in (("mix.lam", 1.0), ("mix.centre", np.nextafter(np.float32(1), np.float32(0)))):
        if name in arrays and (arrays[name].min() < 0 or arrays[name].max() > high):
            raise UserError(f"{where}.{name} has numbers outside of 0 to 1; give another file")
    partner = arrays.get("mix.partner")
    if partner is not None and (np.sort(partner, -1) != np.arange(partner.shape[-1])).any():
        raise UserError(f"{where}.mix.partner is no permutation of each micro-batch; give another file")
    sizes = np.asarray(stream.index.sizes)[ids]
    for v in range(len(stream.views)):
        low, extent = np.split(arrays[f"views.{v}.window"].astype(np.int64), 2, axis=-1)
        if (low < 0).any() or (extent < 1).any() or (low + extent > sizes).any():
            raise UserError(f"{where}.views.{v}.window reaches out of its images; give the data it is of")
        box = arrays.get(f"views.{v}.erase.box")
        most = stream.image_size
        if box is not None and (
            box.min() < 0 or box.max() > most or (box[..., :2] + box[..., 2:]).max() > most
        ):
            raise UserError(f"{where}.views.{v}.erase.box reaches out of its views; set data.image_size")
        op = arrays.get(f"views.{v}.randaugment.op")
        if op is not None and (op.min() < -1 or op.max() >= len(RANDAUGMENT_OPS)):
            raise UserError(f"{where}.views.{v}.randaugment.op has operations that there are not; correct it")
        order = arrays.get(f"views.{v}.color.order")
        if order is not None and (np.sort(order, -1) != np.arange(order.shape[-1])).any():
            raise UserError(f"{where}.views.{v}.color.order is no permutation of each image's; correct it")


def _read(path: Path) -> tuple[Arrays, dict[str, str]]:
    try:
        with safe_open(path, framework="np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except FileNotFoundError:
        raise UserError(f"plan {path} does not exist; check plan.replay") from None
    except (*UNREADABLE, SafetensorError) as error:
        raise UserError(f"plan {path} is no .safetensors file ({error}); give another one") from None


def _stage_digest(arrays: Arrays, name: StageName) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        if key.startswith(f"{name}."):
            digest.update(key.encode())
            digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()[:16]
