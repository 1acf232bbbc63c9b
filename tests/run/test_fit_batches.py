"""Batches that nobody set by hand fit the data; what was set by hand is refused where it does not."""

import shutil

import pytest

from fastsemi.common.errors import UserError
from fastsemi.run import config as configuration
from fastsemi.run.checks import check_stage, stage_fingerprint
from fastsemi.run.context import RunContext
from fastsemi.run.fit_batches import fit_batches, with_fitting_batches


@pytest.fixture
def own(tiny, tmp_path):
    """The function `own(text, *options)`: the configuration of a file based on the tiny one, keys by hand."""
    tiny()

    def load(text="", *options):
        file = tmp_path / "own.yaml"
        file.write_text(f"base: tiny.yaml\n{text}")
        return configuration.load([file], options), configuration.by_hand([file], options)

    return load


def fitted(config, by_hand, stages=("pretrain", "finetune", "semi")):
    run, said = RunContext(config), []
    try:
        run.config = fit_batches(config, run.data, stages, by_hand, said.append)
        for name in stages:
            check_stage(run, name)
        return run.config, said, stage_fingerprint(run, stages[-1])
    finally:
        run.close()


def test_what_a_base_or_a_default_says_becomes_smaller(own):
    options = ("--data.labels.per_class", "1")  # 3 labelled images of 120
    config, by_hand = own("pretrain: {length: 2 epochs, warmup: 0 epochs}", *options)
    assert by_hand == {"pretrain", "pretrain.length", "pretrain.warmup", "data.labels.per_class"}
    config, said, fingerprint = fitted(config, by_hand)
    assert (config.pretrain.batch, config.finetune.batch, config.semi.batch) == (24, 3, 3)
    assert said == [
        "finetune.batch: 3 in place of 12, as there are 3 labelled images that train",
        "semi.batch: 3 in place of 6, as there are 3 labelled images that train",
    ]
    assert fingerprint["semi.batch"] == 3 and fingerprint["finetune.batch"] == 3


def test_micro_batches_still_divide_and_unlabelled_images_fill_the_rest(own, shapes, tmp_path):
    shutil.copytree(shapes / "val" / "dot", tmp_path / "more")
    text = f"data: {{unlabeled: {tmp_path}/more}}\nsemi: {{micro_batches: 2}}\nfinetune: {{micro_batches: 4}}"
    config, by_hand = own(text, "--data.labels.per_class", "3")  # 9 labelled, 10 without
    config, said, _ = fitted(config, by_hand)
    assert (config.finetune.batch, config.semi.batch, config.semi.unlabelled_ratio) == (8, 6, 1)
    assert said[0] == "pretrain.batch: 10 in place of 24, as there are 10 images"
    assert said[2] == (
        "semi.unlabelled_ratio: 1 in place of 5, as there are 10 unlabelled images for batches of 6"
    )


@pytest.mark.parametrize("where", ["file", "command line", "section", "everywhere"])
def test_what_was_set_by_hand_is_refused(own, where):
    text = "finetune: {batch: 12}" if where == "file" else ""
    options = ("--finetune.batch", "12") if where == "command line" else ()
    options = ("--finetune", "{batch: 12}") if where == "section" else options
    config, by_hand = own(text, *options, "--data.labels.per_class", "1")
    with pytest.raises(UserError, match="labelled batch of 12 is larger than its data of 3 images"):
        fitted(config, None if where == "everywhere" else by_hand, ("finetune",))


def test_stages_that_do_not_run_are_fitted_without_a_word(own):
    config, by_hand = own("", "--data.labels.fraction", "1.0", "--data.labels.per_class", "null")
    _, said, _ = fitted(config, by_hand, ("finetune",))
    assert said == [], "and that there are no unlabelled images is no error of fine-tuning"
    config, by_hand = own("", "--data.labels.per_class", "1")
    config, said, _ = fitted(config, by_hand, ("pretrain",))
    assert said == [] and config.semi.batch == config.finetune.batch == 3
    config, by_hand = own("", "--data.train", "nowhere")
    assert with_fitting_batches(config, by_hand, strict=False) == config
    with pytest.raises(UserError, match="nowhere"):
        with_fitting_batches(config, by_hand)
