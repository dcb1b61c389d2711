# SPDX-License-Identifier: Apache-2.0
"""How every command line starts and ends, in processes of their own; no torch in those."""

import errno
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from utils import program, revision
from utils.revision import code_revision, version_line

ROOT = Path(__file__).resolve().parents[2]
PRINTS = "from utils import program\nprogram.run(lambda argv: [print('line', k) for k in range(10_000)] and 0)"


def _run(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *options.pop("python", ()), "-c", code], cwd=ROOT, timeout=300, **options)


def _without_reader(code: str, **options) -> subprocess.CompletedProcess:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return _run(code, stdout=writer, stderr=subprocess.PIPE, **options)
    finally:
        os.close(writer)


@pytest.mark.parametrize("python", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_nobody_reads(python) -> None:
    result = _without_reader(PRINTS, python=python)
    assert result.returncode == 0 and result.stderr == b""


@pytest.mark.parametrize("python", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_a_full_disk_is_told_and_is_a_failure(python) -> None:
    with open("/dev/full", "wb") as disk:
        result = _run(PRINTS, python=python, stdout=disk, stderr=subprocess.PIPE)
    assert result.returncode == 1 and b"could not be printed (No space left on device)" in result.stderr
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize("python", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_every_line_arrives(python) -> None:
    result = _run(PRINTS, python=python, stdout=subprocess.PIPE)
    assert result.stdout.decode() == "".join(f"line {k}\n" for k in range(10_000))


def test_a_pipe_that_does_not_block_gets_everything() -> None:
    """Another program may have set its end of a terminal or pipe so."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen([sys.executable, "-c", PRINTS], cwd=ROOT, stdout=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read().count(b"\n") == 10_000
    assert process.wait(300) == 0


def test_an_error_is_printed_in_full_and_keeps_its_status() -> None:
    result = _run("from utils import program\nprogram.run(lambda argv: 1 / 0)", stderr=subprocess.PIPE)
    assert result.returncode == 1 and b"ZeroDivisionError" in result.stderr


def test_an_interrupt_leaves_no_stack() -> None:
    code = "import os, signal\nfrom utils import program\nprogram.run(lambda argv: os.kill(os.getpid(), signal.SIGINT))"
    result = _run(code, stderr=subprocess.PIPE)
    assert result.returncode == 130 and result.stderr == b"-c: interrupted\n"


@pytest.mark.parametrize("start", ["program.start()", "program.start(); program.start()", ""])
def test_an_interrupted_main_cleans_up(tmp_path, start) -> None:
    """From `run` on, SIGINT is an exception again: temporary folders go, `finally` runs."""
    code = (
        f"import os, signal, sys, tempfile\nfrom utils import program\n{start}\ndef main(argv):\n"
        "    with tempfile.TemporaryDirectory(dir=argv[0]):\n        os.kill(os.getpid(), signal.SIGINT)\nprogram.run(main)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (130, b"-c: interrupted\n") and list(tmp_path.iterdir()) == []


def test_start_up_of_training_outlasts_run() -> None:
    """Until StopSignals takes the signals."""
    code = "import os, signal\nfrom utils import program\nprogram.start_training()\nprogram.run(lambda argv: os.kill(os.getpid(), 15))"
    result = _run(code, stderr=subprocess.PIPE)
    assert result.returncode == 75 and b"before the first step; run the same command again" in result.stderr


def test_a_signal_after_the_end_changes_no_status() -> None:
    code = (
        "import atexit, os, signal\nfrom utils import program\n"
        "atexit.register(lambda: [os.kill(os.getpid(), number) for number in (2, 15, 1, 10)])\nprogram.run(lambda argv: 2)"
    )
    assert _run(code).returncode == 2


def test_a_stream_is_guarded_once() -> None:
    code = "import sys\nfrom utils import program\nprogram.start()\nout = sys.stdout\nprogram.start()\nprint(out is sys.stdout)"
    assert _run(code, stdout=subprocess.PIPE).stdout == b"True\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGUSR2, 75)])
def test_a_signal_during_the_imports_of_training_ends_them(number, status) -> None:
    """An exception could be caught by whatever is being imported; the process exits instead."""
    code = (
        "import os\nfrom utils import program\nprogram.start_training()\n"
        f"try:\n    os.kill(os.getpid(), {int(number)})\nexcept BaseException:\n    pass\nprint('went on')"
    )
    result = _run(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    told = f"-c: Received {signal.Signals(number).name} during start-up, before the first step; run the same command again\n"
    assert (result.returncode, result.stdout, result.stderr.decode()) == (status, b"", told)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)], ids=str)
def test_streams_that_are_closed_from_the_start(tmp_path, closed) -> None:
    """A file that is opened later does not get their numbers, so nothing that is printed lands in it."""
    code = (
        "import os, sys\nfrom utils import program\nprogram.start()\nfile = open('file', 'w')\nassert file.fileno() > 2\n"
        "print('out')\nprint('err', file=sys.stderr)\nos.system('echo child')"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    close = lambda: [os.close(descriptor) for descriptor in closed]  # noqa: E731
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, preexec_fn=close, **pipes)
    assert result.returncode == 0 and (tmp_path / "file").read_bytes() == b""
    assert (b"out" in result.stdout) == (1 not in closed) and (b"err" in result.stderr) == (2 not in closed)


def test_a_name_that_the_terminal_cannot_show() -> None:
    code = "from utils import program\nprogram.run(lambda argv: print('k\xe4se \\udc80'))"
    result = _run(code, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0 and result.stdout == b"k\\xe4se \\udc80\n"


@pytest.mark.parametrize(
    ("name", "typed", "told"),
    [
        ("train.py", "/a/train.py", "train.py"),
        ("train.py", "/bin/cograd3d-train", "cograd3d-train"),
        ("export", "/a/tools/export.py", "export"),
        ("export", "/bin/cograd3d-export", "cograd3d-export"),
        ("train.py", "/bin/cograd3d-reproduce", "train.py"),  # the runs of a sweep
    ],
)
def test_messages_name_the_command_that_was_typed(monkeypatch, capsys, name, typed, told) -> None:
    @program.refuses(name, ValueError)
    def main(argv: list[str]) -> int:
        raise ValueError(f"{argv[0]} is wrong")

    monkeypatch.setattr(sys, "argv", [typed])
    assert main(["x"]) == program.REFUSED and capsys.readouterr().err == f"{told}: x is wrong\n"


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_the_place_of_a_folder_is_said_in_words(tmp_path, capsys, below) -> None:
    @program.refuses("export", OSError)
    def main(argv: list[str]) -> int:
        (tmp_path / "file" / below).mkdir(parents=True, exist_ok=True)
        return 0

    (tmp_path / "file").write_text("")
    told = f"{tmp_path / 'file' / below}: a file is in the place of a folder; give another path."
    assert main([]) == program.REFUSED and capsys.readouterr().err == f"export: {told}\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9.1 TiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("bad allocation: std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 TiB"),
        RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ..."),
    ],
    ids=lambda error: str(error)[:24],
)
def test_too_little_memory_and_a_failed_device_are_a_line_of_the_machine(capsys, error) -> None:
    @program.refuses("export", ValueError, OSError)
    def main(argv: list[str]) -> int:
        raise error

    assert main([]) == program.STOPPED
    (line,) = capsys.readouterr().err.splitlines()
    failed = "illegal" in str(error)
    assert line.startswith(f"export: {'the device failed' if failed else 'out of memory'} ({str(error).splitlines()[0]}")
    assert line.endswith("; run it again." if failed else "; end other programs, or request less.")


def test_other_errors_are_not_the_users() -> None:
    @program.refuses("export", ValueError)
    def main(argv: list[str]) -> int:
        raise KeyError(argv[0])

    with pytest.raises(KeyError):
        main(["x"])


@pytest.mark.parametrize("start", ["start", "start_training"])
def test_version_is_answered_where_it_is_this_programs_word(start) -> None:
    code = f"from utils import program\nprogram.{start}()\nprint('begun')"
    run = lambda *words: subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)  # noqa: E731
    assert run("a", "--version").stdout == f"{version_line()}\n"
    assert run("a", "--", "--version").stdout == "begun\n"


def test_version_and_revision(tmp_path, monkeypatch) -> None:
    assert version_line() == f"cograd3d {tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}, revision {code_revision()}"
    monkeypatch.setattr(revision, "ROOT", tmp_path)  # as installed: neither pyproject.toml nor .git
    monkeypatch.setattr(revision.metadata, "version", lambda name: f"1.2 of {name}")
    assert version_line() == "cograd3d 1.2 of cograd3d, revision unknown"


def test_words_after_two_dashes_are_for_another_program() -> None:
    assert program.split_at_dashes(["a", "--", "b", "--", "c"]) == (["a"], ["b", "--", "c"])
    assert program.split_at_dashes(["a"]) == (["a"], [])
