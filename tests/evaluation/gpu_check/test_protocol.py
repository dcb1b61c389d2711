# SPDX-License-Identifier: Apache-2.0
"""The GPU check's order of business: nothing stops it, the budget holds, and the page is whole after every part."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.gpu_check import parts, resumed_run
from evaluation.gpu_check.protocol import FAIL, PASS, REHEARSAL, SKIP, Finding, Part, PartFailed, Session, check
from tools import gpu_check


def session(folder: Path, budget_s: float = 60.0) -> Session:
    return Session((sys.executable,), "cpu", True, folder, time.monotonic() + budget_s)


def fails(given: Session) -> Finding:
    raise PartFailed("two bits | differ", ["the last line"])


def breaks(given: Session) -> Finding:
    raise KeyError("no such column")


def rows(page: Path) -> dict[str, list[str]]:
    """part -> [result, seconds, what] of the page's first table."""
    lines = page.read_text().split("\n## ")[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    return {name: rest for name, *rest in cells[2:]}


def test_no_part_stops_the_others(tmp_path, capsys) -> None:
    page = tmp_path / "page.md"
    seen = []

    def looks(given: Session) -> Finding:
        seen.append(rows(page))
        return Finding("fine", ["| a |", "|---|", "| 1 |"])

    made = [Part("bad", 1, fails), Part("broken", 1, breaks), Part("none", 1, lambda given: "no GPU"), Part("good", 1, looks)]
    assert not check(made, session(tmp_path), page, "a machine")
    assert {name: row[0] for name, row in rows(page).items()} == {"bad": FAIL, "broken": FAIL, "none": SKIP, "good": PASS}
    assert set(seen[0]) == {"bad", "broken", "none"}, "the page was there before the last part"
    text = page.read_text()
    assert "two bits \\| differ" in text and "the last line" in text and "KeyError" in text and "| 1 |" in text
    assert "1 pass, 2 FAIL, 1 skip\n" in text and "a machine" in text
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert check(made[2:], session(tmp_path), page, "a machine")


def test_what_no_longer_fits_is_skipped_and_the_next_is_tried(tmp_path) -> None:
    made = [Part("long", 100, lambda given: Finding("x")), Part("short", 1, lambda given: Finding("y"))]
    assert check(made, session(tmp_path, 50), tmp_path / "page.md", "t")
    found = rows(tmp_path / "page.md")
    assert found["long"][0] == SKIP and "needs 100 s" in found["long"][2] and found["short"][0] == PASS


def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path) -> None:
    mark = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(4); pathlib.Path({str(mark)!r}).touch()"
    parent = f"import subprocess, sys, time; print('begun', flush=True); subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    with pytest.raises(PartFailed, match="was not done in 2 s"):
        session(tmp_path).output_of(["-c", parent], 2 / REHEARSAL)
    time.sleep(5)
    assert not mark.exists()


def test_a_program_is_ended_when_the_check_is_interrupted(tmp_path, monkeypatch) -> None:
    """It has a session of its own, so that Ctrl-C does not reach it."""
    started, waited = [], []
    start, communicate = Session.start, subprocess.Popen.communicate
    monkeypatch.setattr(Session, "start", lambda *words, **more: started.append(start(*words, **more)) or started[-1])

    def interrupted(process, **more):
        waited.append(process)
        if len(waited) == 1:
            raise KeyboardInterrupt
        return communicate(process, **more)

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session(tmp_path).output_of(["-c", "import time; time.sleep(10_000)"], 10_000)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_program_that_fails_shows_its_last_lines(tmp_path) -> None:
    with pytest.raises(PartFailed, match="ended with status 3") as failed:
        session(tmp_path).output_of(["-c", "import sys; print('why'); sys.exit(3)"], 30)
    assert failed.value.details == ["why"]
    assert session(tmp_path).output_of(["-c", "import os; print(os.environ['A'], os.getcwd())"], 30, tmp_path, A="b") == f"b {tmp_path}\n"


