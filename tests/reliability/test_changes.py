# SPDX-License-Identifier: Apache-2.0
"""A run that is resumed with other settings: its checkpoint is adapted to them, or refused before anything is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import train
import trainer.priors
from arguments import GROUPS, Config
from arguments.declare import KeySpec, keys_of
from arguments.exit_codes import FINISHED, REFUSED
from arguments.load import load_config
from tests.reliability.crash import words
from tests.reliability.same_run import log_lines
from trainer.checkpoints import numbered
from trainer.resume_rules import PIECES, REGIONS, Outcome, adapted, flat_settings
from trainer.state import TrainState
from utils.random_streams import RandomStreams
from utils.tree_file import load_tree, save_tree
from utils.video import read_video

STEPS = 3
TINY = {
    "iterations": STEPS, "init_num_pts": 60, "checkpoint_every": 1, "keep_checkpoints": 9, "test_ratio": 1, "save_ratio": 1,
    "warmup_iter": 2, "vis_interval": 100, "fix_noise": True, "batch": 5, "pro_frames_num": 9, "render_45": False,
    "densify_until_iter": 0,
}  # fmt: skip
KINDS = {"baseline": {"CoGradParams.enabled": False}, "cograd": {"fusion_range": "0 1"}}
ELSEWHERE = ("ModelParams.model_path", "ModelParams.workspace")  # another folder, so another run
VALUES = {
    "ModelParams.sh_degree": 0, "OptimizationParams.iterations": STEPS + 2, "OptimizationParams.max_points": 50,
    "GuidanceParams.text": "cube", "GuidanceParams.num_train_timesteps": 500, "GuidanceParams.guidance": "SD --model_key assets/toy-prior",
    "GenerateCamParams.init_shape": "box", "GenerateCamParams.init_num_pts": 90, "GenerateCamParams.view_px": 40, "GenerateCamParams.image_w": "24 --image_h 24", "GenerateCamParams.image_h": "24 --image_w 24",
    "GuidanceParams.t_range": "0.03 0.4", "GuidanceParams.C_batch_size": 3, "CoGradParams.bank_limit_mb": 1,
    "device": "cuda", "start_checkpoint": "none.safetensors", "checkpoint_iterations": "2",
    "PipelineParams.rasterizer": "cpu",
    "port": 0, "viewer_port": 0, "gui": "true --port 0", "viewer": "true --viewer_port 0",
}  # fmt: skip
"""Where `_other` does not find a value that a run can have, or none that matters."""
REFUSED_BY_RULES = {
    "baseline": {
        "ModelParams.sh_degree": "it holds Gaussians of SH degree 1, not of 0; keep ModelParams.sh_degree",
        "OptimizationParams.max_points": "it holds 60 Gaussians, but OptimizationParams.max_points is 50; raise",
    },
    "cograd": {
        "CoGradParams.enabled": "it is of a run with another CoGradParams.enabled; keep it",
        **dict.fromkeys(REGIONS, "CoGrad's histories are of the regions as they were; keep it"),
    },
}


def _all_settings() -> dict[str, tuple[Any, KeySpec]]:
    """Group.key -> (type, declaration) of every setting that a file can hold and that something reads."""
    declared = {"": keys_of(Config), **{group: keys_of(kind) for group, (_, kind) in GROUPS.items()}}
    named = {
        f"{group}.{name}" if group else name: (kind, spec)
        for group, keys in declared.items()
        for name, (kind, spec, _) in keys.items()
    }
    return {name: x for name, x in named.items() if not x[1].transient and not x[1].unread and name not in ELSEWHERE}


ALL = _all_settings()


def _other(name: str, now: Any) -> str:
    """Another value of a setting, in words of a command line."""
    kind, spec = ALL[name]
    if name in VALUES:
        return str(VALUES[name])
    if spec.choices:
        return next(choice for choice in spec.choices if choice != now)
    if spec.device:
        return "cpu"
    if isinstance(now, bool):
        return str(not now)
    if isinstance(now, list):
        low, high = now
        moved = (low + 0.1 * (high - low), high - 0.2 * (high - low)) if spec.ordered else (low * 0.9, high * 1.1)
        return " ".join(str(int(x) if "int" in str(kind) else x) for x in moved)
    if isinstance(now, int | float):
        step = 1 if isinstance(now, int) else 0.125
        return str(next(x for x in (now + step, now - step) if spec.allows(x)))
    return "x"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> dict[str, Path]:
    """Two runs as they were after all but the last step: a video's frames wait, cameras are left, a noise is kept."""
    folders = {kind: tmp_path_factory.mktemp("stopped") / kind for kind in KINDS}
    for kind, folder in folders.items():
        assert train.main(words(folder, **TINY | KINDS[kind])) == FINISHED
        (folder / f"chkpnt{STEPS}.safetensors").unlink()
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        del record["finished_utc"]
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folders


