# SPDX-License-Identifier: Apache-2.0
"""tools/clean.py and trainer/disk_use.py: only what a finished run needs no more, and only when told so."""

import json
import os
from pathlib import Path

import pytest

from tests.trainer.run_folders import begin, contents, earlier_run, opened, run_json
from tools import clean
from tools.clean import main
from trainer.disk_use import disk_use, free
from trainer.run_lock import FolderInUse, RunLock
from utils.general_utils import atomic_path
from utils.tree_file import save_tree


def run_folder(folder: Path, finished: bool = True, **settings: object) -> Path:
    """Checkpoints of steps 3, 6 and 9 with 1000, 2000 and 3000 bytes, a cloud, an export."""
    for name, size in {"chkpnt3": 1000, "chkpnt6": 2000, "chkpnt9": 3000}.items():
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (folder / "export").mkdir()
    (folder / "export" / "mug.glb").write_bytes(b"x" * 500)
    (folder / "point_cloud" / "iteration_9").mkdir(parents=True)
    (folder / "point_cloud" / "iteration_9" / "point_cloud.ply").write_bytes(b"x" * 70)
    (folder / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    (folder / "run.json").write_text(json.dumps({"run_id": "a", **({"finished_utc": "2026", "steps": 9} if finished else {})}))
    return folder


def test_a_run_that_is_named_twice_counts_once(tmp_path, capsys, monkeypatch) -> None:
    run_folder(tmp_path / "runs" / "mug")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert main(["runs", str(tmp_path / "runs"), "runs/../runs/mug", "link"]) == 0
    told = capsys.readouterr().out
    assert told.count("finished") == 1 and "0.0 MB can go" in told


@pytest.mark.parametrize("error", [FolderInUse("b is in use by process 5"), PermissionError(13, "Read-only", "b")])
def test_a_run_that_cannot_be_cleaned_keeps_no_other_from_it(tmp_path, capsys, monkeypatch, error) -> None:
    runs = [run_folder(tmp_path / name) for name in "abc"]

    def refuse(run: Path, with_exports: bool) -> int:
        if run == runs[1]:
            raise error
        return free(run, with_exports)

    monkeypatch.setattr(clean, "free", refuse)
    assert main([str(tmp_path), "--delete"]) == 2
    told = capsys.readouterr()
    assert told.err == f"clean: {error}\n" and "0.0 MB were removed" in told.out
    assert ["chkpnt9.safetensors" in names(run) for run in runs] == [False, True, False]


def test_an_export_in_the_making_is_left_to_its_program(tmp_path) -> None:
    run = run_folder(tmp_path / "mug")
    (run / "export" / ".old.glb.abcd_123.part").write_text("of a killed process")
    with atomic_path(run / "export" / "new.glb") as temporary:
        temporary.write_text("whole")
        assert main([str(run), "--exports", "--delete"]) == 0
    assert names(run / "export") == {"new.glb"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("finished", "settings", "gone"),
    [
        (True, {}, {3, 6, 9}),
        (True, {"keep_last_checkpoint": "false"}, {3, 6, 9}),
        (True, {"checkpoint_iterations": "[3, 6]"}, {9}),
        (True, {"keep_last_checkpoint": "true"}, set()),
        (True, {"checkpoint_iterations": "rubbish"}, set()),
        (True, {"- no": "settings: ["}, set()),
        (False, {}, set()),
    ],
)
def test_checkpoints_go_that_nobody_asked_for_and_only_with_delete(tmp_path, capsys, finished, settings, gone) -> None:
    run = run_folder(tmp_path / "runs" / "mug", finished, **settings)
    before = contents(run)
    sizes = {3: 1000, 6: 2000, 9: 3000}
    freed = sum(sizes[k] for k in gone)
    assert main([str(tmp_path)]) == 0 and contents(run) == before
    told = capsys.readouterr().out
    total = sum(len(content) for content in before.values())
    assert f"{total / 1e6:9.1f} {freed / 1e6:10.1f}  {'finished' if finished else 'unfinished'}" in told and str(run) in told
    assert disk_use(run).removable_bytes == freed and disk_use(run).total_bytes == total
    assert main([str(tmp_path), "--delete"]) == 0
    left = {path.name: content for path, content in contents(run).items()}
    assert left == {path.name: content for path, content in before.items() if path.name not in {f"chkpnt{k}.safetensors" for k in gone}}
    assert not (run / "run.lock").exists()


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_in_progress_is_left_alone(tmp_path, capsys, finished) -> None:
    run = run_folder(tmp_path / "mug", finished)
    lock = RunLock(run)
    before = contents(run)
    assert main([str(run), "--delete", "--exports"]) == 0
    assert "in use" in capsys.readouterr().out and contents(run) == before
    with pytest.raises(FolderInUse, match="in use by process"):
        free(run)
    assert contents(run) == before
    lock.release()


def test_a_run_that_is_continued_is_unfinished_again(tmp_path) -> None:
    run = tmp_path / "mug"
    earlier_run(run, finished=True)
    (run / "point_cloud" / "iteration_1").mkdir()
    (run / "point_cloud" / "iteration_1" / "point_cloud.ply").write_text("the scene")
    save_tree(run / "chkpnt1.safetensors", {"run": {"id": run_json(run)["run_id"]}})
    assert disk_use(run).removable == (run / "chkpnt1.safetensors",)
    with opened(run, "--resume", "auto", tell=lambda text: None) as folder:
        begin(folder)
    assert disk_use(run).state == "unfinished" and free(run) == 0


@pytest.mark.parametrize("cloud", ["point_cloud.ply", "point_cloud.ply.xz"])
def test_exports_go_when_asked_for(tmp_path, cloud) -> None:
    run = run_folder(tmp_path / "mug")
    scene = run / "point_cloud" / "iteration_9" / "point_cloud.ply"
    scene.rename(scene.with_name(cloud))
    assert main([str(run), "--exports", "--delete"]) == 0
    assert names(run) == {cloud, "config.yaml", "run.json"}


def test_links_are_not_followed(tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.glb").write_bytes(b"x" * 100)
    run = run_folder(tmp_path / "runs" / "mug")
    (run / "export" / "mug.glb").unlink()
    (run / "export").rmdir()
    (run / "export").symlink_to(elsewhere)
    (tmp_path / "runs" / "again").symlink_to(run)
    assert disk_use(run, with_exports=True).total_bytes == sum(map(len, contents(run).values()))
    assert main([str(tmp_path / "runs"), "--exports", "--delete"]) == 0
    assert (elsewhere / "precious.glb").exists() and not list(run.glob("chkpnt*"))


@pytest.mark.parametrize("odd", ["pipe", "folder", "link", "none"])
def test_an_odd_folder_holds_up_nothing_and_keeps_what_is_no_checkpoint(tmp_path, odd) -> None:
    run, other = run_folder(tmp_path / "a"), run_folder(tmp_path / "b ü")
    (run / "chkpnt9.safetensors").unlink()
    (run / "chkpnt9.safetensors").mkdir()
    (tmp_path / "precious").write_text("x")
    (run / "chkpnt12.safetensors").symlink_to(tmp_path / "precious")
    config = run / "config.yaml"
    config.unlink()
    {"pipe": lambda: os.mkfifo(config), "folder": config.mkdir, "link": lambda: config.symlink_to("gone"), "none": lambda: 0}[odd]()
    assert main([str(tmp_path), "--delete"]) == 0
    assert {path.name for path in run.glob("chkpnt*")} == {f"chkpnt{k}.safetensors" for k in (3, 6, 9, 12)}
    config.rmdir() if config.is_dir() else config.unlink(missing_ok=True)
    config.write_text("seed: 0\n")
    assert main([str(tmp_path), "--delete"]) == 0
    assert {path.name for path in run.glob("chkpnt*")} == {"chkpnt9.safetensors", "chkpnt12.safetensors"}
    assert not list(other.glob("chkpnt*")) and (tmp_path / "precious").exists()


def test_what_is_no_folder_is_refused(tmp_path, capsys) -> None:
    assert main([str(tmp_path / "gone")]) == 2
    assert "gone is not a folder; give a run folder" in capsys.readouterr().err
