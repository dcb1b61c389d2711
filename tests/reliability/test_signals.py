# SPDX-License-Identifier: Apache-2.0
"""Every signal that by default ends a process, and what a run does with it."""

import os
import signal
import subprocess

import pytest

import train
from arguments.exit_codes import FINISHED, INTERRUPTED, KILLED
from tests.reliability.crash import words
from tests.reliability.hooks import at_step
from tests.reliability.processes import PLAIN, ended, forked, started
from tests.reliability.same_run import log_lines
from trainer.checkpoints import numbered
from utils.stop_signals import REAL_TIME, SIGNALS, name_of

TINY = PLAIN | {"iterations": 3}
END_AT_ONCE = [signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP]
FAILED_WRITES = [signal.SIGPIPE, signal.SIGXFSZ]
NOT_ENDING = {
    signal.SIGCHLD, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGURG, signal.SIGWINCH,
}  # fmt: skip


def test_every_signal_is_decided_upon() -> None:
    decided = {*SIGNALS, *END_AT_ONCE, *FAILED_WRITES, signal.SIGKILL}
    assert decided == signal.valid_signals() - NOT_ENDING


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, REAL_TIME[0]], ids=name_of)
def test_a_signal_stops_the_run_after_its_step(tmp_path, monkeypatch, capsys, number) -> None:
    """tests/utils/test_stop_signals.py has all of SIGNALS."""
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), number))
    assert train.main(words(tmp_path / "run", **TINY)) == INTERRUPTED
    told = f"train.py: Received {name_of(number)}; stopped after step 2. Resume with --resume {tmp_path / 'run'}"
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert numbered(tmp_path / "run")[0][0] == 2 == len(log_lines(tmp_path / "run"))


@pytest.mark.parametrize("number", FAILED_WRITES, ids=name_of)
def test_a_signal_of_a_failed_write_is_ignored(tmp_path, monkeypatch, number) -> None:
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), number))
    assert train.main(words(tmp_path / "run", **TINY)) == FINISHED


def _killed(folder, number: int) -> None:
    monkeypatch = pytest.MonkeyPatch()
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), number))
    train.main(words(folder, checkpoint_every=1, **TINY))


def test_no_signal_of_a_fault_is_handled(tmp_path, monkeypatch) -> None:
    """Each is at its default in the middle of a run, whose effect is tried with one of them."""
    handlers = {}
    at_step(monkeypatch, 2, lambda: handlers.update({number: signal.getsignal(number) for number in END_AT_ONCE}))
    assert train.main(words(tmp_path / "run", **TINY)) == FINISHED
    assert handlers == dict.fromkeys(END_AT_ONCE, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL], ids=name_of)
def test_a_signal_of_a_fault_ends_it_at_once(tmp_path, number) -> None:
    """The last checkpoint is whole."""
    assert forked(_killed, tmp_path / "run", int(number)) == -number
    assert [step for step, _ in numbered(tmp_path / "run")] == [1]


def test_nohup_is_respected(tmp_path, monkeypatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert train.main(words(tmp_path / "run", **TINY)) == FINISHED
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_signals_after_the_first_change_nothing(tmp_path, monkeypatch, capsys) -> None:
    """A scheduler and torchrun may both send theirs; Ctrl-C once more is what ends it at once."""

    def send() -> None:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)

    at_step(monkeypatch, 2, send)
    assert train.main(words(tmp_path / "run", **TINY)) == INTERRUPTED
    assert "Received SIGTERM; stopped after step 2" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=name_of)
def test_a_signal_in_the_last_step_lets_the_run_finish(tmp_path, monkeypatch, number) -> None:
    """Its outputs are written, and the status says that it is finished."""
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), number))
    assert train.main(words(tmp_path / "run", **TINY | {"save_process": True})) == FINISHED
    assert (tmp_path / "run" / "process_videos" / "video_rgb.mp4").is_file()


@pytest.mark.parametrize(
    ("number", "module", "status"),
    [
        (signal.SIGINT, "numpy", KILLED),
        (signal.SIGINT, "toy.ideal", KILLED),
        (signal.SIGTERM, "torch._C", INTERRUPTED),
        (signal.SIGUSR1, "toy.ideal", INTERRUPTED),
    ],
    ids=lambda value: value if isinstance(value, str) else name_of(value) if value in SIGNALS else "",
)
def test_a_signal_during_start_up(tmp_path, number, module, status) -> None:
    """It is sent when the module has been imported; toy.ideal is, after the run folder is made."""
    process = started(tmp_path / "run", "-X", "importtime", settings={"iterations": 10_000}, stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if line.split(b"|")[-1].strip() == module.encode():
            break
    process.send_signal(number)
    _, _, err = ended(process)
    told = [line for line in err.splitlines() if not line.startswith("import time:")]
    words_told = f"train.py: Received {name_of(number)} during start-up, before the first step; run the same command again"
    assert (process.returncode, told) == (status, [words_told])


def test_a_file_too_large_is_a_failed_write(tmp_path) -> None:
    """SIGXFSZ of `ulimit -f`: the checkpoint and the video do not fit, the training continues."""

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    settings = {"init_num_pts": 2000, "iterations": 3}
    status, out, err = ended(started(tmp_path / "run", settings=settings, preexec_fn=limit, stdout=-1, stderr=-1))
    assert status == 1 and "step 3 is done, but not all could be written" in err, err
    assert "checkpoint could not be written" in out and "File too large" in out
    assert len(log_lines(tmp_path / "run")) == 3
