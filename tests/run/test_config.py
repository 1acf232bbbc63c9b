import dataclasses
import json
import math
from pathlib import Path

import pytest
import yaml

from fastsemi.common.errors import UserError
from fastsemi.common.schedule import Duration
from fastsemi.models.preprocessing import Preprocessing, beside
from fastsemi.run import config as configuration
from fastsemi.run.config_errors import explain

ROOT = Path(__file__).parents[2]


PRESETS = sorted(p for p in ROOT.glob("configs/**/*.yaml") if p.parent.name != "studies")  # grids of presets


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_every_preset_loads_and_survives_a_round_trip(preset, tmp_path):
    config = configuration.load([preset], [])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(configuration.to_yaml(config))
    assert configuration.load([resolved], []) == config
    assert set(yaml.safe_load(resolved.read_text())) == set(vars(config)), "complete"


BOMB = "model:\n  args:\n    a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"    a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40)
)


def _write(path, text):
    path.write_text(text)
    return path


def test_base_files_and_overrides_are_merged_key_by_key(tmp_path):
    _write(tmp_path / "base.yaml", "seed: 3\nsemi: {threshold: 0.7, batch: 64, mix: {mixup: 0.5}}\n")
    child = _write(tmp_path / "child.yaml", "base: base.yaml\nsemi: {batch: 32}\n")
    config = configuration.load([child], ["--semi.mix.cutmix", "0", "--output=runs/x"])
    assert (config.seed, config.semi.threshold, config.semi.batch) == (3, 0.7, 32)
    assert (config.semi.mix.mixup, config.semi.mix.cutmix) == (0.5, 0.0)
    assert config.output == Path("runs/x")


@pytest.mark.parametrize("options", [(), ("--semi.weak.flip", "0.1")])
def test_what_nobody_gives_of_a_section_is_its_stage_s(tmp_path, options):
    text = "semi: {batch: 32}" if options else "semi: {weak: {flip: 0.1}}"
    weak = configuration.load([_write(tmp_path / "own.yaml", text)], options).semi.weak
    assert weak == dataclasses.replace(configuration.Config().semi.weak, flip=0.1)
    assert weak.randaugment != type(weak)().randaugment, "what its class has is another"


