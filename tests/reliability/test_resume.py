# SPDX-License-Identifier: Apache-2.0
"""A run that a signal cut short and that was continued equals the unbroken one in every file it leaves."""

import json
import os
import signal
from pathlib import Path

import pytest

import train
from arguments.exit_codes import FINISHED, INTERRUPTED, KILLED, REFUSED
from tests.reliability.crash import EVERY, words
from tests.reliability.hooks import at_step
from tests.reliability.same_run import differences, log_lines
from toy.ideal import IdealPrior
from trainer.checkpoints import numbered
from utils.tree_file import load_tree, save_tree
from utils.video import read_video

QUICK = {"test_ratio": 1, "iterations": 24, "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    assert train.main(words(folder, **QUICK)) == FINISHED
    return folder


@pytest.mark.parametrize(
    ("number", "step"), [(signal.SIGTERM, 1), (signal.SIGINT, 7), (signal.SIGUSR1, 12), (signal.SIGTERM, 23)]
)
def test_a_signal_ends_the_step_and_the_run_goes_on_as_if_nothing_had_been(
    unbroken, tmp_path, monkeypatch, capsys, number, step
) -> None:
    """Cuts with the video's first frames, CoGrad's histories, densification (every 5) and a reset (12) behind them."""
    at_step(monkeypatch, step, lambda: os.kill(os.getpid(), number))
    assert train.main(words(tmp_path / "cut", **QUICK)) == INTERRUPTED
    assert f"Received {signal.Signals(number).name}; stopped after step {step}. Resume with --resume {tmp_path / 'cut'}" in capsys.readouterr().err
    assert numbered(tmp_path / "cut")[0][0] == step == len(log_lines(tmp_path / "cut"))
    assert len(read_video(tmp_path / "cut" / "process_videos" / "video_rgb.mp4")) == step  # closed, to be watched
    assert train.main(["--resume", str(tmp_path / "cut"), "--quiet"]) == FINISHED
    if step % EVERY:
        (tmp_path / "cut" / f"chkpnt{step}.safetensors").unlink()  # the unbroken run has none there
    assert differences(unbroken, tmp_path / "cut") == []
    assert len({line["points"] for line in log_lines(unbroken)}) > 3  # densification was in play
    assert any(view["cosines"] for line in log_lines(unbroken) for view in line["cograd"]["fusion"])  # and the bank


def test_a_second_interrupt_stops_at_once(tmp_path, monkeypatch, capsys) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 6, twice)
    before = signal.getsignal(signal.SIGTERM)
    assert train.main(words(tmp_path / "run", **QUICK)) == KILLED
    assert "interrupted at once" in capsys.readouterr().err
    assert len(log_lines(tmp_path / "run")) == 5 and numbered(tmp_path / "run")[0][0] == 4  # in step 6
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_finished_run_is_gone_through_without_a_change(unbroken) -> None:
    before = {path: path.read_bytes() for path in unbroken.rglob("*.*") if path.suffix in (".ply", ".png", ".mp4")}
    assert train.main(words(unbroken, resume="auto", **QUICK)) == FINISHED
    assert {path: path.read_bytes() for path in before} == before and len(log_lines(unbroken)) == 24
    assert "finished_utc" in json.loads((unbroken / "run.json").read_text())


