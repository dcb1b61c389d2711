# SPDX-License-Identifier: Apache-2.0
"""Who may write in a run folder, and what happens to that which is there."""

import errno
import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from arguments.load import load_config
from tests.trainer.run_folders import begin, contents, earlier_run, opened, run_json
from trainer.run_folder import RunFinished, RunFolder
from trainer.run_lock import FolderInUse
from utils.general_utils import atomic_path
from utils.tree_file import save_tree


def checkpoint(folder: Path, step: int, **run: str) -> dict:
    """A checkpoint of the folder's run, or of another one."""
    tree = {"run": run or {"id": run_json(folder)["run_id"]}, "a": 1}
    save_tree(folder / f"chkpnt{step}.safetensors", tree)
    return tree


def test_a_second_run_is_refused_while_the_first_works(tmp_path) -> None:
    with opened(tmp_path), pytest.raises(FolderInUse, match="in use by process"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch) -> None:
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    told: list[str] = []
    with opened(tmp_path, tell=told.append) as run:
        begin(run)
    assert told == [f"the file system of {tmp_path} has no locks: nothing stops a second run in the same folder"]


@pytest.mark.parametrize("finished", [False, True])
def test_an_earlier_run_is_not_overwritten_unasked(tmp_path, finished) -> None:
    earlier_run(tmp_path, finished=finished)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.name != "run.lock"}
    kind, hint = ("a finished", "its steps are done") if finished else ("an earlier", "--resume auto continues it")
    with (
        opened(tmp_path) as run,
        pytest.raises(ValueError, match=rf"holds {kind} run, started 2.*: {hint}, --overwrite .*--model_path"),
    ):
        begin(run)
    assert {path: path.read_bytes() for path in before} == before


def test_overwrite_removes_what_a_run_leaves_and_nothing_else(tmp_path) -> None:
    earlier_run(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    (tmp_path / "videos").symlink_to(elsewhere)
    (tmp_path / "notes.txt").write_text("mine")
    with opened(tmp_path, "--overwrite") as run:
        assert begin(run) is None
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.yaml",
        "cfg_args",
        "run.json",
        "run.lock",
        "notes.txt",
        "elsewhere",
    }
    assert (elsewhere / "precious").read_text() == "kept"


def test_points_that_the_user_gave_stay(tmp_path) -> None:
    (tmp_path / "init_points3d.ply").write_text("given")
    with opened(tmp_path) as run:
        begin(run)
    (tmp_path / "log.jsonl").write_text("{}\n")
    with opened(tmp_path, "--overwrite") as run:
        begin(run)
    assert (tmp_path / "init_points3d.ply").read_text() == "given"


def test_points_sampled_by_a_start_that_failed_are_not_taken_for_the_users(tmp_path) -> None:
    """The run ended before its first step, at the weights perhaps; the next one may have another init_shape."""
    with opened(tmp_path) as run:
        begin(run)
        (tmp_path / "init_points3d.ply").write_text("sampled")
    with opened(tmp_path) as run:
        begin(run)
    assert not (tmp_path / "init_points3d.ply").exists()
    assert json.loads((tmp_path / "run.json").read_text())["initial_points"] == "sampled"


def test_what_is_not_a_runs_is_not_cleared(tmp_path) -> None:
    (tmp_path / "point_cloud").mkdir()
    with opened(tmp_path, "--overwrite") as run, pytest.raises(ValueError, match=r"holds no run\.json"):
        begin(run)
    assert (tmp_path / "point_cloud").is_dir()


def test_a_checkpoint_in_the_folder_cannot_begin_the_run_that_clears_it(tmp_path) -> None:
    earlier_run(tmp_path)
    start = str(tmp_path / "chkpnt1.safetensors")
    save_tree(Path(start), {})
    run = opened(tmp_path, "--overwrite", "--start_checkpoint", start)
    with run, pytest.raises(ValueError, match=r"chkpnt1\.safetensors is in .*, which --overwrite clears"):
        begin(run)
    assert Path(start).exists()


