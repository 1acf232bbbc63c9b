"""Metrics in JSON lines, TensorBoard, Weights & Biases and MLflow: no step twice after a resume."""

import json
import logging
import math
import os
import time

import pytest

from fastsemi.common.errors import UserError
from fastsemi.run.settings import TrainConfig
from fastsemi.training.loggers import Careful, create_loggers, require_loggers
from fastsemi.training.metrics import MetricLog


def write(log, stage, steps):
    for step in steps:
        log.write(stage, step, {"loss": step / 10, "none": math.nan, "name": "x"})


def interrupted(folder, *loggers, pause=0.0):
    """A run whose second stage was killed after step 8, and went on from step 4 to 10."""
    for stages in ((("finetune", 0, (2, 4)), ("semi", 0, (2, 4, 6, 8))), (("semi", 4, (6, 8, 10)),)):
        log = MetricLog(
            folder / "metrics.jsonl", folder / "board", loggers, {"seed": 3, "data.train": "train"}
        )
        for stage, at, steps in stages:
            log.rewind(stage, at)
            write(log, stage, steps)
        log.close()
        time.sleep(pause)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == STEPS
    return folder


STEPS = [("finetune", 2), ("finetune", 4), *(("semi", step) for step in (2, 4, 6, 8, 10))]


def test_tensorboard_has_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "board"), size_guidance={"scalars": 0}).Reload()
    assert sorted(events.Tags()["scalars"]) == ["finetune/loss", "semi/loss"], "numbers that are finite"
    for stage in ("finetune", "semi"):
        found = [(e.step, e.value) for e in events.Scalars(f"{stage}/loss")]
        assert found == [(s, pytest.approx(s / 10)) for of, s in STEPS if of == stage]


def test_mlflow_files_have_each_step_once(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs mlflow: pip install 'fastsemi[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    interrupted(tmp_path, "mlflow")
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("fastsemi").experiment_id])
    assert run.data.params == {"seed": "3", "data.train": "train"}
    found = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "semi/loss")]
    assert found == [(s, s / 10) for s in (2, 4, 6, 8, 10)]


def log_records(data):
    """Records of LevelDB's log format, in which W&B writes: whole ones, or pieces in blocks of 32 KiB."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def test_wandb_offline_has_each_step_once(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs wandb: pip install 'fastsemi[wandb]'")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    interrupted(tmp_path, "wandb", pause=1.1)  # it names the files of a process by the second
    from wandb.proto import wandb_internal_pb2

    found, runs = [], set()
    for file in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")):
        for data in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                runs.add(record.run.run_id)
            items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            found += [json.loads(items["semi/step"])] if "semi/step" in items else []
    assert found == [2, 4, 6, 8, 10] and len(runs) == 1 and wandb.run is None


def test_a_service_that_fails_is_said_once(caplog):
    class Broken:
        def write(self, row):
            raise RuntimeError("no network\nmore")

        def close(self):
            raise AssertionError("not asked any more")

    careful = Careful(Broken(), {"semi": 2})
    with caplog.at_level(logging.WARNING):
        for step in (2, 4, 6):
            careful.write({"stage": "semi", "step": step})
        careful.close()
    assert [r.getMessage() for r in caplog.records] == ["Broken shows nothing more: no network"]


def test_what_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"train\.loggers names one twice"):
        TrainConfig(loggers=("wandb", "wandb"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb, which is not installed; pip install 'fastsemi\[wandb\]'"):
        require_loggers(["wandb"])


def test_errors_of_services_hold_no_password(caplog):
    class Failing:
        def write(self, row):
            raise OSError("POST https://me:word@host/api failed: mail me@host\nand more")

    Careful(Failing(), {}).write({"stage": "semi", "step": 1})
    assert "POST https://host/api failed: mail me@host" in caplog.text and "word" not in caplog.text


@pytest.mark.parametrize("content", ["{", "[]", '{"runs": 5, "shown": {}}'])
def test_a_damaged_file_of_runs_is_named(tmp_path, content):
    (tmp_path / "loggers.json").write_text(content)
    with pytest.raises(UserError, match=r"loggers\.json is damaged; delete it"):
        create_loggers((), tmp_path, tmp_path / "board", {}, [], {})
