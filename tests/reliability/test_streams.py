# SPDX-License-Identifier: Apache-2.0
"""Standard streams that cannot be written end no program: a terminal that was closed, `| head`, a full disk."""

import os
import pty
import subprocess
import sys

import pytest

from arguments.exit_codes import FINISHED
from tests.reliability.crash import ROOT
from tests.reliability.processes import LIMIT_S, PLAIN, ended, started
from tests.reliability.same_run import log_lines


def _is_whole(folder) -> bool:
    cloud = folder / "point_cloud" / f"iteration_{PLAIN['iterations']}" / "point_cloud.ply"
    return len(log_lines(folder)) == PLAIN["iterations"] and cloud.is_file()


def test_a_reader_that_goes_away_is_not_missed(tmp_path) -> None:
    """As `2>&1 | head -c 60`."""
    process = started(tmp_path / "run", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    process.stdout.read(60)
    process.stdout.close()
    assert process.wait(LIMIT_S) == FINISHED and _is_whole(tmp_path / "run")


@pytest.mark.parametrize("full", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="+".join)
def test_a_full_disk_behind_a_stream_is_no_end(tmp_path, full) -> None:
    with open("/dev/full", "wb") as disk:
        streams = {name: disk if name in full else subprocess.PIPE for name in ("stdout", "stderr")}
        status, out, err = ended(started(tmp_path / "run", **streams))
    assert status == FINISHED and _is_whole(tmp_path / "run")
    assert "The scene is in" in out or "stdout" in full
    assert "stderr" in full or ("No space left on device" in err) == ("stdout" in full)
    assert "Traceback" not in out + err


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_streams_that_are_closed_from_the_start(tmp_path, closed) -> None:
    """As `>&-`. No file of the run may get the number of a stream, or what is printed lands in it."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    process = started(tmp_path / "run", stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=close)
    status, out, err = ended(process)
    assert status == FINISHED and _is_whole(tmp_path / "run"), err
    assert ("The scene is in" in out) == (1 not in closed) and "Traceback" not in err


def test_a_terminal_that_is_closed(tmp_path) -> None:
    """Of a process that hears no SIGHUP, as under nohup or in another session: its writes give EIO."""
    ours, theirs = pty.openpty()
    process = started(tmp_path / "run", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    assert process.wait(LIMIT_S) == FINISHED and _is_whole(tmp_path / "run")


def test_a_name_that_the_terminal_cannot_show(tmp_path) -> None:
    options = {"env": {"PYTHONIOENCODING": "ascii"}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    status, out, err = ended(started(tmp_path / "käse", **options))
    assert status == FINISHED and "k\\xe4se" in out and _is_whole(tmp_path / "käse"), err


def _tool(*argv: str, **streams) -> tuple[int, str, str]:
    process = subprocess.Popen([sys.executable, *argv], cwd=ROOT, **streams)
    return ended(process)


def test_the_output_that_was_asked_for_is_missed(tmp_path) -> None:
    """What prints its result has failed when that is not there; with `| head` it has not."""
    words = ["train.py", "--dry-run"]
    with open("/dev/full", "wb") as disk:
        status, _, err = _tool(*words, stdout=disk, stderr=subprocess.PIPE)
    assert status == 1 and err == "train.py: the output could not be printed (No space left on device)\n"
    reader, writer = os.pipe()
    os.close(reader)
    status, _, err = _tool(*words, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert status == FINISHED and err == ""