def _settings(folder: Path) -> dict[str, Any]:
    return load_tree(numbered(folder)[0][1])["run"]["settings"]


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"}


def _resumed(folder: Path, name: str, value: str, capsys, monkeypatch) -> tuple[int, str, bool]:
    """Exit status, what was printed, and whether a prior was loaded."""
    loaded, sound = [], trainer.priors.load_prior
    monkeypatch.setattr(trainer.priors, "load_prior", lambda *args: loaded.append(1) or sound(*args))
    status = train.main(["--resume", str(folder), f"--{name}", *value.split(" ")])
    monkeypatch.undo()
    return status, "".join(capsys.readouterr()), bool(loaded)


def _cases() -> list[tuple[str, str]]:
    of_cograd = {name for rule in PIECES["train/cograd"].rules for name in rule.settings}
    cases = [("cograd", name) for name in ALL if name.startswith("CoGradParams.") or name in of_cograd]
    return cases + [("baseline", name) for name in ALL if not name.startswith("CoGradParams.")]


@pytest.mark.parametrize("kind", [pytest.param("baseline", marks=pytest.mark.slow), "cograd"])
def test_every_setting_may_change_or_is_refused_in_a_sentence(stopped, tmp_path, capsys, monkeypatch, kind) -> None:
    """One after the other. A refused start leaves the folder as it was; any other ends with a further checkpoint."""
    was, refused = _settings(stopped[kind]), {}
    for name in [name for of, name in _cases() if of == kind]:
        folder = shutil.copytree(stopped[kind], tmp_path / name)
        before, value = _contents(folder), _other(name, was[name])
        status, told, loaded = _resumed(folder, name, value, capsys, monkeypatch)
        assert "Traceback" not in told, (name, value, told)
        if status == REFUSED:
            refused[name] = told.strip().splitlines()[-1]
            assert _contents(folder) == before, f"{name} {value}: the refused start changed the folder"
            assert not (name in REFUSED_BY_RULES[kind] and loaded), f"{name} {value} was refused after the weights"
        else:
            assert status == FINISHED, (name, value, status, told)
            assert name == "keep_last_checkpoint" or numbered(folder)[0][0] >= STEPS, (name, value, told)
        shutil.rmtree(folder)
    for name, sentence in REFUSED_BY_RULES[kind].items():
        assert sentence in refused.pop(name)
    other = {"device", "start_checkpoint", "GuidanceParams.LoRA_path", "GuidanceParams.textual_inversion_path", "GuidanceParams.controlnet_model_key", "GuidanceParams.guidance", "GuidanceParams.tiny_vae"}
    assert set(refused) <= other, f"refused without need: {refused}"


SIZES = ({"image_w": 24, "image_h": 24}, {"view_px": 48}, {"image_w": 24, "image_h": 24, "view_px": 0})


@pytest.mark.parametrize("changes", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_another_image_size_keeps_the_steps_and_the_video(stopped, tmp_path, capsys, kind, changes) -> None:
    folder = shutil.copytree(stopped[kind], tmp_path / "run")
    assert train.main(words(folder, resume="auto", **TINY | KINDS[kind] | changes)) == FINISHED
    assert numbered(folder)[0][0] == STEPS and read_video(folder / "process_videos" / "video_rgb.mp4").shape == (3, 32, 32, 3)
    left = load_tree(numbered(folder)[0][1])["train"]["camera_stack"]
    assert kind == "cograd" or set(left["image_width"]) == {changes.get("image_w", 16)}
    assert not any(line["fault"] for line in log_lines(folder))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"iterations": 1}, r"it is of step 2, but OptimizationParams.iterations is 1; give more than 2"),
        ({"iterations": 2}, r"it is of step 2, but OptimizationParams.iterations is 2; give more than 2"),
        ({"max_points": 59}, r"it holds 60 Gaussians, but OptimizationParams.max_points is 59"),
        ({"sh_degree": 3, "max_points": 59}, r"SH degree 1, not of 3; keep ModelParams.sh_degree"),
    ],
    ids=str,
)
@pytest.mark.parametrize("start", [True, False], ids=["start_checkpoint", "resume"])
def test_what_cannot_be_continued_is_refused_before_weights_and_writes(stopped, tmp_path, capsys, monkeypatch, changes, told, start) -> None:
    """By --resume auto, and by --start_checkpoint, which leaves no folder behind either."""
    folder = shutil.copytree(stopped["baseline"], tmp_path / "run")
    before = _contents(folder)
    monkeypatch.setattr(trainer.priors, "load_prior", lambda *args: pytest.fail("the weights were loaded"))
    checkpoint = numbered(folder)[0][1]
    how = {"start_checkpoint": checkpoint} if start else {"resume": "auto"}
    run = tmp_path / "new" if start else folder
    assert train.main(words(run, **TINY | KINDS["baseline"] | how | changes)) == REFUSED
    error = capsys.readouterr().err
    assert told in error and len(error.strip().splitlines()) == 1
    assert _contents(folder) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", ["resume", "start_checkpoint", "new"])