def step_row(**changed: str) -> list[str]:
    cells = {"step ms": "250.0", "GB": "10", "estimate GB": "12.5", "gain": ""} | changed
    return [f"| {' | '.join(cells)} |", "|---|---|---|---|", f"| {' | '.join(cells.values())} |"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "250.0 ms a step, 6000 of them take 25 minutes; peak 10 GB, 0.80 of the estimate"),
        ({"GB": "", "estimate GB": "", "gain": "2.10"}, "2.10 times as fast as made in upstream's way"),
        ({"GB": "14"}, "the estimate is too low"),
    ],
)
def test_a_step_is_judged_by_its_table(tmp_path, monkeypatch, changed, told) -> None:
    printed = "\n".join(["2026-11-28, a GPU", *step_row(**changed)])
    monkeypatch.setattr(Session, "output_of", lambda *args, **options: printed)
    given = session(tmp_path)
    given.is_tiny = False
    part = parts.steps("")
    if "too low" in told:
        with pytest.raises(PartFailed, match=told):
            part.run(given)
    else:
        assert told in part.run(given).summary


def test_a_gpu_without_kernels_fails_the_first_part(tmp_path, monkeypatch) -> None:
    cpu = '{"backend": "cpu", "why_not_cuda": "nvcc was not found"}'
    printed = f'{{"torch": "2", "cuda": "13.0", "rasterizer": {cpu}}}'
    monkeypatch.setattr(Session, "output_of", lambda *args, **options: printed)
    given = session(tmp_path)
    given.device = "cuda"
    with pytest.raises(PartFailed, match="the rasterizer has no CUDA kernels here: nvcc was not found"):
        parts.device(given)


def record(step: int, loss: float) -> dict:
    return {"iteration": step, "loss": loss, "peak_mb": {"main": 5}}


@pytest.mark.parametrize(("loss", "is_same"), [(1.0, True), (1.01, True), (1.5, False)])
def test_a_resumed_run_that_is_another_one_fails(tmp_path, monkeypatch, loss, is_same) -> None:
    before, after = [record(k, 1.0) for k in range(1, 6)], [record(k, loss) for k in range(1, resumed_run.TINY["iterations"] + 1)]
    monkeypatch.setattr(resumed_run, "numbered", lambda folder: [(3, None)])
    monkeypatch.setattr(resumed_run, "_until_step", lambda *args: before)
    monkeypatch.setattr(resumed_run, "read_steps", lambda path: after)
    monkeypatch.setattr(Session, "output_of", lambda *args, **options: "")
    if is_same:
        assert "2 made twice" in resumed_run.continues_as_before(session(tmp_path)).summary
    else:
        with pytest.raises(PartFailed, match="the resumed run is another one"):
            resumed_run.continues_as_before(session(tmp_path))


def test_a_run_that_repeats_no_step_shows_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(resumed_run, "_until_step", lambda *args: [record(1, 1.0)])
    monkeypatch.setattr(resumed_run, "read_steps", lambda path: [record(k, 1.0) for k in range(1, resumed_run.TINY["iterations"] + 1)])
    monkeypatch.setattr(Session, "output_of", lambda *args, **options: "")
    with pytest.raises(PartFailed, match="no step was made twice"):
        resumed_run.continues_as_before(session(tmp_path))


def test_order_and_names() -> None:
    """What everything rests on comes first, and the budget of `make gpu` holds all parts at their least."""
    assert [part.name for part in parts.PARTS][:3] == ["device", "build", "kernels"]
    assert len(set(gpu_check.NAMES)) == len(gpu_check.NAMES) and max(part.needs_s for part in parts.PARTS) < 120


def test_without_a_gpu_it_is_refused_before_anything_is_written(tmp_path, capsys) -> None:
    assert gpu_check.main(["--device", "cuda", "--out", str(tmp_path / "out")]) == 2
    assert "device 'cuda' given" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_rehearsal_of_some_parts_on_the_cpu(tmp_path) -> None:
    assert gpu_check.main(["--device", "cpu", "--size", "tiny", "--out", str(tmp_path), "--only", "device", "agreement"]) == 0
    assert {name: row[0] for name, row in rows(tmp_path / "gpu_check.md").items()} == {"device": PASS, "agreement": PASS}


@pytest.mark.parametrize("budget", ["-5", "0", "nan", "inf"])
def test_a_budget_in_which_nothing_is_tried_is_refused(tmp_path, capsys, budget) -> None:
    from tools import gpu_check

    assert gpu_check.main(["--device", "cpu", "--out", str(tmp_path / "out"), "--budget", budget]) == 2
    assert f"--budget {float(budget)}: expected a number from 1 to" in capsys.readouterr().err and not (tmp_path / "out").exists()
