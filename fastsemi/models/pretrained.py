"""Published weights by the name of the network, through timm's own hub code."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT as HF_ENDPOINT
from timm.models import PretrainedCfg, load_state_dict_from_hf
from torch import Tensor
from torch.hub import load_state_dict_from_url

from fastsemi.common.errors import UserError
from fastsemi.common.files import why_unreadable
from fastsemi.models.formats import Weights, recognise
from fastsemi.models.preprocessing import Preprocessing

_PATIENCE = 10.0  # seconds


def published_name(name: str, pretrained: bool | str) -> str:
    """The name with its tag: `model.pretrained` is true for timm's default weights, or a tag."""
    return name if isinstance(pretrained, bool) else f"{name.partition('.')[0]}.{pretrained}"


def preprocessing(name: str) -> Preprocessing:
    """How images go into published weights.

    Args:
        name: A timm name, with or without a tag.

    Raises:
        UserError: timm knows no such weights.
    """
    settings = _settings(name)
    r, g, b = settings.mean
    dr, dg, db = settings.std
    return Preprocessing(settings.input_size[-1], (r, g, b), (dr, dg, db), settings.crop_pct)


def usual_preprocessing(name: str) -> Preprocessing | None:
    """How images go into a network's default weights; None where timm has none."""
    return preprocessing(name) if timm.is_model_pretrained(name) else None


def licence(name: str) -> str | None:
    """The licence of published weights as timm states it, in the hub's spelling; None where it states none.

    Args:
        name: A timm name, with or without a tag.

    Raises:
        UserError: timm knows no such weights.
    """
    return _settings(name).license


def published_weights(name: str) -> Weights:
    """Download published weights into timm's cache, or take them from there.

    The files are read without running code from them.

    Args:
        name: A timm name, with or without a tag.

    Raises:
        UserError: timm knows no such weights, or they are neither in the cache nor to be had.
    """
    settings = _settings(name)
    if settings.custom_load and (not settings.hf_hub_id or settings.custom_load == "hf"):
        raise UserError(
            f"the weights of {name} come in a form of their own; convert them to .safetensors and give "
            "model.weights"
        )
    try:
        return recognise(_download(settings))
    except UserError:
        raise
    except Exception as error:  # whatever the hub's client, its network library or a damaged file raise
        reason = why_unreadable(error)[:160]
        source = f"https://huggingface.co/{settings.hf_hub_id}" if settings.hf_hub_id else settings.url
        raise UserError(
            f"the weights of {name} cannot be had from {source} ({reason}); check the connection, or get the "
            "file elsewhere and give it as model.weights with model.pretrained false"
        ) from error


def look_alikes(name: str) -> list[str]:
    """Other networks of timm whose tensors have the same names and shapes, but that compute something else.

    Those from TensorFlow, `tf_*`, pad their convolutions otherwise and have another epsilon in batch norm;
    CLIP's `quickgelu` networks have another activation.

    Args:
        name: A timm name, with or without a tag.
    """
    plain = name.partition(".")[0]
    others = (
        plain.removeprefix("tf_") if plain.startswith("tf_") else f"tf_{plain}",
        plain.replace("_quickgelu", "")
        if "_quickgelu" in plain
        else plain.replace("_clip_", "_clip_quickgelu_"),
    )
    return [other for other in others if other != plain and timm.is_model(other)]


def is_cached(name: str) -> bool:
    """Whether published weights are on this machine already.

    Raises:
        UserError: timm knows no such weights.
    """
    settings = _settings(name)
    return bool(settings.state_dict) or _in_cache(settings)


def _in_cache(settings: PretrainedCfg) -> bool:
    hub = settings.hf_hub_id
    if not hub:
        return False
    return any(isinstance(try_to_load_from_cache(hub, file), str) for file in _files(settings))


def _files(settings: PretrainedCfg) -> tuple[str, ...]:
    """Names of the hub's files that may hold the weights."""
    return (
        (settings.hf_hub_filename,)
        if settings.hf_hub_filename
        else ("model.safetensors", "pytorch_model.bin")
    )


def _settings(name: str) -> PretrainedCfg:
    try:
        settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        settings = None
    if settings is None or not settings.has_weights:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        near = ", ".join(tag.partition(".")[2] for tag in tags[:6])
        cure = f"give model.pretrained one of {near}" if near else "give model.weights, or set it to false"
        raise UserError(f"timm has no published weights for {name}; {cure}")
    return settings


def _download(settings: PretrainedCfg) -> Mapping[str, Tensor]:
    if settings.state_dict:
        return settings.state_dict
    if not settings.hf_hub_id:
        return load_state_dict_from_url(str(settings.url), map_location="cpu", weights_only=True)
    arguments: dict[str, Any] = {"weights_only": True}
    if settings.hf_hub_filename:
        arguments["filename"] = settings.hf_hub_filename
    if not _in_cache(settings):
        _require_connection(HF_ENDPOINT)
    return load_state_dict_from_hf(settings.hf_hub_id, **arguments)


def _require_connection(address: str) -> None:
    """Find out in seconds, where the hub's client tries again for most of a minute, whether a host is there.

    Raises:
        OSError: It is not.
    """
    host = urlsplit(address)
    if {host.scheme, "all"} & getproxies().keys():
        return  # which reaches hosts that this machine does not
    port = host.port or (80 if host.scheme == "http" else 443)
    socket.create_connection((host.hostname or "", port), timeout=_PATIENCE).close()