def test_only_the_newest_checkpoints_and_the_chosen_ones_stay(tmp_path) -> None:
    changes = {"iterations": 8, "checkpoint_every": 2, "keep_checkpoints": 2, "checkpoint_iterations": "1 2"}
    assert train.main(words(tmp_path / "run", **QUICK | changes)) == FINISHED
    assert [number for number, _ in numbered(tmp_path / "run")] == [8, 6, 2, 1]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(unbroken, tmp_path, monkeypatch, capsys) -> None:
    at_step(monkeypatch, 14, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train.main(words(tmp_path / "cut", **QUICK)) == INTERRUPTED
    newest = tmp_path / "cut" / "chkpnt14.safetensors"
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1  # one bit
    newest.write_bytes(content)
    assert train.main(words(tmp_path / "cut", resume="auto", quiet=False, **QUICK)) == FINISHED
    told = capsys.readouterr().out
    assert "its checksum does not fit" in told and "chkpnt12.safetensors" in told
    newest.unlink()
    assert differences(unbroken, tmp_path / "cut") == []


def test_without_a_whole_checkpoint_nothing_is_overwritten(tmp_path, monkeypatch, capsys) -> None:
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train.main(words(tmp_path / "run", **QUICK)) == INTERRUPTED
    for _, path in numbered(tmp_path / "run"):
        path.write_bytes(path.read_bytes()[:-1])
    assert train.main(words(tmp_path / "run", resume="auto", **QUICK)) == REFUSED
    assert "no checkpoint of it is whole" in capsys.readouterr().err and len(log_lines(tmp_path / "run")) == 5


def test_a_checkpoint_begins_a_run_of_its_own_elsewhere(unbroken, tmp_path) -> None:
    """--start_checkpoint, upstream's flag: the process video is whole there, the log begins after the checkpoint."""
    start = unbroken / "chkpnt16.safetensors"
    assert train.main(words(tmp_path / "b", start_checkpoint=start, **QUICK)) == FINISHED
    assert log_lines(tmp_path / "b") == log_lines(unbroken)[16:]
    left = set(differences(unbroken, tmp_path / "b"))
    assert not left & {
        "point_cloud/iteration_24/point_cloud.ply", "process_videos/video_rgb.mp4", "train_process/iter_18.png",
        "chkpnt24.safetensors", "test_six_views/24_iteration/render_view_0.png",
    }  # fmt: skip


def test_settings_that_changed_are_told(tmp_path, monkeypatch, capsys) -> None:
    at_step(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train.main(words(tmp_path / "run", **QUICK)) == INTERRUPTED
    assert train.main(["--resume", str(tmp_path / "run"), "--feature_lr", "0.001", "--iterations", "8"]) == FINISHED
    told = capsys.readouterr().out
    assert "OptimizationParams.feature_lr 0.005 -> 0.001" in told and "OptimizationParams.iterations 24 -> 8" in told
    resumed = json.loads((tmp_path / "run" / "run.json").read_text())["resumed"]
    assert [entry["from"] for entry in resumed] == ["chkpnt5.safetensors"]


def test_another_kind_of_run_is_refused(unbroken, capsys) -> None:
    changes = {"sh_degree": 0, "resume": "auto"}
    assert train.main(words(unbroken, **QUICK | changes)) == REFUSED
    assert "keep ModelParams.sh_degree" in capsys.readouterr().err


def test_a_checkpoint_holds_everything(tmp_path, monkeypatch) -> None:
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train.main(words(tmp_path / "run", **QUICK)) == INTERRUPTED
    tree = load_tree(tmp_path / "run" / "chkpnt3.safetensors")
    assert tree.keys() == {"run", "train", "process_video", "log", "writes"}
    assert tree["run"]["id"] == json.loads((tmp_path / "run" / "run.json").read_text())["run_id"]
    assert tree["run"]["settings"]["OptimizationParams.iterations"] == 24
    assert {"gaussians", "camera_stack", "streams", "memory", "cograd", "iteration"} <= tree["train"].keys()
    assert tree["process_video"]["pending"].shape == (3, 32, 32, 3)
    assert tree["log"]["bytes"] == (tmp_path / "run" / "log.jsonl").stat().st_size


FULL = {
    "iterations": 512, "densification_interval": 12, "densify_until_iter": 9999, "opacity_reset_interval": 10, "azimuth_levels": 30,
    "bank_limit_mb": 1, "init_num_pts": 900, "fusion_range": "0 1", "fix_noise": True, "batch": 5, "sds": True, "max_faults_in_a_row": 3,
    "test_ratio": 1, "save_ratio": 1, "pro_frames_num": 512, "vis_interval": 1000, "sh_deg_aug_ratio": 0, "keep_checkpoints": 9,
    "lambda_flatness": 1, "lambda_translucency": 1,
}  # fmt: skip
LATER = 496 - 33


@pytest.fixture(params=[True, False], ids=["cograd", "baseline"])
def eventful(request, tmp_path, monkeypatch) -> tuple[dict, Path]:
    """Settings, and a checkpoint shortly before step 500, with which the SH degree rises: a skipped step, a rollback,
    densifications and resets, an encoded and a begun segment of the video, and 33 steps renumbered, lie behind it."""
    sound, calls = IdealPrior.predict_noise, []

    def faulty(self, x_t, t, embeddings):
        calls.append(1)
        eps = sound(self, x_t, t, embeddings)
        return eps * float("nan") if len(calls) in (6, 18, 19, 20) else eps

    settings = FULL | {"CoGradParams.enabled": request.param}
    with monkeypatch.context() as patch:
        patch.setattr(IdealPrior, "predict_noise", faulty)
        at_step(patch, 33, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(words(tmp_path / "before", **settings)) == INTERRUPTED
    tree = load_tree(tmp_path / "before" / "chkpnt33.safetensors")
    tree["train"]["iteration"] += LATER
    tree["log"]["iteration"] += LATER
    for entry in tree["train"]["cograd"]["bank"]["entries"].values() if request.param else ():
        entry["step"] += LATER
    save_tree(tmp_path / "start.safetensors", tree)
    return settings, tmp_path / "start.safetensors"


def test_a_run_in_which_everything_has_happened_is_resumed_bit_for_bit(eventful, tmp_path, monkeypatch) -> None:
    """Cut after the SH degree has risen, between two densifications."""
    settings, start = eventful
    settings = {**settings, "start_checkpoint": start}
    assert train.main(words(tmp_path / "unbroken", **settings)) == FINISHED
    with monkeypatch.context() as patch:
        at_step(patch, 502, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(words(tmp_path / "cut", **settings)) == INTERRUPTED
    tree = load_tree(tmp_path / "cut" / "chkpnt502.safetensors")
    state, video = tree["train"], tree["process_video"]
    assert state["gaussians"]["active_sh_degree"] == 1 and state["gaussians"]["parameters"]["f_rest"].abs().max() > 0
    assert state["rollbacks"] == 1 and sum(state["skipped"].values()) == 1 and state["memory"]["first"].shape[0] == 2
    assert len(video["stream"]) > 0 and len(video["pending"]) > 0
    assert all(state["gaussians"]["statistics"][name].any() for name in ("xyz_gradient_accum", "denom", "max_radii2D"))
    if state["cograd"] is None:
        assert 0 < len(state["camera_stack"]["uid"]) < 5
    else:
        bank = state["cograd"]["bank"]
        assert any("rows" in entry for entry in bank["entries"].values()) and bank["evicted"] > 0  # packed, and full
    assert train.main(words(tmp_path / "cut", resume="auto", **settings)) == FINISHED
    (tmp_path / "cut" / "chkpnt502.safetensors").unlink()  # the unbroken run has none there
    assert differences(tmp_path / "unbroken", tmp_path / "cut") == []
    assert len({line["points"] for line in log_lines(tmp_path / "cut")}) > 1
