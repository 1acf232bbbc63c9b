"""The recipes for clusters: their keys are those of the systems, their words those of `fastsemi train`."""

import ast
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from fastsemi.run.config import load

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "scripts/cluster"


def kubeflow():
    job = yaml.safe_load((RECIPES / "kubeflow.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    trainer = job["spec"]["trainer"]
    keys = {"image", "numNodes", "numProcPerNode", "resourcesPerNode", "command", "args", "env"}
    assert set(job["spec"]) == {"runtimeRef", "trainer"} and set(trainer) == keys
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == trainer["numProcPerNode"]
    return trainer["command"] + trainer["args"]


def skypilot():
    task = yaml.safe_load((RECIPES / "skypilot.yaml").read_text())
    assert set(task) == {"name", "resources", "num_nodes", "workdir", "envs", "setup", "run"}
    assert set(task["resources"]) == {"accelerators", "use_spot"}
    return shlex.split(task["run"].replace("\\\n", " "))


def ray():
    text = (RECIPES / "ray_train.py").read_text()
    compile(text, "ray_train.py", "exec")
    (words,) = (
        node.value.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "WORDS"
    )
    return shlex.split(words)


@pytest.mark.parametrize("recipe", (kubeflow, skypilot, ray))
def test_words_are_those_of_train(recipe):
    words = recipe()
    at = words.index("fastsemi")
    assert words[at - 1 : at + 3] == ["-m", "fastsemi", "train", "--config"]
    config = load([ROOT / words[at + 3]], words[at + 4 :])
    assert str(config.data.root) == "s3://bucket/imagenet" and config.train.mirror.startswith("s3://bucket/")


@pytest.mark.parametrize("program", ("apptainer", "enroot"))
def test_python_of_a_container_gets_all_words(tmp_path, program):
    """With a program in the container's place that runs what it is told to, in this machine's shell."""
    stand_in = tmp_path / program
    stand_in.write_text(
        '#!/bin/bash\nwhile [[ $1 != *.image ]]; do echo "$1" >> "$LOG"; shift; done\nshift\n"$@"\n'
    )
    stand_in.chmod(0o755)
    python = tmp_path / "python3"
    python.write_text('#!/bin/bash\npwd\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    variables = {"PATH": path, "IMAGE": "x.image", "BIND": "/data", "LOG": str(tmp_path / "log")}
    script = RECIPES / f"{program}_python.sh"
    told = subprocess.run(
        [script, "-m", "fastsemi", "a b"],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines() == [str(tmp_path), "-m", "fastsemi", "a b"]
    assert any("/data" in line for line in (tmp_path / "log").read_text().splitlines())
    refused = subprocess.run([script], env={"PATH": path}, capture_output=True, text=True)
    assert refused.returncode and "IMAGE" in refused.stderr and "is not set" in refused.stderr