def test_a_later_file_wins(tmp_path):
    first = _write(tmp_path / "1.yaml", "seed: 1\nlog_every: 7\n")
    second = _write(tmp_path / "2.yaml", "seed: 2\n")
    config = configuration.load([first, second], [])
    assert (config.seed, config.log_every) == (2, 7)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "semi: {treshold: 0.5}",
            [],
            r"unknown key semi\.treshold in .*yaml; did you mean semi\.threshold\?",
        ),
        ("{}", ["--semi.treshold", "1"], r"unknown key semi\.treshold in the command line; did you mean"),
        ("{}", ["--threshold", "1"], r"did you mean semi\.threshold\?"),
        ("semi: 3", [], "semi in .* is a section"),
        ("{}", ["--semi.threshold", "1.5"], r"semi\.threshold is 1\.5; it must lie in \[0, 1\]"),
        ("{}", ["--finetune.batch", "0"], r"finetune\.batch is 0; it must be at least 1"),
        ("{}", ["--semi.keep_tokens", "0"], r"semi\.keep_tokens is 0\.0; it must lie in \(0, 1\]"),
        ("{}", ["--semi.keep_tokens", "1.5"], r"semi\.keep_tokens is 1\.5; it must lie in \(0, 1\]"),
        ("{}", ["--semi.merge_tokens", "-1"], r"semi\.merge_tokens is -1; it must not be negative"),
        ("{}", ["--semi.momentum", "1"], r"semi\.momentum is 1\.0; it must lie in \[0, 1\)"),
        ("{}", ["--semi.length", "10"], r"semi\.length is '10'; it must be a number and a unit, such as"),
        (
            "{}",
            ["--semi.mixing", "probable"],
            r"semi\.mixing is probable; it must be one of none, pseudo, pseudo_plus, prob$",
        ),
        ("semi: {batch: many}", [], r"semi\.batch is many; it must be a whole number$"),
        ("{}", ["--seed", "one"], "seed is one; it must be a whole number$"),
        (
            "{}",
            ["--data.labels.per_class", "1.5"],
            r"per_class is 1\.5; it must be a whole number or null$",
        ),
        ("{}", ["--data.mean", "0.5"], r"data\.mean is 0\.5; it must be a list of 3, each a number$"),
        ("{}", ["--model.args", "x"], r"model\.args is x; it must be indented keys and values$"),
        ("{}", ["--stages", "[semi, finetune]"], "in this order"),
        ("{}", ["--semi.mix.mixup", "0", "--semi.mix.cutmix", "0"], r"set semi\.mixing to none"),
        ("{}", ["--pretrain.decoder_dim", "100"], "multiple of 4 and of decoder_heads"),
        ("{}", ["--semi.strong.randaugment", "rand-m9"], "rand-m9-mstd0.5-inc1"),
        ("{}", ["stray"], "stray"),
        ("- a\n- b\n", [], "holds no mapping"),
        ("a: [", [], "cannot be read"),
        (
            "seed: 1\nsemi: {batch: 2}\nseed: 3\n",
            [],
            r"seed is given twice, first in line 1 \(line 3, column 1\)$",
        ),
        ("semi: {batch: 1, batch: 2}", [], r"batch is given twice, first in line 1 \(line 1, column 18\)$"),
        (
            "semi:\n\tbatch: 1\n",
            [],
            r"found character '\\t' that cannot start any token \(line 2, ",
        ),
        (BOMB, [], r"with its aliases it holds more than 100,000 values \(line 7, "),
        ("model: {args: &a {x: *a}}", [], r"alias a stands inside of what it means \(line 1, column 22\)$"),
        ("stages: !!set {semi}", [], "could not determine a constructor for the tag 'tag:yaml.org,2002:set'"),
        ('output: "a\\0b"', [], r"character 0 is in a text \(line 1, column 9\)$"),
        ("root:$6$secret: x: y\n", [], r"mapping values are not allowed here \(line 1, column 18\)$"),
        ("", [], "is empty; write it again$"),
        ("[]", [], "holds no mapping"),
        ("treshold: 1", [], r"unknown key treshold in .*yaml; did you mean semi\.threshold\?$"),
        ("model: {args: {a: {1: 2}}}", [], r"key 1 of model\.args\.a in .*yaml is no word"),
        ("seed: ''", [], "seed is ; it must be a whole number$"),
        ("data: {root: 2001-01-01}", [], r"data\.root must be a path$"),
        (
            "semi: {length: 1%s epochs}" % ("0" * 400),
            [],
            r"semi\.length is 10{19} epochs; it",
        ),
        ("semi: {threshold: 1e400}", [], r"semi\.threshold is inf; it must lie in \[0, 1\]"),
        ("base: config.yaml\n", [], "based on itself"),
        ("base: nowhere.yaml\n", [], "does not exist"),
        ("base: /etc/passwd\n", [], "it must name a preset, a .yaml file$"),
        ("seed: 2001-99-99\n", [], "cannot be read: month must be in"),
        ("[" * 3000 + "]" * 3000, [], "cannot be read: it is nested too deeply"),
        ("{a: " * 3000 + "1" + "}" * 3000, [], "cannot be read: it is nested too deeply"),
    ],
)
def test_wrong_input_ends_with_one_line_that_names_it(tmp_path, text, options, message):
    preset = _write(tmp_path / "config.yaml", text)
    with pytest.raises(UserError, match=message) as error:
        configuration.load([preset], options)
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_values_that_stand_for_others_are_read(tmp_path):
    text = "semi: &s {batch: 4, base_lr: 0.5}\nfinetune: {<<: *s, batch: 2}\nseed: &n 3\nlog_every: *n\n"
    config = configuration.load([_write(tmp_path / "x.yaml", text)], [])
    assert (config.semi.batch, config.finetune.batch, config.finetune.base_lr) == (4, 2, 0.5)
    assert (config.seed, config.log_every) == (3, 3)


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(UserError, match=rf"config {tmp_path} cannot be read: Is a directory$"):
        configuration.load([tmp_path], [])


