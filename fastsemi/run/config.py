"""The configuration of a run: presets in YAML, overrides on the command line, all checked at once."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse.typing import register_type

from fastsemi.common.errors import UserError
from fastsemi.common.schedule import Duration
from fastsemi.common.settings import PrecisionName
from fastsemi.common.yaml_file import read_yaml
from fastsemi.kernels.settings import KernelKind
from fastsemi.loaders.settings import DataConfig, LoaderConfig, PlanConfig
from fastsemi.models.preprocessing import beside
from fastsemi.models.settings import ModelConfig
from fastsemi.parallel.settings import DistributedConfig
from fastsemi.run.compat import Compat, official, with_choices
from fastsemi.run.config_errors import explain
from fastsemi.run.config_keys import (
    check_keys,
    check_options,
    given_keys,
    given_options,
    hint_of,
    keys_of,
    no_such_key,
)
from fastsemi.run.settings import TrainConfig
from fastsemi.stages.finetune_config import FinetuneConfig
from fastsemi.stages.names import STAGES, StageName
from fastsemi.stages.pretrain_config import PretrainConfig
from fastsemi.stages.semi_config import SemiConfig
from fastsemi.training.settings import CompileConfig, OptimizerBackend

set_parsing_settings(docstring_parse_attribute_docstrings=True)
register_type(Duration, serializer=str, deserializer=Duration)


MOST_BASES = 20  # presets that stand on each other


@dataclass(frozen=True)
class Config:
    """A whole run."""

    output: Path = Path("runs/default")
    """Run directory: configuration, metrics, checkpoints, the final model."""
    compat: Compat = "fastsemi"
    """Whose choices settings start with where fastsemi and the authors' code differ: fastsemi, or official,
    the authors', for runs that are compared with the paper's numbers. Each can be set on its own."""
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: int = 0
    """Seed of everything random except the choice of labels (data.labels.seed)."""
    stages: tuple[StageName, ...] = STAGES
    """Stages that `train` runs, in this order."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: PrecisionName = "auto"
    """Number format of the networks: auto, fp32, tf32, bf16 or fp16."""
    kernels: KernelKind = "auto"
    """Device operations: auto (Triton where it runs), triton, or torch."""
    optimizer: OptimizerBackend = "fused"
    """AdamW of PyTorch, fused or foreach, or apex: NVIDIA's FusedAdam."""
    compile: CompileConfig = field(default_factory=CompileConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    log_every: int = 50
    """Optimizer steps between two rows of metrics."""
    eval_batch: int = 256
    """Images per evaluation batch."""
    data: DataConfig = field(default_factory=DataConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    semi: SemiConfig = field(default_factory=SemiConfig)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        order = [name for name in STAGES if name in self.stages]
        if not self.stages or list(self.stages) != order:
            raise UserError(f"stages {list(self.stages)} must be some of {', '.join(STAGES)}, in this order")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must lie in [0, 2**63)")
        if self.log_every < 1 or self.eval_batch < 1:
            raise UserError("log_every and eval_batch must be at least 1")
        if self.compile.cuda_graphs and self.distributed.strategy == "fsdp":
            raise UserError(
                "compile.cuda_graphs replays weights at fixed addresses, and fsdp gathers them anew; "
                "set compile.cuda_graphs to false or distributed.strategy to ddp"
            )
        if self.plan.record and self.compile.enabled and "pretrain" in self.stages:
            raise UserError(
                "plan.record writes the masks that pretraining draws, and compiled networks draw others; set "
                "compile.enabled to false"
            )
        if set(self.stages) != {"pretrain"}:
            self.require_choice()
        self._check_image_sizes()
        if "semi" in self.stages and self.semi.label_passes > 1 and (self.plan.record or self.plan.replay):
            raise UserError(
                "plan.record and plan.replay hold the same views of each step, and with semi.label_passes "
                f"{self.semi.label_passes} some steps have fewer; set it to 1 or take them out"
            )
        apart = self.semi.student_start == "weights" and self.finetune.ema
        if apart and {"finetune", "semi"} <= set(self.stages):
            if self.train.select == "best":
                raise UserError(
                    "semi.student_start weights begins with the last weights of fine-tuning, train.select "
                    "best with the best; set train.select to last or semi.student_start to average"
                )
            if self.model.adapt != "full":
                raise UserError(
                    f"semi.student_start weights needs a network that is trained whole, and model.adapt is "
                    f"{self.model.adapt}; set semi.student_start to average"
                )

    def require_choice(self) -> None:
        """Refuse to choose the best network where nothing is evaluated.

        Raises:
            UserError: So it is.
        """
        if self.train.select == "best" and not self.data.evaluates:
            raise UserError(
                "data.val is null and data.labels.validation 0, so that no image is left to choose the best "
                "network by; set data.labels.validation, for example to 0.2, name evaluation images in "
                "data.val, or set train.select to last, which trains on all labels and evaluates nothing"
            )

    def _check_image_sizes(self) -> None:
        for stage in (self.finetune, self.semi):
            if not stage.image_sizes or stage.section not in self.stages:
                continue
            name = f"{stage.section}.image_sizes"
            if stage.image_sizes[-1] != self.data.image_size:
                raise UserError(
                    f"{name} ends with {stage.image_sizes[-1]}, and data.image_size is "
                    f"{self.data.image_size}; end it with that"
                )
            if self.plan.record or self.plan.replay:
                raise UserError(
                    f"plan.record and plan.replay are of one image size; set {name} to [] or take them out"
                )
            if self.compile.cuda_graphs:
                raise UserError(
                    f"compile.cuda_graphs replays steps of one image size; set it to false or {name} to []"
                )


def load(
    files: Sequence[Path | Config], overrides: Sequence[str], keys: Mapping[str, Any] | None = None
) -> Config:
    """Read a configuration.

    Args:
        files: YAML files, a later one wins; each may name a `base:` file, relative to itself. A configuration
            counts as a file that gives every key.
        keys: Nested values of YAML's types; they win over files.
        overrides: Dotted command-line options such as `--semi.threshold 0.5`; they win over files.

    Raises:
        UserError: A missing file, an unknown key, a value of the wrong type or an impossible combination.
    """
    merged: dict[str, Any] = {}
    for file in files:
        _merge(merged, plain(file) if isinstance(file, Config) else read_preset(file))
    below = {*given_keys(merged)}
    compat = merged.get("compat", "fastsemi")
    if keys:
        check_keys(Config, dict(keys), "the call")
        _merge(merged, dict(keys))
    if merged.get("output") == "":  # which would be the working directory
        raise UserError("output is empty; name the run directory")
    check_options(Config, overrides)
    parser = make_parser()
    try:
        # Without what nobody gives, which takes the parser longer than all else.
        namespace = parser.parse_object(merged, defaults=False)
        if overrides:
            namespace = parser.parse_args(list(overrides), namespace=namespace, defaults=False)
        config = _with(Config(), namespace)
        given = {*given_keys(merged), *given_options(overrides)}
        config = _fit_to_weights(config, given)
        choices = official(config.semi.mixing)
        if config.compat != compat and choices.keys() <= below:
            where = ", ".join(str(file) for file in files if isinstance(file, Path)) or "the configuration"
            raise UserError(
                f"compat is {config.compat}, and {where} gives every key itself, so compat changes none; "
                "start from the preset"
            )
        return with_choices(config, choices, given) if config.compat == "official" else config
    except UserError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise UserError(explain(error, hint)) from None


def _with(settings: Any, given: Namespace) -> Any:
    """A dataclass with what is given in place of its defaults, section by section."""
    return dataclasses.replace(
        settings,
        **{
            name: _with(getattr(settings, name), value) if isinstance(value, Namespace) else value
            for name, value in vars(given).items()
        },
    )


def by_hand(files: Sequence[Path], overrides: Sequence[str]) -> set[str]:
    """The dotted keys that the user gives: on the command line, and in these files, not in their bases.

    Raises:
        UserError: As `read_preset`.
    """
    keys = given_options(overrides)
    for file in files:
        content = _read(file)
        content.pop("base", None)
        keys |= {*given_keys(content)}
    return keys


@functools.cache  # it takes longer to make than to use
def make_parser() -> ArgumentParser:
    """A parser with every field of `Config` as a dotted option; always the same one."""
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_class_arguments(Config)
    return parser


def read_preset(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML preset and what it is based on, as nested dictionaries with known keys only.

    Raises:
        UserError: The file is missing, no YAML mapping, based on itself, or has an unknown key.
    """
    path = Path(path)
    place = Path(os.path.realpath(path))  # which a link to itself has, too
    if place in seen:
        raise UserError(f"config {path} is based on itself; remove one of the base: lines")
    content = _read(path)
    base = content.pop("base", None)
    check_keys(Config, content, str(path))
    if base is None:
        return content
    if not isinstance(base, str):
        raise UserError(f"base in config {path} is {base!r}; it must name one file")
    if not base.endswith((".yaml", ".yml")):
        raise UserError(f"base in config {path} is {base!r}; it must name a preset, a .yaml file")
    if len(seen) == MOST_BASES:
        raise UserError(f"config {path} is the base of more than {MOST_BASES} others in a row; take some out")
    merged = read_preset(path.parent / base, (*seen, place))
    _merge(merged, content)
    return merged


def _read(path: Path) -> dict[str, Any]:
    """A preset as it stands."""
    content = read_yaml(path, "config", "presets are in configs/")
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"config {path} holds no mapping; write lines such as 'seed: 0'")
    return content


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict) and key != "args":
            _merge(into[key], value)
        else:
            into[key] = value


def _fit_to_weights(config: Config, given: Set[str]) -> Config:
    """Images are prepared as weights learnt them that say how, unless `given` keys say otherwise."""
    wanted = beside(config.model.weights) if config.model.weights else None
    if config.model.pretrained:
        from fastsemi.models.pretrained import preprocessing, published_name  # which needs timm

        wanted = preprocessing(published_name(config.model.name, config.model.pretrained))
    if wanted is None:
        return config
    free = {name: value for name, value in vars(wanted).items() if f"data.{name}" not in given}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **free))


def known_keys() -> list[str]:
    """All dotted keys of a configuration, sections included."""
    return keys_of(Config)


def hint(key: str) -> Any:
    """The type of a dotted key; KeyError where there is none."""
    return hint_of(Config, key)


def unknown_key(key: str, where: str) -> UserError:
    """What is wrong with a key that there is not, with the nearest one."""
    return no_such_key(Config, key, where)


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `load` reads back to an equal one."""
    return yaml.safe_dump(plain(config), sort_keys=False, width=10**6)  # a path with spaces stays on its line


def plain(value: Any) -> Any:
    """Dataclasses, paths and durations as YAML's plain types."""
    if isinstance(value, Duration | Path):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value