def test_a_dry_run_reports_what_a_start_would_and_changes_nothing(stopped, tmp_path, capsys, how) -> None:
    folder = stopped["baseline"]
    before, given = _contents(folder), {"resume": {"resume": "auto"}, "start_checkpoint": {"start_checkpoint": numbered(folder)[0][1]}, "new": {}}[how]
    run = folder if how != "start_checkpoint" else tmp_path / "new"
    good = train.main(words(run, dry_run=True, **TINY | KINDS["baseline"] | given))
    assert good == (REFUSED if how == "new" else FINISHED), capsys.readouterr().err
    if how == "new":
        assert "--overwrite deletes it" in capsys.readouterr().err
    assert train.main(words(run, dry_run=True, **TINY | KINDS["baseline"] | given | {"sh_degree": 0})) == REFUSED
    assert _contents(folder) == before and not (tmp_path / "new").exists() and (folder / "run.lock").stat().st_size > 0


def test_a_run_that_would_have_nothing_left_to_do_is_refused(stopped, tmp_path, capsys) -> None:
    """Begun from a checkpoint of the last step it would end with success and without a scene."""
    checkpoint = numbered(stopped["baseline"])[0][1]
    changes = {"iterations": STEPS - 1, "start_checkpoint": checkpoint}
    assert train.main(words(tmp_path / "new", **TINY | KINDS["baseline"] | changes)) == REFUSED
    assert "give more than 2" in capsys.readouterr().err


def _tree(stopped, kind: str = "baseline") -> tuple[Path, dict]:
    path = numbered(stopped[kind])[0][1]
    return path, load_tree(path)


def _adapted(found, kind: str, tmp_path, is_resumed: bool = True, **changes):
    """The adapted tree, what was told, and a state that continues from it."""
    config, told = load_config(words(tmp_path / "state", **TINY | KINDS[kind] | changes)), []
    _path, tree = adapted(found, config, torch.device("cpu"), is_resumed, told.append)
    state = TrainState.start(config, "cpu")
    state.begin_cograd(config, torch.linspace(0.99, 0.01, 100))
    state.load_state_dict(tree["train"])
    return tree, told, state


def test_every_piece_of_a_checkpoint_says_what_it_may_meet(stopped) -> None:
    for kind in KINDS:
        _, tree = _tree(stopped, kind)
        pieces = {name for name in tree if name != "train"} | {f"train/{name}" for name in tree["train"]}
        assert pieces == set(PIECES)
    assert {name for piece in PIECES.values() for rule in piece.rules for name in rule.settings} <= set(ALL)


def test_without_a_change_all_is_taken_and_nothing_told(stopped, tmp_path) -> None:
    for kind in KINDS:
        found = _tree(stopped, kind)
        config = load_config(words(stopped[kind], **TINY | KINDS[kind]))
        assert flat_settings(config) == found[1]["run"]["settings"]
        assert adapted(found, config, torch.device("cpu"), True, pytest.fail)[1] is found[1]


def test_a_new_seed_starts_the_streams_again(stopped, tmp_path) -> None:
    found = _tree(stopped)
    _, told, state = _adapted(found, "baseline", tmp_path, seed=7)
    fresh, noise = RandomStreams(7, 0).state_dict(), found[1]["train"]["streams"]["noise"]
    ours = state.streams.state_dict()
    assert ours["python_words"] == fresh["python_words"] and ours["numpy_words"] == fresh["numpy_words"]
    assert torch.equal(ours["torch"], fresh["torch"]) and torch.equal(ours["noise"], noise)
    assert "seed changed: the random streams start again, from the new seed" in told


