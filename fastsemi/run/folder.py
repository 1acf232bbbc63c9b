"""A run directory: what lies in it, and under which name. No other file knows these names."""

from __future__ import annotations

from pathlib import Path

from fastsemi.common.errors import UserError


class RunFolder:
    """The paths of a run.

    Args:
        path: The run directory, `output` of the configuration; it need not exist.
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def summary(self) -> Path:
        """The figures of the finished stages."""
        return self.path / "summary.json"

    @property
    def engine(self) -> Path:
        """The name of the loader's engine, where `loader.engine` left the choice: a resumed run keeps it."""
        return self.path / "engine.txt"

    @property
    def metrics(self) -> Path:
        """Rows of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def board(self) -> Path:
        """TensorBoard's events."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of unfinished stages (`training.checkpoint.folder`) and results of finished ones."""
        return self.path / "checkpoints"

    def result(self, stage: str) -> Path:
        """The network of a finished stage; it is there when the stage has finished."""
        return self.checkpoints / f"{stage}_result.pt"

    @property
    def spread_labels(self) -> Path:
        """Unlabelled images that label spreading has labelled for fine-tuning, and their classes."""
        return self.checkpoints / "spread_labels.npz"

    @property
    def model(self) -> Path:
        """The network that the run leaves, as a folder of timm's (`local-dir:`)."""
        return self.path / "model"

    @property
    def has_model(self) -> bool:
        """Whether a stage with a classifier has finished."""
        return (self.model / "config.json").exists()

    def require_run(self) -> None:
        """Refuse a folder in which no run was begun.

        Raises:
            UserError: There is no configuration in it.
        """
        if not self.config.is_file():
            raise UserError(
                f"{self.path} holds no run (there is no {self.config.name} in it); give the --output of a "
                "`fastsemi train`"
            )

    def require_model(self) -> None:
        """Refuse a folder without a trained network.

        Raises:
            UserError: Nothing has been trained here.
        """
        if not self.has_model:
            raise UserError(f"{self.path} holds no trained model; run `fastsemi train --output {self.path}`")

    @property
    def weights(self) -> Path:
        """The tensors of `model`."""
        return self.model / "model.safetensors"

    @property
    def fresh_model(self) -> Path:
        """Where `model` is written before it takes its place."""
        return self.path / ".model.tmp"

    @property
    def trial(self) -> Path:
        """What is measured before the run begins; gone when it has begun."""
        return self.path / ".trial.tmp"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    @property
    def health(self) -> Path:
        """What `fastsemi doctor --data` found of the images."""
        return self.path / "health.json"

    @property
    def profile(self) -> tuple[Path, Path]:
        """What `fastsemi profile` found: the figures, and a plot of them."""
        return self.path / "profile.json", self.path / "profile.png"

    @property
    def log(self) -> Path:
        """What a run printed that a study started."""
        return self.path / "log.txt"

    def stuck(self, rank: int) -> Path:
        """What the threads of a process were doing when no step finished for long."""
        return self.path / (f"stuck-{rank}.txt" if rank else "stuck.txt")

    @property
    def mirrored(self) -> Path:
        """Whose copy in a bucket the directory has (`run.mirror`)."""
        return self.path / "mirror.json"

    @property
    def fetched(self) -> Path:
        """Where files of the copy are put before they take their places."""
        return self.path / ".mirror.tmp"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here."""
        return self.path / ".lock"
