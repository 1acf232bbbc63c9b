"""Weight files of others: which format they are in, and their tensors under timm's names.

Formats are told from the keys. Where a checkpoint holds an average of the weights besides the weights, the
average is taken unless told otherwise.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Formats of networks with a classifier, of which timm publishes such weights.
TIMM = ("timm", "timm checkpoint", "timm checkpoint, EMA", "EfficientNet-PyTorch")

# Keys under which training scripts keep a network, the first match wins, and whether it is an average.
_WRAPPERS = (
    ("model_ema", True),  # the paper's code, ConvNeXt
    ("state_dict_ema", True),  # timm
    ("teacher", True),  # DINO
    ("model", False),  # MAE, the paper's code, DeiT, fastsemi
    ("state_dict", False),  # timm, MoCo-v3
    ("student", False),  # DINO
)
_PARALLEL = re.compile(r"^(?:module\.|_orig_mod\.)+")  # of DistributedDataParallel and torch.compile
# The encoder inside a self-supervised method; the first that occurs is kept, its neighbours are dropped.
_BRANCHES = ("backbone.", "base_encoder.", "momentum_encoder.")
_TRANSFORMERS_STEM = "embeddings.patch_embeddings.projection.weight"
_TRANSFORMERS_QKV = re.compile(
    r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)"
)
_TRANSFORMERS_NAMES = (
    (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.((?:norm[12]|mlp\.fc[12])\.\w+)", r"blocks.\1.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (r"(?:cls_)?classifier\.(\w+)", r"head.\1"),
    (r"distillation_classifier\.(\w+)", r"head_dist.\1"),
)

# Of the packages efficientnet_pytorch and efficientnet_lite_pytorch: timm's names outside the blocks, and in
# blocks with and without a convolution that expands the channels.
_EFFICIENTNET = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE = {**_EXPANDING, "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


@dataclass(frozen=True)
class Weights:
    """A network's tensors under timm's names, and the format that they came in."""

    format: str
    """For messages, for example `MAE`."""
    tensors: dict[str, Tensor]
    """By name; what timm itself converts (DINOv2, DINOv3, ConvNeXt) still has its own names."""
    dropped: tuple[str, ...] = ()
    """Tensors beside the encoder, by the file's names: other branches, projectors."""


def recognise(content: Mapping[str, Any], *, ema: bool = True) -> Weights:
    """Find the network in what a weight file holds.

    Knows MAE, DINO, MoCo-v3, timm, Hugging Face transformers, DINOv2, DINOv3, ConvNeXt, EfficientNet-PyTorch
    and fine-tuned checkpoints, as torch files or safetensors; anything else passes as timm's, so that loading
    it tells what is missing.

    Args:
        content: A state dict, or a checkpoint around one.
        ema: Prefer averaged weights (`model_ema`, `state_dict_ema`, DINO's `teacher`).

    Returns:
        Weights; without tensors if the content holds none.
    """
    wrapper, state = _unwrap(content, ema)
    state = {_PARALLEL.sub("", name): tensor for name, tensor in state.items()}
    branch = next((b for b in _BRANCHES if any(name.startswith(b) for name in state)), "")
    kept = {name[len(branch) :]: tensor for name, tensor in state.items() if name.startswith(branch)}
    dropped = tuple(name for name in state if not name.startswith(branch))
    form = _format(wrapper, branch, kept)
    if form == "transformers":
        kept = _from_transformers(kept)
    if form == "EfficientNet-PyTorch":
        kept = _from_efficientnet(kept)
    return Weights(form, kept, dropped)


def _unwrap(content: Mapping[str, Any], ema: bool) -> tuple[str, dict[str, Tensor]]:
    """The key that holds the network, "" for none, and its tensors by name."""
    # With ema the averages come first, without it last: then they are taken only if there is nothing else.
    keys = [key for key, _ in sorted(_WRAPPERS, key=lambda wrapper: wrapper[1] is not ema)]
    for key in keys:
        inner = content.get(key)
        if isinstance(inner, Mapping) and (tensors := _tensors(inner)):
            return key, tensors
    return "", _tensors(content)


def _tensors(mapping: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in mapping.items() if isinstance(value, Tensor)}


def _format(wrapper: str, branch: str, state: Mapping[str, Tensor]) -> str:
    if branch in ("base_encoder.", "momentum_encoder."):
        return "MoCo-v3"
    if "_conv_stem.weight" in state:
        return "EfficientNet-PyTorch"
    if any(name.endswith(_TRANSFORMERS_STEM) for name in state):
        return "transformers"
    if "storage_tokens" in state:
        return "DINOv3"
    if "mask_token" in state and "blocks.0.ls1.gamma" in state:
        return "DINOv2"
    if wrapper in ("teacher", "student"):
        return f"DINO, {wrapper}"
    has_head = any(name.split(".")[0] in ("head", "fc", "classifier") for name in state)
    if "decoder_embed.weight" in state or (wrapper == "model" and "cls_token" in state and not has_head):
        return "MAE"
    if wrapper in ("model", "model_ema"):
        return "fine-tuned checkpoint" + (", EMA" if wrapper == "model_ema" else "")
    if wrapper:
        return "timm checkpoint" + (", EMA" if wrapper == "state_dict_ema" else "")
    return "timm" if has_head else "bare encoder (DINO, timm)"


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename ViT, DeiT, ViTMAE and DINOv2 of transformers; query, key and value become one tensor."""
    stem = next(name for name in state if name.endswith(_TRANSFORMERS_STEM))
    prefix = stem[: -len(_TRANSFORMERS_STEM)]
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in state.items():
        name = name.removeprefix(prefix)
        if match := _TRANSFORMERS_QKV.fullmatch(name):
            block, part, kind = match.groups()
            parts[f"blocks.{block}.attn.qkv.{kind}"][part] = tensor
            continue
        for pattern, new in _TRANSFORMERS_NAMES:
            if match := re.fullmatch(pattern, name):
                name = match.expand(new)
                break
        renamed[name] = tensor
    for name, part in parts.items():
        if part.keys() == {"query", "key", "value"}:
            renamed[name] = torch.cat([part["query"], part["key"], part["value"]])
    return renamed


def _from_efficientnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename; blocks that are counted through become stages, of which each has channels of its own."""
    widths = {
        int(name.split(".")[1]): tensor.shape[0]
        for name, tensor in state.items()
        if name.endswith("._project_conv.weight")
    }
    places: dict[int, str] = {}
    stage = within = -1
    for block in sorted(widths):
        new = widths[block] != widths.get(block - 1)
        stage, within = stage + new, 0 if new else within + 1
        places[block] = f"blocks.{stage}.{within}"
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            number, _, rest = rest.partition(".")
            part, _, rest = rest.partition(".")
            expands = f"_blocks.{number}._expand_conv.weight" in state
            part = f"{places[int(number)]}.{(_EXPANDING if expands else _SEPARABLE).get(part, part)}"
        else:
            part = _EFFICIENTNET.get(part, part)
        renamed[f"{part}.{rest}"] = tensor
    return renamed
