"""What the classifier sees of the published families, against their formulas written out in float64."""

import pytest
import torch
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig

SIZE, PATCH, WIDTH, HEADS = 16, 4, 64, 4
ARGS = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS}


def tanh_gelu(x):
    return gelu(x, approximate="tanh")


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


class Formula:
    """A vision transformer over a state dict, one operation after the other."""

    def __init__(self, state, eps=1e-6, activation=gelu):
        self.state = {name: tensor.double() for name, tensor in state.items()}
        self.eps, self.activation = eps, activation

    def norm(self, name, x):
        return layer_norm(x, (WIDTH,), self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.eps)

    def linear(self, name, x):
        return linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def mlp(self, name, x):
        return self.linear(f"{name}.fc2", self.activation(self.linear(f"{name}.fc1", x)))

    def attend(self, q, k, v):
        """softmax(q k^T / sqrt(d)) v of each head; [B, N, D] each."""
        q, k, v = (t.reshape(*t.shape[:2], HEADS, -1).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def patches(self, images):
        """[B, N, D] before the position embedding."""
        bias = self.state.get("patch_embed.proj.bias")
        kernel = self.state["patch_embed.proj.weight"]
        return conv2d(images.double(), kernel, bias, stride=PATCH).flatten(2).transpose(1, 2)

    def with_class(self, x):
        return torch.cat([self.state["cls_token"].expand(len(x), -1, -1), x], 1)

    def blocks(self, x):
        for block in ("blocks.0", "blocks.1"):
            scale1, scale2 = (self.state.get(f"{block}.ls{i}.gamma", 1.0) for i in (1, 2))
            qkv = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x)).chunk(3, -1)
            x = x + scale1 * self.linear(f"{block}.attn.proj", self.attend(*qkv))
            x = x + scale2 * self.mlp(f"{block}.mlp", self.norm(f"{block}.norm2", x))
        return x


def dinov2(f, images):
    """Oquab et al. 2023: a class token with a position, layer scale; the last norm of the class token."""
    return f.norm("norm", f.blocks(f.with_class(f.patches(images)) + f.state["pos_embed"]))[:, 0]


def dinov2_registers(f, images):
    """Darcet et al. 2023: registers behind the class token; neither has a position in timm's form."""
    x = f.patches(images) + f.state["pos_embed"]
    x = torch.cat([f.state["reg_token"].expand(len(x), -1, -1), x], 1)
    return f.norm("norm", f.blocks(f.with_class(x)))[:, 0]


def siglip(f, images):
    """Zhai et al. 2023: no class token; a learnt query attends to all tokens, and a residual MLP follows."""
    x = f.norm("norm", f.blocks(f.patches(images) + f.state["pos_embed"]))
    query = f.linear("attn_pool.q", f.state["attn_pool.latent"].expand(len(x), -1, -1))
    x = f.linear("attn_pool.proj", f.attend(query, *f.linear("attn_pool.kv", x).chunk(2, -1)))
    return (x + f.mlp("attn_pool.mlp", f.norm("attn_pool.norm", x)))[:, 0]


def clip(f, images):
    """Radford et al. 2021: a norm before the blocks, patches without bias, x sigmoid(1.702 x)."""
    assert "patch_embed.proj.bias" not in f.state
    x = f.norm("norm_pre", f.with_class(f.patches(images)) + f.state["pos_embed"])
    return f.norm("norm", f.blocks(x))[:, 0]


def mae(f, images):
    """He et al. 2022, fine-tuned: the average of the patches, then a norm."""
    x = f.blocks(f.with_class(f.patches(images)) + f.state["pos_embed"])
    return f.norm("fc_norm", x[:, 1:].mean(1))


@pytest.mark.parametrize(
    ("name", "formula", "settings", "details"),
    [
        ("vit_small_patch14_dinov2", dinov2, {"pretrained": True}, {}),
        ("vit_small_patch14_reg4_dinov2", dinov2_registers, {"pretrained": True}, {}),
        ("vit_base_patch16_siglip_224", siglip, {"pretrained": True}, {}),
        ("vit_base_patch32_siglip_256", siglip, {"pretrained": True}, {"activation": tanh_gelu}),
        ("vit_base_patch16_clip_quickgelu_224", clip, {"pretrained": True},
         {"activation": quick_gelu, "eps": 1e-5}),
        ("vit_base_patch16_224", mae, {}, {}),
    ],
)  # fmt: skip
def test_features_are_the_familys(vit, name, formula, settings, details):
    """With published weights the network pools as its family does, which is what `pretrained` says here."""
    config = ModelConfig(name, ARGS, **settings)
    model = vit.randomise(create_model(config, num_classes=3, image_size=SIZE))
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.forward_head(model.forward_features(images), pre_logits=True)
        expected = formula(Formula(model.state_dict(), **details), images)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
        logits = linear(expected, model.head.weight.double(), model.head.bias.double())
        torch.testing.assert_close(model(images).double(), logits, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.05, "features that vary"
