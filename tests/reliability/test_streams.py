# SPDX-License-Identifier: Apache-2.0
"""Standard streams that cannot be written end no program: a terminal that was closed, `| head`, a full disk."""

import os
import pty
import subprocess

from arguments.exit_codes import FINISHED, STOPPED
from tests.patience import PATIENCE_S
from tests.reliability.processes import PLAIN, ended, started
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
    assert process.wait(PATIENCE_S) == FINISHED and _is_whole(tmp_path / "run")


def test_a_full_disk_behind_the_streams_is_no_end(tmp_path) -> None:
    with open("/dev/full", "wb") as disk:
        status, _, err = ended(started(tmp_path / "run", stdout=disk, stderr=subprocess.PIPE))
    assert status == FINISHED and _is_whole(tmp_path / "run")
    assert "the output could not be printed (No space left on device)" in err and "Traceback" not in err


def test_streams_that_are_closed_from_the_start(tmp_path) -> None:
    """As `<&- >&- 2>&-`. No file of the run may get the number of a stream, or what is printed lands in it."""

    def close() -> None:
        for descriptor in (0, 1, 2):
            os.close(descriptor)

    assert started(tmp_path / "run", preexec_fn=close).wait(PATIENCE_S) == FINISHED
    assert _is_whole(tmp_path / "run")


def test_a_terminal_that_is_closed(tmp_path) -> None:
    """Of a process that hears no SIGHUP, as under nohup or in another session: its writes give EIO."""
    ours, theirs = pty.openpty()
    process = started(tmp_path / "run", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    assert process.wait(PATIENCE_S) == FINISHED and _is_whole(tmp_path / "run")


def test_the_output_that_was_asked_for_is_missed(tmp_path) -> None:
    """--dry-run prints its result, and has failed when that is not there."""
    with open("/dev/full", "wb") as disk:
        status, _, err = ended(started(tmp_path / "run", settings={"dry_run": True}, stdout=disk, stderr=subprocess.PIPE))
    assert status == STOPPED and err.endswith("\ntrain.py: the output could not be printed (No space left on device)\n")