def test_a_long_row_of_bases_is_refused(tmp_path):
    for i in range(40):
        _write(tmp_path / f"{i}.yaml", f"base: {i + 1}.yaml\n")
    with pytest.raises(UserError, match=r"is the base of more than 20 others in a row"):
        configuration.load([tmp_path / "0.yaml"], [])


def test_what_a_key_must_be_has_words_for_every_key():
    keys = configuration.known_keys()
    leaves = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    assert len(leaves) > 100
    for key in leaves:
        message = explain(ValueError(f'Parser key "{key}":\n  Got value: ?'), configuration.hint)
        assert message.startswith(f"{key} is ?; it must be "), message


def test_durations():
    assert Duration("5 epochs").steps(10.5) == 52
    assert Duration("1 step").steps(10.5) == 1
    assert str(Duration(" 2.5  epochs")) == "2.5 epochs"
    for wrong in ("5", "epochs", "-1 steps", "5 hours", ""):
        with pytest.raises(ValueError, match="duration"):
            Duration(wrong)


def test_every_field_is_documented_in_the_help():
    """Inherited fields keep the text of the class that introduced them."""
    text = " ".join(configuration.make_parser().format_help().split())
    for key in configuration.known_keys():
        if any(other.startswith(f"{key}.") for other in configuration.known_keys()):
            continue  # a section
        assert f"--{key} " in text, key
        after = text.split(f"--{key} ", 1)[1].split(" --", 1)[0]
        described = after.split("(type:")[0].split("}")[-1].strip()
        assert len(described.split()) > 3, f"{key}: {after}"


def test_weights_depend_on_how_images_are_turned(tiny):
    from fastsemi.run.fingerprint import fingerprint

    prints = [fingerprint(tiny("--data.exif", value), "semi", ()) for value in ("ignore", "apply")]
    assert [found["data.exif"] for found in prints] == ["ignore", "apply"]
    with pytest.raises(UserError, match=r"data\.exif|exif"):
        tiny("--data.exif", "turn")


def test_images_are_prepared_as_a_folder_of_weights_says(tmp_path):
    """And as the configuration says where it says so."""
    weights = tmp_path / "model.safetensors"
    said = {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.9}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": said}))
    config = configuration.load([], ["--model.weights", str(weights), "--data.std", "[1, 1, 1]"])
    assert (config.data.image_size, config.data.eval_crop) == (96, 0.9)
    assert (tuple(config.data.mean), tuple(config.data.std)) == ((0.1, 0.2, 0.3), (1, 1, 1))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert configuration.load([], ["--model.weights", str(weights)]).data == configuration.load([], []).data
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", **said}))  # of old timm
    assert beside(weights) == Preprocessing(96, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_size": []},
        {"input_size": None},
        {"input_size": [3, 96, math.inf]},
        {"input_size": [3, 96, 64]},
        {"input_size": {"height": 96}},
        {"mean": [0.5]},
        {"mean": [0.5, 0.5, math.nan]},
        {"mean": [123.7, 116.3, 103.5]},
        {"std": [0.5, 0.5, 0]},
        {"crop_pct": 2},
    ],
)
def test_impossible_settings_beside_weights_are_refused(wrong, tmp_path):
    said = {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], **wrong}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": said}))
    with pytest.raises(UserError, match=r"does not say how images go into model\.pth"):
        beside(tmp_path / "model.pth")


@pytest.mark.parametrize("text", ["[]", '{"model_type": "vit", "image_size": 224}', '{"pretrained_cfg": []}'])
def test_other_settings_beside_weights_say_nothing_of_images(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert beside(tmp_path / "model.pth") is None
    (tmp_path / "config.json").write_text(text[:-1])
    with pytest.raises(UserError, match="mend or remove it"):
        beside(tmp_path / "model.pth")
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    assert beside(tmp_path / "model.pth") is beside(Path("/")) is None
