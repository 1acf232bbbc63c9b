"""Layers in bfloat16 on a CPU, by the faster of PyTorch's own ways."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Conv2dSame, PatchEmbed, pad_same
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastsemi.common.precision import multiplies_bf16

_HALF = torch.bfloat16
_QUICK_KERNEL = (3, 3)  # of a depthwise convolution: at stride 1 its backward pass is quick in bfloat16 too


def use_cpu_layers(model: nn.Module) -> None:
    """Let linear layers, attention and some convolutions run faster in bfloat16 on a CPU, in place.

    What they compute under autocast stays as it is to the bit, except gradients of depthwise convolutions,
    which are rounded once, at their end, and patch embeddings, which add in another order. Parameters, names
    and what a layer is an instance of stay as they are. Elsewhere than under such autocast, and compiled, the
    layers are what they were. Nothing happens where PyTorch has no oneDNN with bfloat16.
    """
    if not multiplies_bf16():
        return
    for module in model.modules():
        kind: Any = type(module)
        if kind.forward is nn.Linear.forward:
            module.__class__ = _kind(_Linear, kind)
        elif kind.forward is Attention.forward and _is_plain(module):
            module.__class__ = _kind(_Attention, kind)
        elif kind.forward in (nn.Conv2d.forward, Conv2dSame.forward) and _is_slow(module):
            module.__class__ = _kind(_Depthwise, kind)
        elif isinstance(module, PatchEmbed) and type(module.proj) is nn.Conv2d:
            module.proj.__class__ = _kind(_Patches, nn.Conv2d)


def _is_plain(layer: Any) -> bool:
    """Whether attention has no dropout and, between its two linear layers, no norm and no gate."""
    norms = [getattr(layer, name, None) for name in ("q_norm", "k_norm", "norm")]
    plain = all(norm is None or isinstance(norm, nn.Identity) for norm in norms)
    return plain and getattr(layer, "gate", None) is None and layer.attn_drop.p == 0


def _is_slow(layer: Any) -> bool:
    """Whether it is a depthwise convolution whose backward pass is slow in bfloat16."""
    quick = layer.kernel_size == _QUICK_KERNEL and layer.stride == (1, 1)
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return layer.groups == layer.in_channels > 1 and plain and not quick


def _in_half(x: Tensor) -> bool:
    """Whether autocast to bfloat16 on a CPU is on, for a tensor that is there, and no compiler looks on.

    PyTorch's cannot compile oneDNN's product with a bias that it did not put there itself.
    """
    if torch.compiler.is_compiling() or not x.is_cpu:
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == _HALF


class _Linear(nn.Linear):
    """A linear layer whose bias is added where the product is made, not copied into the output before."""

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        if not _in_half(tokens):
            return super().forward(tokens)
        return _LinearFunction.apply(tokens.to(_HALF), self.weight, self.bias)


class _LinearFunction(torch.autograd.Function):
    """PyTorch's linear layer under autocast, to the bit, by oneDNN's product with a bias."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half = weight.to(_HALF)
        ctx.save_for_backward(tokens, half)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        added = None if bias is None else bias.to(_HALF)
        return torch.ops.mkldnn._linear_pointwise(tokens, half, added, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, half = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        to_tokens = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_tokens = rows.mm(half).view(tokens.shape)
        if ctx.needs_input_grad[1]:
            to_weight = rows.t().mm(tokens.reshape(-1, tokens.shape[-1])).to(ctx.dtypes[0])
        if ctx.needs_input_grad[2]:
            to_bias = rows.sum(0).to(ctx.dtypes[1])
        return to_tokens, to_weight, to_bias


class _Attention(Attention):
    """Attention that is written out, with queries, keys and values copied once, all together."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **masks: Any) -> Tensor:  # type: ignore[override]
        """[B, N, C] -> [B, N, C]; masks, and PyTorch's fused attention, are left to timm."""
        masked = attn_mask is not None or any(masks.values())
        if masked or self.fused_attn or not _in_half(x):
            return super().forward(x, attn_mask, **masks)
        found = _AttentionFunction.apply(self.qkv(x), self.num_heads, self.scale)
        return self.proj_drop(self.proj(found))


class _AttentionFunction(torch.autograd.Function):
    """softmax(Q K^T / sqrt(D)) V as timm writes it out under autocast, to the bit."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, scale: float) -> Tensor:
        batch, length, width = qkv.shape  # 3 H D
        size = width // (3 * heads)
        three = qkv.view(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4).contiguous()
        query, key, value = three.view(3, batch * heads, length, size)
        query.mul_(scale)
        weights = torch.bmm(query, key.transpose(1, 2)).softmax(-1)  # [B H, N, N]
        ctx.save_for_backward(query, key, value, weights)
        ctx.heads, ctx.scale = heads, scale
        found = torch.bmm(weights, value)  # [B H, N, D]
        return found.view(batch, heads, length, size).transpose(1, 2).reshape(batch, length, heads * size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        batch, length, width = grad.shape  # H D
        heads, size = ctx.heads, width // ctx.heads
        grad = grad.view(batch, length, heads, size).transpose(1, 2).reshape(batch * heads, length, size)
        three = grad.new_empty(3, batch * heads, length, size)
        to_weights = torch.bmm(grad, value.transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        torch.bmm(to_scores, key, out=three[0]).mul_(ctx.scale)
        torch.bmm(to_scores.transpose(1, 2), query, out=three[1])
        torch.bmm(weights.transpose(1, 2), grad, out=three[2])
        three = three.view(3, batch, heads, length, size).permute(1, 3, 0, 2, 4)
        return three.reshape(batch, length, 3 * width), None, None


class _Patches(nn.Conv2d):
    """A patch embedding as the linear layer that it is: as a convolution it takes about twice the time."""

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W'], channels last in memory."""
        (high, wide), (height, width) = self.kernel_size, images.shape[-2:]
        if not _in_half(images) or height % high or width % wide:
            return super().forward(images)
        grid = height // high, width // wide
        cut = images.to(_HALF).unflatten(3, (grid[1], wide)).unflatten(2, (grid[0], high))
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B, H' W', C h w]
        tokens = _LinearFunction.apply(patches, self.weight.flatten(1), self.bias)
        return tokens.transpose(1, 2).unflatten(2, grid)


