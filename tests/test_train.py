# SPDX-License-Identifier: Apache-2.0
"""train.py as a user meets it: files that appear, exit statuses, messages at the door."""

import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
import yaml

import train
from utils.video import read_video

SMALL = {
    "iterations": 4, "image_w": 16, "image_h": 16, "view_px": 32, "init_num_pts": 50, "guidance": "ideal", "sds": True, "perpneg": False,
    "text": "a red cube", "device": "cpu", "vis_interval": 2, "pro_frames_num": 3, "C_batch_size": 2, "densify_from_iter": 1,
    "densification_interval": 2, "test_ratio": 2,
}  # fmt: skip


def _argv(folder: Path, **changes) -> list[str]:
    settings = {**SMALL, "model_path": str(folder), **changes}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "a"
    assert train.main(_argv(folder, checkpoint_iterations=3)) == 0
    return folder


def test_every_output_of_upstream_is_where_it_was(finished) -> None:
    names = {
        "config.yaml", "cfg_args", "cameras.json", "init_points3d.ply", "run.json", "log.jsonl", "chkpnt3.safetensors",
        "train_process/iter_2.png", "process_videos/video_rgb.mp4",
        "test_six_views/4_iteration/render_view_0.png", "test_six_views/4_iteration/render_depth_15.png",
        "videos/1_iteration/video_rgb_1.mp4", "videos/4_iteration/video_depth_4.mp4",
        "point_cloud/iteration_2/point_cloud.ply", "point_cloud/iteration_4/point_cloud_rgb.txt",
    }  # fmt: skip
    missing = {name for name in names if not (finished / name).stat().st_size}
    assert not missing
    assert any(finished.glob("events.out.tfevents.*"))


def test_a_quiet_run_prints_nothing_where_nothing_is_wrong(tmp_path, capfd) -> None:
    """Resumed with other settings, it warns of those."""
    for more in ((), ("--resume", "auto", "--iterations", "6")):
        for quiet in (True, False):
            argv = _argv(tmp_path / str(quiet), quiet=quiet, keep_last_checkpoint=True)
            assert train.main([*argv, *more]) == 0
            printed = capfd.readouterr()
            out = [line for line in printed.out.splitlines() if not line.startswith("settings differ")]
            assert bool(out) != quiet and any("continuing after" in line for line in out) == (bool(more) and not quiet), out
            assert not quiet or not printed.err, printed.err


def test_a_steps_gradients_do_not_stay_beside_those_of_the_next(tmp_path, monkeypatch) -> None:
    earlier, compute = [], train.compute_gradients

    def watched(*args):
        assert [step for step in earlier if step() is not None] == []
        step = compute(*args)
        earlier.append(weakref.ref(step))
        return step

    monkeypatch.setattr(train, "compute_gradients", watched)
    assert train.main(_argv(tmp_path / "run")) == 0 and len(earlier) == 4


def test_videos_have_all_frames(finished) -> None:
    assert read_video(finished / "videos" / "4_iteration" / "video_rgb_4.mp4").shape == (120, 32, 32, 3)
    assert len(read_video(finished / "process_videos" / "video_rgb.mp4")) == 3


def test_log_has_a_line_a_step(finished) -> None:
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert len(line["t"]) == len(line["loss_per_view"]) == 2 and line["points"] > 0
        assert {"render", "guidance", "backward", "densify", "optimizer"} <= line["phase_ms"].keys()
        assert {"guidance", "tv_rgb", "tv_depth", "scale", "total"} == line["losses"].keys()
        assert line["peak_mb"]["main"] > 50


def test_the_written_config_gives_the_same_run(finished, tmp_path, capsys) -> None:
    """Also with another number of panels, which the web page asks for: they change nothing in the training."""
    again = tmp_path / "again"
    words = ["--opt", str(finished / "config.yaml"), "--model_path", str(again), "--vis_interval", "1"]
    assert train.main(words) == 0
    told = capsys.readouterr().out
    assert "B of main memory" in told and Path(told.partition("its turntable is ")[2].splitlines()[0]).is_file()
    cloud = Path("point_cloud") / "iteration_4" / "point_cloud.ply"
    assert (finished / cloud).read_bytes() == (again / cloud).read_bytes()


def test_a_checkpoint_continues_to_the_same_cloud(finished, tmp_path) -> None:
    start = str(finished / "chkpnt3.safetensors")
    assert train.main(_argv(tmp_path / "b", start_checkpoint=start)) == 0
    cloud = Path("point_cloud") / "iteration_4" / "point_cloud.ply"
    assert (finished / cloud).read_bytes() == (tmp_path / "b" / cloud).read_bytes()


