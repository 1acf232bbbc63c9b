"""Runs the jobs of a study as processes, several at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastsemi.common.errors import Interrupted
from fastsemi.parallel.stop import Stop, stop_signals
from fastsemi.tools.study.jobs import StageRun

POLL = 0.1  # seconds between two looks at the processes


@dataclass(frozen=True)
class RunnerOptions:
    """How jobs are run.

    Attributes:
        jobs: Processes at a time.
        threads: Threads of each; 0 for the cores divided by the processes.
        devices: Devices dealt to the processes; empty for what the configuration says.
    """

    jobs: int = 1
    threads: int = 0
    devices: tuple[str, ...] = ()

    @property
    def thread_count(self) -> int:
        """Threads of a process, resolved."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.jobs)


@dataclass
class _Running:
    job: StageRun
    slot: int
    process: subprocess.Popen[bytes]
    started: float


class Runner:
    """Runs jobs whose predecessors have finished until none is left.

    A failed job takes those that start from it with it; the others go on.

    Args:
        jobs: All jobs of the study, earlier stages first.
        options: How to run them.
        say: Prints a line.
    """

    def __init__(self, jobs: Sequence[StageRun], options: RunnerOptions, say: Callable[[str], None]):
        self._waiting = [job for job in jobs if not job.result.exists()]
        self._total = len(self._waiting)
        self._options, self._say = options, say
        self._running: list[_Running] = []
        self._done = 0
        self._seconds = 0.0
        self.failed: dict[Path, str] = {}  # reason by run directory

    def run(self) -> None:
        """Run everything.

        Raises:
            Interrupted: A signal asked to stop; the running jobs have saved their checkpoints.
        """
        stop = Stop()
        told = False
        try:
            with stop_signals(stop, before_end=self._kill), stop.held():
                while self._running or (self._waiting and not stop.is_set()):
                    if stop.is_set() and not told:
                        told = True
                        self._say(f"stopping: {len(self._running)} runs save their checkpoints")
                        self._signal(signal.SIGINT)
                    if not stop.is_set():
                        self._start_ready()
                    time.sleep(POLL)
                    self._collect(stop.is_set())
        finally:
            self._kill()
        if stop.is_set():
            raise Interrupted(f"stopped after {self._done} of {self._total} runs", stop.number)

    def _start_ready(self) -> None:
        for job in list(self._waiting):
            if len(self._running) == self._options.jobs:
                return
            if job.before and job.before.folder in self.failed:
                self._waiting.remove(job)
                self.failed[job.folder] = f"not run: stage {job.before.stage} failed"
            elif job.before is None or job.before.result.exists():
                self._waiting.remove(job)
                self._start(job)

    def _start(self, job: StageRun) -> None:
        taken = {running.slot for running in self._running}
        slot = next(i for i in range(self._options.jobs) if i not in taken)
        job.prepare()
        threads = self._options.thread_count
        command = [sys.executable, "-m", "fastsemi.commands.cli", job.stage, "--config", str(job.settings)]
        if not job.config.loader.threads:
            command += ["--loader.threads", str(threads)]
        if self._options.devices:
            command += ["--device", self._options.devices[slot % len(self._options.devices)]]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with job.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the study alone, which passes it on once.
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        self._running.append(_Running(job, slot, process, time.monotonic()))

    def _collect(self, stopping: bool) -> None:
        for running in list(self._running):
            code = running.process.poll()
            if code is None:
                continue
            self._running.remove(running)
            job, seconds = running.job, time.monotonic() - running.started
            if code == 0 and job.result.exists():
                self._done += 1
                self._seconds += seconds
                self._say(f"{self._progress()} {job.folder.name}: finished in {seconds:.0f} s{self._left()}")
            elif not stopping:
                self.failed[job.folder] = _last_line(job.log) or f"exit code {code}"
                self._say(f"{self._progress()} {job.folder.name}: failed: {self.failed[job.folder]}")

    def _progress(self) -> str:
        return f"[{self._done + len(self.failed)}/{self._total}]"

    def _left(self) -> str:
        """Time left, should the remaining runs take as long as those so far did on average."""
        remaining = len(self._waiting) + len(self._running)
        if not remaining:
            return ""
        return f", about {remaining * self._seconds / self._done / self._options.jobs / 60:.0f} min left"

    def _signal(self, number: int) -> None:
        for running in self._running:
            if running.process.poll() is None:
                running.process.send_signal(number)

    def _kill(self) -> None:
        """Leave no process behind, also after a second signal or an error."""
        self._signal(signal.SIGKILL)
        for running in self._running:
            running.process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("fastsemi: error: ") if lines else ""