class _Depthwise(nn.Conv2d):
    """A depthwise convolution whose backward pass is made in float32: oneDNN has no fast one in bfloat16."""

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        if not (torch.is_grad_enabled() and _in_half(images)):
            return super().forward(images)
        images = images.to(_HALF)
        if isinstance(self, Conv2dSame):
            images = pad_same(images, list(self.kernel_size), list(self.stride), list(self.dilation))
        shape = self.stride, self.padding, self.dilation, self.groups
        return _DepthwiseFunction.apply(images, self.weight, self.bias, *shape)


class _DepthwiseFunction(torch.autograd.Function):
    """A convolution in bfloat16 forward, in float32 backward."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *shape: Any) -> Tensor:
        half = weight.to(_HALF)
        ctx.save_for_backward(images, half)
        ctx.shape, ctx.dtype = shape, weight.dtype
        ctx.biases = None if bias is None else list(bias.shape)
        return torch.conv2d(images, half, None if bias is None else bias.to(_HALF), *shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, half = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.shape
        full = [t.to(torch.float32, memory_format=torch.channels_last) for t in (grad, images, half)]
        to_images, to_weight, to_bias = torch.ops.aten.convolution_backward(
            *full, ctx.biases, stride, padding, dilation, False, [0, 0], groups, ctx.needs_input_grad[:3]
        )
        if to_images is not None:
            to_images = to_images.to(_HALF)
        return to_images, to_weight, to_bias, None, None, None, None


_KINDS: dict[tuple[type, type], type] = {}


def _kind(faster: type, kind: type) -> type:
    """A kind of layer with the forward pass of a faster one."""
    if (faster, kind) not in _KINDS:
        _KINDS[faster, kind] = type(f"Cpu{kind.__name__}", (faster, kind), {})
    return _KINDS[faster, kind]
