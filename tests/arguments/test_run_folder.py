# SPDX-License-Identifier: Apache-2.0
"""Who may write in a run folder, and what happens to that which is there."""

import json
import os
from pathlib import Path

import pytest
import torch

from arguments.load import load_config
from arguments.run_folder import RunFolder
from utils.run_lock import FolderInUse
from utils.tree_file import save_tree

CPU = torch.device("cpu")


def _open(folder: Path, *flags: str, tell=pytest.fail) -> RunFolder:
    return RunFolder(load_config(["--text", "x", "--model_path", str(folder), *flags]), tell)


def _run(folder: Path, steps: int = 1, finished: bool = False) -> None:
    """What a run of some steps leaves."""
    with _open(folder) as run:
        run.begin(CPU)
        (folder / "init_points3d.ply").write_text("sampled")
        (folder / "log.jsonl").write_text('{"iteration": 1}\n' * steps)
        (folder / "point_cloud").mkdir()
        (folder / "point_cloud" / "p.ply").write_text("cloud")
        if finished:
            run.finished({})


def test_a_second_run_is_refused_while_the_first_works(tmp_path) -> None:
    with _open(tmp_path), pytest.raises(FolderInUse, match="in use by process"):
        _open(tmp_path)
    _open(tmp_path).close()


@pytest.mark.parametrize("finished", [False, True])
def test_an_earlier_run_is_not_overwritten_unasked(tmp_path, finished) -> None:
    _run(tmp_path, finished=finished)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.name != "run.lock"}
    kind = "a finished" if finished else "an earlier"
    with (
        _open(tmp_path) as run,
        pytest.raises(ValueError, match=rf"holds {kind} run, begun 2.*--resume auto .*--overwrite .*--workspace"),
    ):
        run.begin(CPU)
    assert {path: path.read_bytes() for path in before} == before


def test_overwrite_removes_what_a_run_leaves_and_nothing_else(tmp_path) -> None:
    _run(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    (tmp_path / "videos").symlink_to(elsewhere)
    (tmp_path / "notes.txt").write_text("mine")
    with _open(tmp_path, "--overwrite") as run:
        assert run.begin(CPU) is None
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
    with _open(tmp_path) as run:
        run.begin(CPU)
    (tmp_path / "log.jsonl").write_text("{}\n")
    with _open(tmp_path, "--overwrite") as run:
        run.begin(CPU)
    assert (tmp_path / "init_points3d.ply").read_text() == "given"


def test_points_sampled_by_a_start_that_failed_are_not_taken_for_the_users(tmp_path) -> None:
    """The run ended before its first step, at the weights perhaps; the next one may have another init_shape."""
    with _open(tmp_path) as run:
        run.begin(CPU)
        (tmp_path / "init_points3d.ply").write_text("sampled")
    with _open(tmp_path) as run:
        run.begin(CPU)
    assert not (tmp_path / "init_points3d.ply").exists()
    assert json.loads((tmp_path / "run.json").read_text())["initial_points"] == "sampled"


def test_what_is_not_a_runs_is_not_cleared(tmp_path) -> None:
    (tmp_path / "point_cloud").mkdir()
    with _open(tmp_path, "--overwrite") as run, pytest.raises(ValueError, match=r"holds no run\.json"):
        run.begin(CPU)
    assert (tmp_path / "point_cloud").is_dir()


def test_a_checkpoint_in_the_folder_cannot_begin_the_run_that_clears_it(tmp_path) -> None:
    _run(tmp_path)
    start = str(tmp_path / "chkpnt1.safetensors")
    save_tree(Path(start), {})
    run = _open(tmp_path, "--overwrite", "--start_checkpoint", start)
    with run, pytest.raises(ValueError, match=r"chkpnt1\.safetensors is in .*, which --overwrite clears"):
        run.begin(CPU)
    assert Path(start).exists()


def test_auto_begins_anew_before_the_first_checkpoint_but_spares_a_finished_run(tmp_path) -> None:
    told: list[str] = []
    with _open(tmp_path / "new", "--resume", "auto") as run:
        assert run.begin(CPU) is None
    _run(tmp_path / "cut")
    with _open(tmp_path / "cut", "--resume", "auto", tell=told.append) as run:
        assert run.begin(CPU) is None
    assert len(told) == 1 and "ended before its first checkpoint; it begins anew" in told[0]
    assert not (tmp_path / "cut" / "log.jsonl").exists()
    _run(tmp_path / "done", finished=True)
    with _open(tmp_path / "done", "--resume", "auto") as run, pytest.raises(ValueError, match="holds a finished run"):
        run.begin(CPU)


def test_auto_goes_on_and_removes_what_was_half_written(tmp_path) -> None:
    _run(tmp_path)
    save_tree(tmp_path / "chkpnt5.safetensors", {"a": 1})
    for half in (tmp_path / ".chkpnt9.safetensors.x.part", tmp_path / "point_cloud" / ".p.ply.y.part"):
        half.write_text("half")
    with _open(tmp_path, "--resume", "auto") as run:
        path, tree = run.begin(CPU)
    assert path.name == "chkpnt5.safetensors" and tree == {"a": 1} and not list(tmp_path.rglob("*.part"))
    record = json.loads((tmp_path / "run.json").read_text())
    assert [entry["from"] for entry in record["resumed"]] == ["chkpnt5.safetensors"]
    assert (tmp_path / "point_cloud" / "p.ply").read_text() == "cloud"


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"started_utc": ' + "[" * 5000])
def test_a_damaged_record_is_no_hindrance(tmp_path, text) -> None:
    _run(tmp_path)
    save_tree(tmp_path / "chkpnt5.safetensors", {"a": 1})
    (tmp_path / "run.json").write_text(text)
    (tmp_path / "config.yaml").write_text(": :")
    with _open(tmp_path, "--resume", "auto") as run:
        assert run.begin(CPU)[0].name == "chkpnt5.safetensors"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"cannot be written .*--model_path"):
        _open(tmp_path / "run")


def test_a_file_where_the_folder_should_be(tmp_path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .*--model_path"):
        _open(tmp_path / "run")


def test_resume_takes_the_settings_of_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunFolder(load_config(["--text", "a mug", "--workspace", "mug", "--iterations", "77"])) as run:
        run.begin(CPU)
    for name in ("mug", "output/mug", str(tmp_path / "output" / "mug")):
        config = load_config(["--resume", name, "--quiet"])
        assert config.guidance.text == "a mug" and config.optimization.iterations == 77 and config.quiet
        assert config.output_dir.resolve() == (tmp_path / "output" / "mug").resolve()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume", "nowhere"], "resume = 'nowhere': expected auto, or the folder of a run, which holds config.yaml"),
        (["--resume", "{run}", "--opt", "x.yaml"], "opt = 'x.yaml': expected none, the run's config.yaml is read"),
        (["--resume", "{run}", "--overwrite"], "overwrite = true: expected false with --resume"),
    ],
)
def test_what_resume_cannot_mean_is_told(tmp_path, flags, message) -> None:
    with _open(tmp_path) as run:
        run.begin(CPU)
    with pytest.raises(ValueError) as caught:
        load_config([flag.format(run=tmp_path) for flag in flags])
    assert message in str(caught.value) and len(caught.value.problems) == 1
