"""What differs between the settings that a stage was begun with and those of now."""

from fastsemi.run.config import Config, load, plain
from fastsemi.run.fingerprint import changes, fingerprint


def test_a_key_that_an_older_version_did_not_know_had_its_default():
    now = {**fingerprint(Config(), "semi", ["finetune"]), "images": "abc"}
    then = {key: value for key, value in now.items() if not key.startswith("semi.spread")}
    assert changes(then, now) == []
    spread = fingerprint(load([], ["--semi.spread_weight", "0.5"]), "semi", ["finetune"])
    assert changes(then, {**spread, "images": "abc"}) == ["semi.spread_weight: 0.0, now 0.5"]


def test_a_key_that_was_not_compared_had_the_value_that_the_run_wrote():
    config = load([], ["--data.eval_crop", "1.0"])
    now = fingerprint(config, "finetune", [])
    then = {key: value for key, value in now.items() if key != "data.eval_crop"}
    assert changes(then, now) == ["data.eval_crop: 0.875, now 1.0"]
    assert changes(then, now, plain(config)) == []
    assert changes(then, fingerprint(Config(), "finetune", []), plain(config)) == [
        "data.eval_crop: 1.0, now 0.875"
    ]


def test_other_images_and_keys_that_are_gone_are_changes():
    now = {**fingerprint(Config(), "finetune", []), "images": "abc"}
    then = {**now, "images": "abd", "finetune.gone": 3}
    assert changes(then, now) == ["images: abd, now abc", "finetune.gone: 3, now None"]
    assert changes({**now, "model.args.depth": 2}, now) == ["model.args.depth: 2, now None"]