def test_a_new_noise_seed_starts_the_noise_again(stopped, tmp_path) -> None:
    found = _tree(stopped)
    assert found[1]["train"]["memory"]
    _, _told, state = _adapted(found, "baseline", tmp_path, noise_seed=7)
    ours, stored = state.streams.state_dict(), found[1]["train"]["streams"]
    assert torch.equal(ours["noise"], RandomStreams(0, 7).state_dict()["noise"]) and not torch.equal(ours["noise"], stored["noise"])
    assert ours["python_words"] == stored["python_words"] and state.memory.first is None


@pytest.mark.parametrize("changes", [{"radius_range": "4 5"}, {"phi_range": "0 10"}, {"jitter_pose": False}, {"image_w": 24, "image_h": 24}], ids=str)
def test_cameras_drawn_ahead_are_drawn_again(stopped, tmp_path, changes) -> None:
    found = _tree(stopped)
    assert len(found[1]["train"]["camera_stack"]["uid"]) > 0
    _, told, state = _adapted(found, "baseline", tmp_path, **changes)
    assert len(state.scene.camera_stack) == 0 and any("drawn again" in line for line in told)


def test_camera_ranges_are_those_of_the_settings_and_the_step(stopped, tmp_path) -> None:
    changes = {"radius_range": "4 5", "max_radius_range": "3 4", "progressive_view_iter": 1, "scale_up_cameras_iter": 1, "scale_up_factor": 0.9}
    _, _, state = _adapted(_tree(stopped), "baseline", tmp_path, **changes)
    assert state.scene.ranges.radius == pytest.approx((4 * 0.81, 5 * 0.81))
    assert state.scene.ranges == state.scene.ranges.after_steps(2, state.scene.config.optimization, state.scene.config.cameras)


@pytest.mark.parametrize("change", [{"loss_signal": "weighted"}, {"loss_signal_bins": 7}, {"sds": True}], ids=str)
def test_histories_of_another_loss_start_again_and_the_bank_stays(stopped, tmp_path, change) -> None:
    found = _tree(stopped, "cograd")
    assert found[1]["train"]["cograd"]["history"]["n"].sum() > 0
    _, told, state = _adapted(found, "cograd", tmp_path, **change)
    assert state.cograd.history.n.sum() == 0 and len(state.cograd.bank) == len(found[1]["train"]["cograd"]["bank"]["entries"]) > 0
    assert any("histories of losses start again" in line for line in told)


def test_a_setting_that_has_no_effect_is_told(stopped, tmp_path) -> None:
    _, told, _ = _adapted(_tree(stopped), "baseline", tmp_path, init_num_pts=99, init_shape="box")
    assert "GenerateCamParams.init_shape, GenerateCamParams.init_num_pts changed: it has no effect on Gaussians that come from a checkpoint" in told


def test_a_random_state_of_another_device_is_refused(stopped) -> None:
    config = load_config(words(stopped["baseline"], **TINY | KINDS["baseline"]))
    with pytest.raises(ValueError, match="its random state is of device cpu, which cuda cannot continue; set device: cpu"):
        adapted(_tree(stopped), config, torch.device("cuda"), True, pytest.fail)


def test_what_is_no_checkpoint_of_a_run_is_told_before_writes(tmp_path, capsys) -> None:
    save_tree(tmp_path / "chkpnt3.safetensors", {"other": 1})
    assert train.main(words(tmp_path / "run", start_checkpoint=tmp_path / "chkpnt3.safetensors", **TINY)) == REFUSED
    assert "is not a checkpoint of a training run: it has no" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("piece", [name for name, piece in PIECES.items() if name.startswith("train/")])
@pytest.mark.parametrize("content", [5, "x", [], {}, {"history": 1}], ids=str)
def test_a_piece_that_is_something_else_is_a_sentence(stopped, tmp_path, capsys, piece, content) -> None:
    """Or nothing is wrong with it. Whatever the file says, no start ends in a stack."""
    path, tree = _tree(stopped, "cograd")
    tree["train"][piece.removeprefix("train/")] = content
    config = load_config(words(tmp_path / "run", **TINY | KINDS["cograd"]))
    try:
        adapted((path, tree), config, torch.device("cpu"), True, print)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and path.name in str(error)


def test_rules_that_renew_name_what_exists(stopped) -> None:
    for name, piece in PIECES.items():
        for rule in piece.rules:
            for kind in KINDS:
                node = _tree(stopped, kind)[1]
                for key in name.split("/"):
                    node = node[key]
                if rule.outcome is Outcome.RENEWED and node:
                    assert set(rule.keys) <= node.keys()
