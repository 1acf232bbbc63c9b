"""The batch script, run by bash as Slurm would, with an `srun` that starts the tasks on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts/slurm"

SRUN = """#!/bin/bash
# As many tasks as --ntasks says, side by side; fails as soon as one has failed. With FAKE_ONLY none.
echo "srun $*" >> "$FAKE_LOG"
[[ -n ${FAKE_ONLY:-} ]] && exit
while [[ $1 == --* ]]; do [[ $1 == --ntasks=* ]] && tasks=${1#*=}; shift; done
pids=()
for ((i = 0; i < tasks; i++)); do
    SLURM_PROCID=$i SLURM_NODEID=$i SLURM_NTASKS=$tasks SLURM_LOCALID=0 "$@" &
    pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit $code
"""
# For the script it is Python; it asks `serve` below, which has imported PyTorch.
PYTHON = """#!{executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect("\\0{name}")
    message = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [message], [1, 2])
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.makefile().read()))
"""
SCONTROL = """#!/bin/bash
# "show hostnames a,b": one a line
[[ "$1 $2" == "show hostnames" ]] || exit 1
tr , '\\n' <<< "$3"
"""


@pytest.fixture
def slurm(tmp_path):
    """The function `slurm(nodes, words, **variables)` runs the script; its log of srun is in `tmp_path`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(nodes, *words, **variables):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            job = s.getsockname()[1] % 20000  # the script makes it a port
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC"))},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "FAKE_LOG": str(tmp_path / "srun.log"),
            "OMP_NUM_THREADS": "1",
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NODELIST": ",".join(["127.0.0.1"] * nodes),
            "SLURM_NNODES": str(nodes),
            "SLURM_PROCID": "0",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_SUBMIT_DIR": str(ROOT),
            **variables,
        }
        script = ["bash", str(SCRIPTS / "train.sbatch"), *words]
        return subprocess.run(
            script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
        )

    return run


def serve(listening, fork):
    """For each program that asks, fork what `python -m MODULE ...` would be, and tell it how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no fork here is waited for
    while True:
        client, _ = listening.accept()
        if os.fork():
            client.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        message, files, *_ = socket.recv_fds(client, 1 << 20, 2)
        while part := client.recv(1 << 20):
            message += part
        words, folder, environment = json.loads(message)
        os.environ.clear()
        stdout, stderr = (open(file, "wb") for file in files)
        command = [sys.executable, *words[words.index("-m") :]]
        done = fork(command, stdout=stdout, stderr=stderr, cwd=folder, env=environment)
        client.sendall(b"%d" % done.wait(200))
        os._exit(0)


@pytest.fixture
def python(tmp_path, fork):
    """Variables of the script with which its Python processes are forks: five would import PyTorch."""
    program, name = tmp_path / "python", f"fastsemi-tests-{os.getpid()}"
    program.write_text(PYTHON.format(executable=sys.executable, name=name))
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{name}")
        listening.listen()
        pid = os.fork()
        if not pid:
            try:
                serve(listening, fork)
            finally:
                os._exit(1)
    yield {"PYTHON": str(program), "PYTHON_EXEC": str(program)}
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.slow
def test_two_nodes_train_to_the_end_from_their_own_disk(slurm, preset, shapes, tmp_path, python):
    output, words = preset("run", "--stages", "[semi]")
    local = tmp_path / "local disk"
    done = slurm(2, *words[1:], STAGE_FROM=str(shapes), STAGE_TO=str(local), **python)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((output / "summary.json").read_text())
    assert summary["stages"]["semi"]["steps"] == 10 and summary["processes"] == 2
    assert done.stdout.count("step 10/10, ETA") == 1, "one process reports"
    staged = sorted(p.relative_to(local) for p in local.rglob("*.png"))
    assert staged == sorted(p.relative_to(shapes) for p in shapes.rglob("*.png")) and len(staged) == 150
    assert f"root: {local}" in (output / "config.yaml").read_text()
    copying, training = (tmp_path / "srun.log").read_text().splitlines()
    assert "--ntasks=2 --ntasks-per-node=1" in copying and "stage.sh" in copying
    for words in ("--kill-on-bad-exit=1", "--nnodes=2:2 --nproc-per-node=1", "--loader.threads 1"):
        assert words in training


def test_a_node_starts_a_process_for_each_gpu_that_slurm_gives(slurm, preset, tmp_path):
    _, words = preset("run", "--stages", "[finetune]")
    gpus = {"SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "7"}
    done = slurm(3, *words[1:], **gpus, MIN_NODES="1", FAKE_ONLY="1")
    assert done.returncode == 0, done.stdout + done.stderr
    (training,) = (tmp_path / "srun.log").read_text().splitlines()
    for part in ("--kill-on-bad-exit=0", "--nnodes=1:3 --nproc-per-node=2", "--loader.threads 3"):
        assert part in training


def test_wrong_input_ends_with_one_line(slurm, tmp_path):
    done = slurm(1, "--config", "nowhere.yaml")
    assert done.returncode == 2
    assert "config nowhere.yaml does not exist" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "srun.log").exists(), "no node starts for it"


def test_the_script_asks_for_slurm(slurm):
    done = slurm(1, SLURM_JOB_ID="")
    assert done.returncode != 0 and "submit this file with sbatch" in done.stderr


def stage(*words, **variables):
    command = ["bash", str(SCRIPTS / "stage.sh"), *map(str, words)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_staging_copies_what_is_missing_or_cut_short(tmp_path):
    source, target = tmp_path / "a set", tmp_path / "disk"
    (source / "train").mkdir(parents=True)
    (source / "train/x 1.tar").write_bytes(b"x" * 1000)
    (tmp_path / "elsewhere.tar").write_bytes(b"y" * 2000)
    (source / "link.tar").symlink_to(tmp_path / "elsewhere.tar")
    assert stage(source, target).returncode == 0
    assert (target / "train/x 1.tar").read_bytes() == b"x" * 1000
    assert (target / "link.tar").read_bytes() == b"y" * 2000 and not (target / "link.tar").is_symlink()

    before = (target / "link.tar").stat().st_mtime_ns
    (target / "train/x 1.tar").write_bytes(b"x" * 10)
    assert stage(source, target).returncode == 0
    assert (target / "train/x 1.tar").read_bytes() == b"x" * 1000
    assert (target / "link.tar").stat().st_mtime_ns == before, "what is there is not copied again"
    assert not list(target.rglob("*.part"))


def test_copies_that_start_together_do_not_disturb_each_other(tmp_path):
    source, target = tmp_path / "set", tmp_path / "disk"
    source.mkdir()
    for i in range(20):
        (source / f"{i}.tar").write_bytes(bytes([i]) * 100_000)
    command = ["bash", str(SCRIPTS / "stage.sh"), str(source), str(target)]
    jobs = [subprocess.Popen(command) for _ in range(3)]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    assert all((target / p.name).read_bytes() == p.read_bytes() for p in source.iterdir())


def test_staging_refuses_what_cannot_be(tmp_path):
    assert "is no folder" in stage(tmp_path / "nowhere", tmp_path / "disk").stderr
    source = tmp_path / "set"
    source.mkdir()
    with (source / "huge.tar").open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).free + 10**12)  # a hole, no bytes
    done = stage(source, tmp_path / "disk")
    assert done.returncode == 1 and "has room for" in done.stderr
    assert not (tmp_path / "disk/huge.tar").exists()
