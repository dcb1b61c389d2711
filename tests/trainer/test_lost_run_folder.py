# SPDX-License-Identifier: Apache-2.0
"""A run folder that is removed or moved while its run works, or whose place another run takes."""

import shutil
from pathlib import Path

import pytest

from tests.trainer.run_folders import CPU, begin, contents, opened, run_json
from trainer.run_folder import RunFolder
from trainer.run_lock import FolderInUse, FolderLost


def working(folder: Path) -> RunFolder:
    """A run folder after its start, as it is while a run works."""
    run = opened(folder, tell=lambda text: None)
    begin(run)
    (folder / "cameras.json").write_text("[1, 2]")
    (folder / "init_points3d.ply").write_bytes(b"points")
    run.started()
    run.keep()  # nothing to do
    return run


REMOVALS = {
    "removed": shutil.rmtree,
    "moved": lambda folder: folder.rename(folder.parent / "moved"),
    "emptied": lambda folder: [path.unlink() for path in folder.iterdir()],
    "unlocked": lambda folder: (folder / "run.lock").unlink(),
}


@pytest.mark.parametrize("how", REMOVALS)
def test_a_folder_that_went_away_is_locked_and_filled_again(tmp_path, how) -> None:
    folder = tmp_path / "run"
    with working(folder) as run:
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("run.json", "run.lock")}
        record = run_json(folder)
        REMOVALS[how](folder)
        run.keep()
        assert run.remade
        assert {name: (folder / name).read_bytes() for name in before} == before
        again = run_json(folder)
        assert len(again.pop("remade_utc")) == 1 and again == record
        with pytest.raises(FolderInUse):
            opened(folder)
        run.finished({"main": 1}, 3)
        assert run_json(folder)["run_id"] == record["run_id"] and "seed" in run_json(folder)
    opened(folder).close()


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_folder_that_another_run_has_taken_is_left_alone(tmp_path, how) -> None:
    """While that run starts, while it works, and after it has ended."""
    folder = tmp_path / "run"
    with working(folder) as run:
        REMOVALS[how](folder)
        with opened(folder), pytest.raises(FolderLost, match=r"was removed or moved while .*; now .* is in use by process"):
            run.keep()
        with working(folder), pytest.raises(FolderLost, match="another run's folder has its place"):
            run.keep()
        before = contents(folder)
        with pytest.raises(FolderLost, match="another run's folder has its place"):
            run.keep()
        assert contents(folder) == before


def test_outputs_that_were_being_written_while_the_folder_went_away_are_its_own(tmp_path) -> None:
    """A writer makes the folder that it misses; rm -rf leaves what comes too late for it."""
    folder = tmp_path / "run"
    with working(folder) as run:
        for late in ("log.jsonl", "chkpnt3.safetensors", "config.yaml"):
            content = (folder / late).read_bytes() if late == "config.yaml" else b"late"
            shutil.rmtree(folder)
            folder.mkdir()
            (folder / late).write_bytes(content)
            run.keep()
            assert run_json(folder)["run_id"] == run.run_id and (folder / late).read_bytes() == content


@pytest.mark.parametrize("left", ["run.json", "config.yaml", "cfg_args"])
def test_a_folder_of_an_earlier_version_or_another_program_is_not_taken(tmp_path, left) -> None:
    folder = tmp_path / "run"
    with working(folder) as run:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / left).write_text("{}")
        with pytest.raises(FolderLost, match="another run's folder has its place"):
            run.keep()
        assert {path.name for path in folder.iterdir()} == {left}


def test_a_folder_that_went_away_while_the_run_started_is_not_written_without_a_lock(tmp_path) -> None:
    """Weights take minutes to load."""
    with opened(tmp_path / "run") as run:
        run.find()
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(ValueError, match="was removed or moved while the run started; start it again"):
            run.begin(CPU)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_again_is_an_error_of_the_disk(tmp_path) -> None:
    with working(tmp_path / "run") as run:
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").write_text("a file where the folder was")
        with pytest.raises(OSError):
            run.keep()
        (tmp_path / "run").unlink()
        run.keep()
    assert (tmp_path / "run" / "cameras.json").read_text() == "[1, 2]"
