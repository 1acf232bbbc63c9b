"""Weights that do not fit, are damaged or hold code end in one line; the report says what happened."""

import pickle
import warnings

import pytest
import torch
from safetensors.torch import save_file

from fastsemi.common.errors import UserError
from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig
from fastsemi.models.weights import LoadReport, fit_backbone, load_backbone, read_weights


def plus(name, *shape):
    """A state with one more tensor, or another one under the name."""
    return lambda state: {**state, name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if "blocks.1." not in n}, r"12 of 32 .* blocks\.1\.norm1"),
        (
            lambda s: {f"some.{n}": t for n, t in s.items()},
            r"28 of 32 .* cls_token, is \[1, 1, 48\] .*missing",
        ),
        (lambda s: {"conv1.weight": torch.zeros(3)}, r"\(1 tensors\) does not fit the network"),
        (plus("blocks.0.mlp.fc1.weight", 7, 48), r"\[192, 48\] in the network and \[7, 48\] there"),
        (plus("blocks.2.norm1.weight", 48), r"1 tensors .* network lacks, the first blocks\.2\.norm1"),
        (plus("blocks.0.ls1.gamma", 48), r"network lacks, the first blocks\.0\.ls1"),
        (plus("reg_token", 1, 4, 48), r"network lacks, the first reg_token"),
        (plus("patch_embed.proj.weight", 48, 3, 8, 8), r"patches of 8 pixels, the network of 4"),
        (plus("pos_embed", 1, 19, 48), r"does not fit the network"),
    ],
)
def test_a_mismatch_that_loses_the_backbone_is_an_error(vit, change, message):
    model = vit.ours()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = change(vit.encoder_of(vit.randomise(vit.plain())))
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(model, state, where="weights.pth")
    assert "\n" not in str(caught.value) and "weights.pth" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_efficientnet_and_its_lite_form_are_told_apart():
    """The one has squeeze-and-excitation, the other has not; names and shapes of both sides are said."""
    lite, full = (
        create_model(ModelConfig(f"tf_efficientnet_{kind}"), num_classes=3, image_size=32)
        for kind in ("lite0", "b0")
    )
    with pytest.raises(
        UserError,
        match=r"the first, blocks\.0\.0\.se\.conv_reduce\.weight, is \[8, 32, 1, 1\] .* missing there",
    ):
        load_backbone(full, lite.state_dict(), where="lite.pth")
    with pytest.raises(
        UserError, match=r"the first blocks\.0\.0\.se\.conv_reduce\.weight of \[8, 32, 1, 1\]"
    ):
        load_backbone(lite, full.state_dict(), where="b0.pth")


def test_fitting_needs_no_memory_for_the_network(vit):
    state = vit.encoder_of(vit.plain())
    with torch.device("meta"):
        model = vit.ours()
    fits, report = fit_backbone(model, state, where="x")
    assert set(fits) == set(report.loaded) == set(state) and report.initial == vit.HEAD
    wrong = {**state, "blocks.0.mlp.fc1.weight": torch.zeros(7, 48), "blocks.0.mlp.fc9": torch.zeros(2)}
    with pytest.raises(UserError, match=r"\[7, 48\] there, which has blocks\.0\.mlp\.fc9 of \[2\] that the"):
        fit_backbone(model, wrong, where="x")


@pytest.mark.parametrize("has_head", [True, False])
def test_a_head_that_does_not_fit_is_not_kept_silently(vit, has_head):
    source = vit.plain(classes=5)
    state = source.state_dict() if has_head else vit.encoder_of(source)
    is_there = r"\[5, 48\]" if has_head else "missing"
    with pytest.raises(UserError, match=f"cannot keep the head of x: head.weight is {is_there}"):
        load_backbone(vit.ours(classes=3), state, where="x", keep_head=True)


def test_half_precision_files_fill_full_precision_networks(vit, tmp_path):
    source = vit.randomise(vit.plain()).half()
    save_file(vit.encoder_of(source), tmp_path / "half.safetensors")
    model = vit.ours()
    load_backbone(model, read_weights(tmp_path / "half.safetensors"), where="x")
    assert model.blocks[0].attn.qkv.weight.dtype == torch.float32
    torch.testing.assert_close(vit.features(model), vit.features(source.float()), rtol=1e-5, atol=1e-5)


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(vit, tmp_path, zipped):
    victim, path = tmp_path / "victim", tmp_path / "weights.pth"
    content = {"model": vit.encoder_of(vit.plain()), "args": Payload(victim)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"refused: reading them would run Python code \(.*open\)") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value) and not victim.exists()


def test_a_whole_module_is_refused(vit, tmp_path):
    torch.save(vit.plain(), tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"refused: .*VisionTransformer"):
        read_weights(tmp_path / "model.pth")


def test_a_plain_pickle_is_refused(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "victim")))
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value) and not (tmp_path / "victim").exists()


def test_missing_empty_and_foreign_files_end_in_one_line(tmp_path):
    with pytest.raises(UserError, match="do not exist"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(UserError, match="Is a directory"):
        read_weights(tmp_path)
    for content in (
        b"",
        b"not weights",
        b"\x00" * 64,
        b"\x10\0\0\0\0\0\0\0{" + b"x" * 30,
        b"PK\x03\x04" + b"x" * 90,
    ):
        (tmp_path / "foreign.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read weights .* damaged") as caught:
            read_weights(tmp_path / "foreign.pth")
        assert "\n" not in str(caught.value)
    for content in (torch.zeros(3), [torch.zeros(3)], {"model": {"epoch": 3}}, {}):
        torch.save(content, tmp_path / "empty.pth")
        with pytest.raises(UserError, match="hold no tensors by name"):
            read_weights(tmp_path / "empty.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_files_end_in_one_line_or_still_read(tmp_path, kind):
    state, path = {"a": torch.randn(64), "b": torch.randn(8, 8)}, tmp_path / "weights"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        cut, at, value = (
            int(torch.randint(n, (), generator=generator)) for n in (len(whole), len(whole), 256)
        )
        data[at] = value
        path.write_bytes(data[: cut if value % 2 else None])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_weights(path)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 50


def test_the_summary_is_one_line_with_counts_by_module(vit):
    report = LoadReport(
        loaded=("a", "b"),
        dropped=("decoder_blocks.0.x", "decoder_blocks.1.x", "mask_token", *(f"m{i}.w" for i in range(9))),
        initial=vit.HEAD,
        format="MAE",
        changed=("norm -> fc_norm",),
    )
    assert report.summary() == (
        "MAE: 2 tensors loaded (norm -> fc_norm), 12 dropped (decoder_blocks 2, mask_token, m0, m1, m2, m3, "
        "5 more), 2 left at initial values (head 2)"
    )
    assert LoadReport((), (), ()).summary() == "timm: 0 tensors loaded, 0 dropped, 0 left at initial values"
