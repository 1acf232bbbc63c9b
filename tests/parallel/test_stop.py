"""Signals: where they end a process, with which code, and that nothing can hold them up."""

import os
import signal
import threading
import time

import pytest

from fastsemi.common.errors import Interrupted
from fastsemi.parallel.stop import SIGNALS, Stop, StopVote, stop_signals


@pytest.fixture(autouse=True)
def terminal():
    """As where a terminal started the tests, and not nohup, under which SIGHUP stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def ended(work, tmp_path):
    """The exit code of a forked process that does `work`, and what it wrote to stderr."""
    said = tmp_path / "said"
    pid = os.fork()
    if not pid:
        with said.open("w") as file:
            os.dup2(file.fileno(), 2)
        code = 1
        try:
            work()
            code = 0
        except Interrupted as stopped:
            code = stopped.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said.read_text()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_what_waits_at_once(number):
    stop = Stop()
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as caught, stop_signals(stop):
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        threading.Event().wait(20)
    assert caught.value.exit_code == 128 + number and stop.number == number


def test_a_block_that_is_held_ends_by_itself_and_its_waits_at_once():
    stop = Stop()
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals(stop), stop.held():
        with pytest.raises(Interrupted), stop.waiting():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        assert StopVote(stop).after_step() == StopVote(stop).now() == signal.SIGTERM
        with stop.waiting():  # it ends one wait; what follows is for the end of the run
            pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_wait_that_begins_after_the_signal_ends_too():
    stop = Stop()
    with stop_signals(stop), stop.held():
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Interrupted, match="SIGUSR1"), stop.waiting():
            pytest.fail("it was waited")


def test_the_time_ends_a_process_whose_main_thread_runs_no_python(tmp_path):
    def work():
        stop = Stop()
        with stop_signals(stop, 0.2), stop.held():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            signal.sigwait([signal.SIGUSR2])  # as a thread in C++: no handler of Python's can run
            time.sleep(60)

    code, said = ended(work, tmp_path)
    assert code == 143
    assert said.count("\n") == 1 and "could not stop within 0.2 s (train.grace_s)" in said


def test_a_second_signal_ends_the_process_and_not_the_one_that_comes_with_the_first(tmp_path):
    def work():
        stop = Stop()
        with stop_signals(stop, before_end=lambda: os.write(2, b"cleaned\n")), stop.held():
            for number in (signal.SIGINT, signal.SIGINT, signal.SIGXCPU):
                os.kill(os.getpid(), number)
            time.sleep(1.5)
            os.kill(os.getpid(), signal.SIGXCPU)  # comes every second
            time.sleep(0.1)
            os.write(2, b"alive\n")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    code, said = ended(work, tmp_path)
    assert code == 130
    assert said.startswith("alive\ncleaned\nfastsemi: SIGTERM after another signal: ended at once")


def test_sigquit_prints_the_stacks_and_changes_nothing(tmp_path):
    def work():
        stop = Stop()
        with stop_signals(stop):
            os.kill(os.getpid(), signal.SIGQUIT)
        assert not stop.is_set()

    code, said = ended(work, tmp_path)
    assert code == 0 and "most recent call first" in said and "test_stop.py" in said


def test_nohup_stays(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Stop()
        with stop_signals(stop):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_was_closed_takes_no_output_and_breaks_nothing(tmp_path):
    def work():
        master, slave = os.openpty()
        os.dup2(slave, 1)
        stop = Stop()
        with stop_signals(stop), stop.held():
            os.kill(os.getpid(), signal.SIGHUP)
            os.close(slave)
            os.close(master)
            os.write(1, b"progress")
        raise Interrupted("stopped", stop.number)

    assert ended(work, tmp_path)[0] == 129