def test_a_finished_run_is_found_done(finished, tmp_path, capsys) -> None:
    """--resume auto may be given again and again: nothing is made twice."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    kept = ("log.jsonl", "point_cloud/iteration_4/point_cloud.ply", "process_videos/video_rgb.mp4")
    before = [(run / name).read_bytes() for name in kept]
    assert train.main(_argv(run, resume="auto")) == 0
    assert [(run / name).read_bytes() for name in kept] == before
    assert "its 4 steps are done, and its scene is in" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Error detected in")  # torch's, with the stack of the operation
def test_the_operation_that_made_a_nan_is_named(tmp_path, monkeypatch) -> None:
    """--detect_anomaly."""
    from toy.ideal import IdealPrior

    monkeypatch.setattr(IdealPrior, "predict_noise", lambda self, x_t, t, embeddings: torch.full_like(x_t, torch.nan))
    with pytest.raises(RuntimeError, match=r"Function '\w+Backward0' returned nan values"):
        train.main(_argv(tmp_path / "nan", detect_anomaly=True))


def test_run_folder_says_what_made_it(finished) -> None:
    run = json.loads((finished / "run.json").read_text())
    assert run["versions"]["torch"] == torch.__version__.split("+")[0] or run["versions"]["torch"] == torch.__version__
    assert run["seed"] == 0 and run["revision"] and run["peak_bytes"]["main"] > 5e7


def test_dry_run_prints_the_config_and_writes_nothing(tmp_path, capsys) -> None:
    assert train.main([*_argv(tmp_path / "dry"), "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["OptimizationParams"]["iterations"] == 4
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": " "}, "text"),
        ({"init_shape": "spher"}, "sphere"),
        ({"device": "cuda:7"}, "cuda"),
        ({"opt": "missing.yaml"}, "missing.yaml"),
        ({"start_checkpoint": "gone.safetensors"}, "gone.safetensors"),
        ({"guidance": "SD", "model_key": "/no/such/folder"}, "/no/such/folder"),
        ({"init_shape": "pointe"}, "init_shape"),
    ],
)
def test_bad_input_is_met_at_the_door(tmp_path, capsys, changes, message) -> None:
    assert train.main(_argv(tmp_path / "bad", **changes)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_truncated_initial_cloud_is_told(tmp_path, capsys) -> None:
    (tmp_path / "init_points3d.ply").write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 9\nproperty float x\nend_header\n"
    )
    assert train.main(_argv(tmp_path)) == 2
    assert "init_points3d.ply" in capsys.readouterr().err


def test_one_iteration_is_enough(tmp_path) -> None:
    assert train.main(_argv(tmp_path / "one", iterations=1)) == 0
    assert (tmp_path / "one" / "point_cloud" / "iteration_1" / "point_cloud.ply").is_file()


def test_a_faulty_step_is_skipped_and_named(tmp_path, monkeypatch) -> None:
    from toy.ideal import IdealPrior

    sound, calls = IdealPrior.predict_noise, []

    def faulty(self, x_t, t, embeddings):
        calls.append(1)
        eps = sound(self, x_t, t, embeddings)
        return torch.full_like(eps, float("nan")) if len(calls) == 2 else eps

    monkeypatch.setattr(IdealPrior, "predict_noise", faulty)
    assert train.main(_argv(tmp_path / "nan")) == 0
    lines = [json.loads(line) for line in (tmp_path / "nan" / "log.jsonl").read_text().splitlines()]
    assert [bool(line["fault"]) for line in lines] == [False, True, False, False]
    assert "guidance" in lines[1]["fault"] and str(lines[1]["t"][0]) in lines[1]["fault"] and lines[1]["loss"] is None


def test_faults_with_sound_steps_between_do_not_stop_the_run(tmp_path, monkeypatch) -> None:
    from toy.ideal import IdealPrior

    sound, calls = IdealPrior.predict_noise, []

    def faulty(self, x_t, t, embeddings):
        calls.append(1)
        eps = sound(self, x_t, t, embeddings)
        return torch.full_like(eps, float("nan")) if len(calls) % 2 else eps

    monkeypatch.setattr(IdealPrior, "predict_noise", faulty)
    argv = _argv(tmp_path / "odd", iterations=42, save_video=False, test_ratio=1, vis_interval=100)
    assert train.main(argv) == 0


def test_only_faults_stop_the_run_and_keep_the_scene(tmp_path, monkeypatch, capsys) -> None:
    from toy.ideal import IdealPrior

    monkeypatch.setattr(
        IdealPrior, "predict_noise", lambda self, x_t, t, embeddings: torch.full_like(x_t, float("inf"))
    )
    assert train.main(_argv(tmp_path / "inf", iterations=30, save_video=False)) == 1
    assert "steps in a row were not finite" in capsys.readouterr().err
    assert (tmp_path / "inf" / "point_cloud" / "iteration_20" / "point_cloud.ply").is_file()
