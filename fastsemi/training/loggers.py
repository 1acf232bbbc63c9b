"""Where metrics are shown besides `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.training.settings import LoggerName

Row = Mapping[str, Any]
"""A stage, the steps done in it, and values by name."""

_log = logging.getLogger(__name__)


class Logger(Protocol):
    """Shows rows; made again when a run is resumed."""

    def write(self, row: Row) -> None:
        """Show one more row."""

    def close(self) -> None:
        """Flush."""


def numbers(row: Row) -> dict[str, float]:
    """The finite values of a row by `<stage>/<name>`."""
    values = ((name, value) for name, value in row.items() if name not in ("stage", "step"))
    return {
        f"{row['stage']}/{name}": value
        for name, value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


class TensorBoard:
    """Events in a folder, written anew from all rows where there are some: none is there twice.

    Args:
        folder: Of the events.
        rows: Those of the run so far.
    """

    def __init__(self, folder: Path, rows: Sequence[Row]):
        from torch.utils.tensorboard import SummaryWriter  # only a run that logs needs TensorBoard

        if rows:
            shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """Add the row's values."""
        for name, value in numbers(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases in the run's folder, offline unless WANDB_MODE says otherwise.

    Args:
        folder: Of the run.
        run: The same when the run is resumed.
        config: Shown beside the metrics.
    """

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]):
        import wandb

        self._run = wandb.init(
            dir=str(folder),
            project=os.environ.get("WANDB_PROJECT", "fastsemi"),
            id=run,
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._stages: set[str] = set()

    def write(self, row: Row) -> None:
        """Log the row's values over the steps of its stage."""
        axis = f"{row['stage']}/step"
        if axis not in self._stages:
            self._stages.add(axis)
            self._run.define_metric(f"{row['stage']}/*", step_metric=axis)
        self._run.log({**numbers(row), axis: row["step"]})

    def close(self) -> None:
        """Flush; `wandb sync` sends what was logged offline."""
        self._run.finish()


class MLflow:
    """A run of MLflow, in the folder `mlruns` of the run unless MLFLOW_TRACKING_URI says otherwise.

    Args:
        folder: Of the run.
        run: Its MLflow run, None for a new one.
        config: Shown beside the metrics.
    """

    def __init__(self, folder: Path, run: str | None, config: Mapping[str, Any]):
        where = os.environ.get("MLFLOW_TRACKING_URI")
        if where is None:
            where = (folder / "mlruns").absolute().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient(where)
        if run is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fastsemi")
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            run = self._client.create_run(experiment, run_name=folder.name).info.run_id
            params = [Param(key, str(value)[:500]) for key, value in config.items()]
            for start in range(0, len(params), 100):
                self._client.log_batch(run, params=params[start : start + 100])
        self.run = run

    def write(self, row: Row) -> None:
        """Log the row's values."""
        now = int(time.time() * 1000)
        values = [self._metric(name, value, now, row["step"]) for name, value in numbers(row).items()]
        self._client.log_batch(self.run, metrics=values)

    def close(self) -> None:
        """The run may be resumed, so it is not ended."""


class Careful:
    """A logger whose failures are said once and end nothing; it shows no row twice.

    Args:
        logger: Writes to a service or its files, where rows cannot be taken back.
        shown: The last step of each stage that it has shown.
    """

    def __init__(self, logger: Logger, shown: Mapping[str, int]):
        self._logger: Logger | None = logger
        self._shown = dict(shown)

    def write(self, row: Row) -> None:
        """Show a row beyond those that were shown before the run was resumed."""
        if self._logger is None or row["step"] <= self._shown.get(row["stage"], -1):
            return
        try:
            self._logger.write(row)
        except Exception as error:  # whatever a service's library raises
            _log.warning("%s shows nothing more: %s", type(self._logger).__name__, _line(error))
            self._logger = None

    def close(self) -> None:
        """Flush."""
        if self._logger is None:
            return
        try:
            self._logger.close()
        except Exception as error:  # as above
            _log.warning("%s did not end: %s", type(self._logger).__name__, _line(error))


def _line(error: Exception) -> str:
    """What an error says, without what a URL in it holds of users and passwords."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return re.sub(r"://[^/@\s]+@", "://", line)


def require_loggers(names: Iterable[LoggerName]) -> None:
    """Refuse loggers whose library is missing.

    Raises:
        UserError: Names the first, and the cure.
    """
    import importlib.util

    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"train.loggers names {name}, which is not installed; pip install 'fastsemi[{name}]'"
            )


def create_loggers(
    names: Sequence[LoggerName],
    folder: Path,
    board: Path,
    config: Mapping[str, Any],
    rows: Sequence[Row],
    shown: Mapping[str, int],
) -> list[Logger]:
    """The loggers of a run.

    Args:
        names: Which.
        folder: The run directory; `loggers.json` in it says which runs of the services are its own.
        board: Folder of TensorBoard's events.
        config: Shown beside the metrics, by dotted key.
        rows: Those of the run so far.
        shown: The last step of each stage that the rows had before some were taken back.

    Raises:
        UserError: A service cannot be reached, or refuses; `loggers.json` is damaged.
    """
    path = folder / "loggers.json"
    try:
        known = json.loads(path.read_text()) if path.exists() else {"runs": {}, "shown": {}}
        runs, before = dict(known["runs"]), dict(known["shown"])
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged; delete it (services then begin runs of their own)") from None
    for stage, step in shown.items() if runs else ():
        before[stage] = max(step, before.get(stage, step))
    made: list[Logger] = []
    for name in names:
        try:
            if name == "tensorboard":
                made.append(TensorBoard(board, rows))
            elif name == "wandb":
                runs.setdefault(name, uuid.uuid4().hex[:16])
                made.append(Careful(Wandb(folder, runs[name], config), before))
            else:
                flow = MLflow(folder, runs.get(name), config)
                runs[name] = flow.run
                made.append(Careful(flow, before))
        except Exception as error:  # whatever a service's library raises
            raise UserError(f"train.loggers {name}: {_line(error)}; mend that, or take it out") from error
    if runs:
        with replacing(path) as file:
            json.dump({"runs": runs, "shown": before}, file)
    return made
