"""The cost of what is trained and of what is seen: the benchmarks on the smallest network there is."""

import json

import pytest

from benchmarks.harness import result_tables, variant_tables
from benchmarks.step import adapt, image_sizes, label_passes, merging, products, tokens
from fastsemi.common.errors import UserError


def test_less_that_is_trained_needs_less_memory(tmp_path, capsys):
    out = tmp_path / "rows.json"
    options = ["--models", "tiny", "--adapt", "full,lora,head", "--precision", "fp32", "--rounds", "5"]
    rows = adapt.run([*options, "--json", str(out)])
    assert json.loads(out.read_text()) == json.loads(json.dumps(rows))
    found = {row["adapt"]: row for row in rows}
    width, rank = 16, 8
    factors = rank * ((width + 3 * width) + 2 * width + 2 * (width + 4 * width))
    assert found["head"]["trained"] == 10 * (width + 1)
    assert found["lora"]["trained"] == found["head"]["trained"] + factors
    assert found["full"]["trained"] > found["lora"]["trained"]
    assert found["head"]["peak_bytes"] < found["lora"]["peak_bytes"]
    assert found["full"]["of_full"] == {"median": 1.0, "p20": 1.0, "p80": 1.0}
    assert variant_tables.adapt(rows) in capsys.readouterr().out


def test_less_that_is_seen_needs_less_memory(capsys):
    options = ["--models", "tiny", "--keep_tokens", "1.0,0.5", "--precision", "fp32", "--rounds", "5"]
    rows = tokens.run(options)
    every, half = rows
    assert (every["keep_tokens"], half["keep_tokens"]) == ("1", "0.5")
    assert half["trained"] == every["trained"] and half["peak_bytes"] < every["peak_bytes"]
    assert half["peak_of_full"] == half["peak_bytes"] / every["peak_bytes"]
    assert variant_tables.keep_tokens(rows) in capsys.readouterr().out


def test_a_teacher_that_merges_tokens_trains_as_many_weights(capsys):
    options = ["--models", "tiny", "--merge_tokens", "0,1", "--precision", "fp32", "--rounds", "5"]
    none, one = rows = merging.run(options)
    assert (none["merge_tokens"], one["merge_tokens"]) == ("0", "1")
    assert one["trained"] == none["trained"] and none["peak_of_full"] == 1
    assert variant_tables.merge_tokens(rows) in capsys.readouterr().out


def test_smaller_views_need_less_memory(capsys):
    options = ["--models", "tiny", "--image_sizes", "8", "--precision", "fp32", "--rounds", "5"]
    whole, half = rows = image_sizes.run(options)
    assert (whole["image_size"], half["image_size"]) == ("16", "8")
    assert half["peak_bytes"] < whole["peak_bytes"]
    assert variant_tables.image_sizes(rows) in capsys.readouterr().out


def test_labels_that_serve_longer_cost_as_much_memory_where_they_are_made(capsys):
    options = ["--models", "tiny", "--label_passes", "1,2", "--precision", "fp32", "--rounds", "5"]
    each, twice = rows = label_passes.run(options)
    assert (each["label_passes"], twice["label_passes"]) == ("1", "2")
    assert twice["trained"] == each["trained"]
    assert variant_tables.label_passes(rows) in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_products_have_the_operations_of_the_step(precision, capsys):
    options = ["--model", "tiny", "--batch", "2", "--side", "64", "--rounds", "5"]
    rows = products.run([*options, "--precision", precision])
    step = next(row for row in rows if row["name"] == products.STEP)
    found = [row for row in rows if "group" in row]
    flops = sum(row["calls"] * row["flops"] for row in found)
    embedding = (
        2 * 4 * 16 * 3 * 8 * 8 * (2 + 10)
    )  # no gradient of images: a third of the model's count is not there
    assert flops == step["flops"] - embedding
    inside = {
        f"linear layers, {part}"
        for part in ("forward", *(f"gradients of the {x}" for x in ("inputs", "weights")))
    }
    assert {row["group"] for row in found} - {"patch embedding"} == {"attention", *inside}
    assert result_tables.products(rows) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        (adapt.run, ["--models", "Q"], "'Q' is unknown; use"),
        (products.run, ["--model", "Q"], "'Q' is unknown; use"),
        (adapt.run, ["--adapt", "full,half"], "'half' is unknown; use full, head"),
        (adapt.run, ["--adapt", "head"], "lacks full"),
        (tokens.run, ["--keep_tokens", "1,none"], "'none' is no share in"),
        (tokens.run, ["--keep_tokens", "1,2"], "'2' is no share in"),
        (tokens.run, ["--keep_tokens", "0.5"], "lacks 1,"),
        (label_passes.run, ["--label_passes", "1,0"], "'0' is no number of passes"),
        (label_passes.run, ["--models", "Q"], "'Q' is unknown; use"),
        (merging.run, ["--models", "Q"], "'Q' is unknown; use"),
        (merging.run, ["--merge_tokens", "0,-1"], "'-1' is no number of tokens"),
        (merging.run, ["--merge_tokens", "8"], "lacks 0,"),
        (image_sizes.run, ["--models", "Q"], "'Q' is unknown; use"),
        (image_sizes.run, ["--image_sizes", "half"], "'half' is no number of pixels"),
    ],
)
def test_wrong_options(run, options, message):
    with pytest.raises(UserError, match=message):
        run(options)