def test_auto_begins_anew_before_the_first_checkpoint_but_spares_a_finished_run(tmp_path) -> None:
    told: list[str] = []
    with opened(tmp_path / "new", "--resume", "auto") as run:
        assert begin(run) is None
    earlier_run(tmp_path / "cut")
    with opened(tmp_path / "cut", "--resume", "auto", tell=told.append) as run:
        assert begin(run) is None
    assert len(told) == 1 and "ended before its first checkpoint; it starts again" in told[0]
    assert not (tmp_path / "cut" / "log.jsonl").exists()
    earlier_run(tmp_path / "done", steps=3, finished=True)
    before = contents(tmp_path / "done")
    for iterations in ("3", "2"):
        told = pytest.raises(RunFinished, match=r"done is finished: its 3 steps are done, and its scene is in .*point_cloud$")
        with opened(tmp_path / "done", "--resume", "auto", "--iterations", iterations) as run, told:
            begin(run)
    told = pytest.raises(ValueError, match=r"3 steps are done.* trained to step 4: view or export .* --keep_last_checkpoint true")
    with opened(tmp_path / "done", "--resume", "auto", "--iterations", "4") as run, told:
        begin(run)
    assert contents(tmp_path / "done") == before


def test_auto_goes_on_and_removes_what_was_half_written(tmp_path) -> None:
    earlier_run(tmp_path)
    tree = checkpoint(tmp_path, 5)
    for half in (tmp_path / ".chkpnt9.safetensors.abcdefgh.part", tmp_path / "point_cloud" / ".p.ply.12345_78.part"):
        half.write_text("half")
    with opened(tmp_path, "--resume", "auto") as run:
        path, found = begin(run)
    assert path.name == "chkpnt5.safetensors" and found == tree and not list(tmp_path.rglob("*.part"))
    record = json.loads((tmp_path / "run.json").read_text())
    assert [entry["from"] for entry in record["resumed"]] == ["chkpnt5.safetensors"]
    assert (tmp_path / "point_cloud" / "p.ply").read_text() == "cloud"


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"started_utc": ' + "[" * 5000])
def test_a_damaged_record_is_no_hindrance(tmp_path, text) -> None:
    earlier_run(tmp_path)
    tree = checkpoint(tmp_path, 5)
    (tmp_path / "run.json").write_text(text)
    (tmp_path / "config.yaml").write_text(": :")
    with opened(tmp_path, "--resume", "auto") as run:
        assert begin(run)[0].name == "chkpnt5.safetensors"
    assert run_json(tmp_path)["run_id"] == tree["run"]["id"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"cannot be written .*--model_path"):
        opened(tmp_path / "run")


def test_a_file_where_the_folder_should_be(tmp_path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .*--model_path"):
        opened(tmp_path / "run")


def test_resume_takes_the_settings_of_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunFolder(load_config(["--text", "a mug", "--workspace", "mug", "--iterations", "77"])) as run:
        begin(run)
    for name in ("mug", "output/mug", str(tmp_path / "output" / "mug")):
        config = load_config(["--resume", name, "--quiet"])
        assert config.guidance.text == "a mug" and config.optimization.iterations == 77 and config.quiet
        assert config.output_dir.resolve() == (tmp_path / "output" / "mug").resolve()
        assert config.model.model_path == "" and config.model.workspace == "mug"  # fed back, it is another run's


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume", "nowhere"], "resume = 'nowhere': expected auto, or the folder of a run, which holds config.yaml"),
        (["--resume", "{run}", "--opt", "x.yaml"], "opt = 'x.yaml': expected none, the run's config.yaml is read"),
        (["--resume", "{run}", "--model_path", "x"], "ModelParams.model_path = 'x': expected none, for --resume continues in"),
        (["--resume", "{run}", "--workspace", "x"], "ModelParams.workspace = 'x': expected none, for --resume continues in"),
        (["--resume", "{run}", "--overwrite"], "overwrite = true: expected false with --resume"),
    ],
)
def test_what_resume_cannot_mean_is_told(tmp_path, flags, message) -> None:
    with opened(tmp_path) as run:
        begin(run)
    with pytest.raises(ValueError) as caught:
        load_config([flag.format(run=tmp_path) for flag in flags])
    assert message in str(caught.value) and len(caught.value.problems) == 1


