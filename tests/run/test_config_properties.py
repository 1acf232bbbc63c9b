"""Any configuration that can be given is read back from its YAML; numbers that are none are refused."""

import dataclasses
import math
import tempfile
import typing
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install 'fastsemi[test]'")
from hypothesis import given, settings
from hypothesis import strategies as some

from fastsemi.common.errors import UserError
from fastsemi.loaders.settings import LabelsConfig
from fastsemi.run.config import Config, load, to_yaml

NO_NUMBERS = {float: (math.nan, math.inf, -math.inf, -1.0), int: (-1,)}


def _sections(section):
    yield section
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _sections(value)


def test_no_key_takes_a_number_that_is_none_or_negative():
    tried = 0
    for section in _sections(Config()):
        for name, hint in typing.get_type_hints(type(section)).items():
            arguments = [kind for kind in typing.get_args(hint) if kind is not Ellipsis]
            several = typing.get_origin(hint) is tuple
            if (type(section), name) == (LabelsConfig, "seed"):  # any whole number
                continue
            for value in [v for kind in NO_NUMBERS if kind in (hint, *arguments) for v in NO_NUMBERS[kind]]:
                wrong = (value, *[0.5] * (len(arguments) - 1)) if several else value
                with pytest.raises(UserError, match=rf"\b{name}\b"):
                    dataclasses.replace(section, **{name: wrong})
                tried += 1
    assert tried > 300


few = settings(max_examples=4, derandomize=True, deadline=None, database=None)
lengths = some.builds("{} {}".format, some.integers(1, 10**13), some.sampled_from(["epochs", "steps"]))
folders = some.text("abc :#'\"{}[]&*!|>%@`,-éß\\", min_size=1, max_size=12).map(lambda name: f"/data/{name}x")
positive = some.floats(1e-12, 1e6)
VALUES = {
    "output": folders,
    "seed": some.integers(0, 2**63 - 1),
    "log_every": some.integers(1, 10**9),
    "data.root": folders,
    "data.train": some.text("abc 0123{}.,*?#-é", min_size=1, max_size=9).map("t{}".format),
    "data.labels.per_class": some.integers(1, 10**6),
    "data.max_bad": some.integers(0, 10**6),
    "loader.timeout_s": some.floats(0.1, 1e6),
    "model.name": some.sampled_from(["vit_tiny_patch16_224", "convnext_tiny"]),
    "finetune.length": lengths,
    "finetune.base_lr": positive,
    "finetune.weight_decay": some.floats(0, 1),
    "semi.length": lengths,
    "semi.threshold": some.floats(0, 1),
    "semi.momentum": some.floats(0, 0.999999),
}


@few
@given(some.fixed_dictionaries(VALUES))
def test_what_is_written_is_read_back(values):
    config = load([], [f"--{key}={value}" for key, value in values.items()])
    for key, value in values.items():
        found = config
        for part in key.split("."):
            found = getattr(found, part)
        assert str(found) == str(value) or found == value, key
    with tempfile.TemporaryDirectory() as work:
        file = Path(work, "config.yaml")
        file.write_text(to_yaml(config))
        assert load([file], []) == config