def test_a_checkpoint_of_another_run_is_refused_and_nothing_is_changed(tmp_path) -> None:
    """Its own older one does not help: who copied the file there meant something by it."""
    earlier_run(tmp_path / "own")
    earlier_run(tmp_path / "other")
    checkpoint(tmp_path / "own", 5)
    shutil.copy(saved(tmp_path / "other", 9), tmp_path / "own")
    before = contents(tmp_path / "own")
    with opened(tmp_path / "own", "--resume", "auto") as run, pytest.raises(ValueError) as caught:
        run.find()
    assert re.search(r"chkpnt9\.safetensors is a checkpoint of run \w+, but run\.json in its folder is of run \w+: start from it with --start_checkpoint ", str(caught.value))
    assert contents(tmp_path / "own") == before


@pytest.mark.parametrize("record", [None, '{"started_utc": "earlier"}'])
def test_a_checkpoint_in_a_folder_that_knows_no_id_is_refused(tmp_path, record) -> None:
    """An empty folder that it was copied to; one whose run.json has lost it."""
    earlier_run(tmp_path / "other")
    (tmp_path / "own").mkdir()
    if record is not None:
        (tmp_path / "own" / "run.json").write_text(record)
    shutil.copy(saved(tmp_path / "other", 9), tmp_path / "own")
    with opened(tmp_path / "own", "--resume", "auto") as run, pytest.raises(ValueError, match="--start_checkpoint"):
        run.find()


def test_a_copied_run_folder_is_continued(tmp_path) -> None:
    earlier_run(tmp_path / "own")
    checkpoint(tmp_path / "own", 5)
    shutil.copytree(tmp_path / "own", tmp_path / "copy")
    with opened(tmp_path / "copy", "--resume", "auto") as run:
        assert begin(run)[0].name == "chkpnt5.safetensors"


def test_partial_files_of_a_start_that_was_killed_go_and_others_stay(tmp_path) -> None:
    """Not those of other programs, nor one that a process is still writing, nor what is behind a link."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ours = [".config.yaml.abc12_x9.part", ".run.json.aaaaaaaa.part", ".init_points3d.ply.00000000.part", ".cameras.json.bbbbbbbb.part", ".chkpnt12.safetensors.cccccccc.part"]
    others = [".notes.txt.abcdefgh.part", ".config.yaml.part", ".download.part", ".config.yaml.TOOLONGNAME.part"]
    run_folder = tmp_path / "run"
    (run_folder / "cograd").mkdir(parents=True)
    inside = run_folder / "cograd" / ".regions_3.png.dddddddd.part"
    for path in (*(run_folder / name for name in (*ours, *others)), inside, elsewhere / ".video.mp4.eeeeeeee.part"):
        path.write_text("half")
    (run_folder / "videos").symlink_to(elsewhere)
    with atomic_path(run_folder / "config.yaml") as in_use:
        with opened(run_folder) as run:
            begin(run)
        assert in_use.exists()
    left = {path.name for path in run_folder.iterdir() if path.name.endswith(".part")}
    assert left == set(others) and (elsewhere / ".video.mp4.eeeeeeee.part").exists()
    assert not list((run_folder / "cograd").rglob("*.part"))


def test_a_checkpoint_that_safetensors_was_writing_goes_and_others_stay(tmp_path) -> None:
    """It writes into a file of its own, .tmp and six letters or digits, which a SIGKILL leaves behind at any length."""
    other = tmp_path / "chkpnt5.safetensors"
    save_tree(other, {"x": 1})
    whole = other.read_bytes()
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    for number, length in enumerate((0, 30, len(whole) - 1)):
        (run_folder / f".tmpAb3Xy{number}").write_bytes(whole[:length])
    others = {".tmpAb3Xy9": b"mine", ".tmp": whole, ".tmpAb3Xy10": whole, "tmpAb3Xy1": whole}
    for name, content in others.items():
        (run_folder / name).write_bytes(content)
    (run_folder / ".tmpLinked").symlink_to(other)
    with opened(run_folder) as run:
        begin(run)
    assert {path.name for path in run_folder.iterdir() if "tmp" in path.name} == {*others, ".tmpLinked"}


def test_a_start_that_is_refused_leaves_no_folder(tmp_path) -> None:
    with pytest.raises(ValueError, match="later"), opened(tmp_path / "run") as run:
        run.find()
        raise ValueError("later")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="later"), opened(tmp_path / "mine"):
        raise ValueError("later")
    assert (tmp_path / "mine").is_dir()  # it was there before


def saved(folder: Path, step: int) -> Path:
    checkpoint(folder, step)
    return folder / f"chkpnt{step}.safetensors"
