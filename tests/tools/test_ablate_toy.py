# SPDX-License-Identifier: Apache-2.0
"""tools/ablate_toy.py: the grid's flags, what a summary says, resuming, failures, and one miniature benchmark."""

import csv
import json
import math
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from arguments.load import ConfigError
from evaluation import known_truth
from evaluation.ablation import clouds, film, report, scores, summary
from evaluation.ablation.report import LABEL_PX
from evaluation.experiments import facts, grid, tables
from evaluation.experiments import runs as experiment_runs
from tests.red_ball import red_ball, write_run
from tools import ablate_toy, contact_sheet

TINY = ["--iterations", "5", "--image_w", "16", "--image_h", "16", "--view_px", "16", "--init_num_pts", "60"]
ROBOT = "a cyan robot with orange arms"


def _config(variant: str, words: str = "full", extra=()):
    return grid.config_of(grid.ablation_run("ideal", 0.25 if words == "weak" else 0.0, ROBOT, variant, 3, extra))


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_variants_are_the_switches_they_are_called_after() -> None:
    switches = {name: _config(name).cograd for name, variant in grid.VARIANTS.items() if not variant.flags}
    told = {name: (p.enabled, p.use_regions, p.timestep_mode, p.use_fusion) for name, p in switches.items()}
    assert told == {
        "plain": (True, False, "random", False),
        "schedule_only": (True, False, "schedule", False),
        "luciddreamer": (False, True, "full", True),
        "ism": (False, True, "full", True),
        "full": (True, True, "full", True),
        "wo_region": (True, False, "full", True),
        "wo_timestep": (True, True, "random", True),
        "wo_fusion": (True, True, "full", False),
        "fusion_alone": (True, False, "schedule", True),
        "ism_schedule": (True, False, "schedule", False),
    }


def test_a_run_says_its_prompt_seed_and_words() -> None:
    config = _config("full", "weak", ["--iterations", "7"])
    assert (config.guidance.text, config.seed, config.guidance.noise_seed) == (ROBOT, 3, 3)
    assert (config.guidance.front_bias, config.optimization.iterations) == (0.25, 7)
    assert config.cograd.use_fusion and _config("full").guidance.front_bias == 0


def test_a_grid_has_every_cell_once_and_whole_pairs_first() -> None:
    axes = {"prior": ["ideal"], "front_bias": [0.0, 0.6], "prompt": [ROBOT, "a red cube"], "variant": ["full", "plain"]}
    made = grid.runs_of(grid.ablation_run, 3, **axes)
    assert len(made) == 24 == len({run.name for run in made})
    assert [run.facts["seed"] for run in made] == [0] * 8 + [1] * 8 + [2] * 8
    assert [run.facts["variant"] for run in made[:4]] == ["full", "plain"] * 2
    assert {(run.facts["front_bias"], run.facts["words"]) for run in made} == {(0.0, "full"), (0.6, "weak")}


def test_the_words_of_the_command_line_choose_the_bias_of_each_object(tmp_path, pretended) -> None:
    (tmp_path / "bias.json").write_text(json.dumps({ROBOT: {"bias": 0.6}}))
    words = [*SELECTED, "--words", "full", "weak", "--front_bias", str(tmp_path / "bias.json"), "--seeds", "1"]
    _told(tmp_path / "out", *words)
    assert [name.split("-")[1] for name in pretended.names] == ["bias0", "bias0", "bias0.6", "bias0.6"]


def test_objects_are_of_the_toy_world_and_two_have_a_front() -> None:
    from toy.objects import ONE_SIDED
    from toy.reading import parse_prompt

    classes = [parse_prompt(prompt).class_name for prompt in grid.OBJECTS]
    assert len(grid.ABLATION_VARIANTS) == 7
    assert len(set(classes)) >= 4 and sum(name in ONE_SIDED for name in classes) >= 2
    fronts = [parse_prompt(prompt).class_name for prompt in grid.FRONT_OBJECTS]
    assert len(set(fronts)) == 6 and set(fronts) <= set(ONE_SIDED) and len(set(fronts) - set(classes)) >= 3


def test_regions_elsewhere_than_the_cameras_are_refused() -> None:
    config = _config("full", extra=["--distance_range", "1.5", "2.0"])
    with pytest.raises(
        ValueError,
        match=r"x\.yaml: the settings' cameras have distances 3\.5\.\.3\.5, CoGrad's regions 1\.5\.\.2; set CoGradParams\.distance_range",
    ):
        grid.check_regions(config, "x.yaml")


# --- the summary ------------------------------------------------------------------------------------------------------


def _result(variant: str, seed: int, psnr: float, clean: bool | None = False, prompt: str = ROBOT) -> dict:
    fronts = None if clean is None else 1 if clean else 3
    scores = {"psnr": psnr, "ssim": 0.5, "iou": 0.9, "detail": 0.2, "clean": clean, "fronts": fronts}
    scores |= {"psnr_unaligned": psnr - 1, "detail_unaligned": 0.1, "yaw_deg": 4.0}
    scores["front_share"] = None if clean is None else 0.25 if clean else 0.75
    return {
        "prior": "ideal", "words": "full", "front_bias": 0.0, "prompt": prompt, "variant": variant, "seed": seed,
        "denoiser_calls": 40, "mechanism": {"loss_explained_by_t": 0.9}, "scores": scores,
    }  # fmt: skip


RESULTS = [
    *(_result("full", seed, psnr) for seed, psnr in enumerate([20.0, 23.0, 22.0])),
    *(_result("plain", seed, psnr) for seed, psnr in enumerate([19.0, 21.0, 19.0])),
    _result("full", 3, 99.0),  # no partner
]


def test_differences_are_paired_by_prompt_and_seed() -> None:
    differences = summary.paired_differences(RESULTS, "full", "plain", "psnr")
    assert differences == [1.0, 2.0, 3.0]
    mean, error = tables.mean_and_error(differences)
    assert mean == 2 and error == pytest.approx(1 / math.sqrt(3))
    other = [_result("plain", 3, 50.0, prompt="a red cube")]
    assert summary.paired_differences([*RESULTS, *other], "full", "plain", "psnr") == [1.0, 2.0, 3.0]


def test_one_pair_has_no_standard_error() -> None:
    assert math.isnan(tables.mean_and_error([1.0])[1])
    assert "+1.00 |" in summary.summary([RESULTS[0], RESULTS[3]])


def test_objects_without_a_front_have_no_fronts_in_the_tables() -> None:
    donut = [_result(v, s, 20.0 + s, None, "a donut") for v in ("full", "plain") for s in (0, 1)]
    assert summary.paired_differences(donut, "full", "plain", "front_share") == []
    text = summary.summary(donut)
    assert "| - | - |" in text and "McNemar" not in text


def test_the_tables_say_means_pairs_and_what_is_significant() -> None:
    text = summary.summary(RESULTS)
    assert (
        "| full | 4 | 40 | 41.00 +- 38.69 |" in text
        and "| CoGrad3D - plain | full - plain | 3 | **+2.00 +- 0.58** |" in text
    )
    weak = [_result("plain", seed, value) for seed, value in enumerate([19.0, 24.0, 19.0])]
    assert "| +1.00 +- 1.15 |" in summary.summary([*RESULTS[:3], *weak])
    other = [_result(v, s, 20.0, prompt="a red cube") for v in ("full", "plain") for s in (0, 1)]
    assert "Paired differences, a red cube:" in summary.summary([*RESULTS, *other])


def test_a_log_gives_calls_and_mechanisms() -> None:
    view = {"cosines": [0.5, 0.3], "fused_norm": 2.2, "main_norm": 2.0}
    empty = {"cosines": [], "fused_norm": 1.0, "main_norm": 1.0}
    step = {"unet_timesteps": [7], "t": [100, 900], "loss_per_view": [math.e, 1.0]}
    cograd = {
        "fusion": [view, empty],
        "u": [0.05, 0.01],
        "u_raw": [0.4, 0.01],
        "largest_probability": 0.2,
        "starved_share": 0.4,
    }
    log = [
        {**step, "cograd": cograd},
        {**step, "cograd": {**cograd, "starved_share": 0.1, "u": [None, None], "u_raw": [None, None]}},
    ]
    assert facts.denoiser_calls(log) == 4
    expected = {
        "loss_explained_by_t": 1.0,
        "starved_share": 0.1,
        "largest_probability": 0.2,
        "clipped_share": 0.5,
        "auxiliaries": 1.0,
        "cosine": 0.4,
        "norm_gain": 1.1,
    }
    assert facts.mechanism(log) == pytest.approx(expected)
    idle = {**cograd, "fusion": [empty], "u": [None], "u_raw": [None]}  # nothing updated, nothing fused
    assert facts.mechanism([{**step, "cograd": idle}]).keys() == expected.keys() - {
        "clipped_share",
        "cosine",
        "norm_gain",
    }
    assert facts.mechanism([step]) == {"loss_explained_by_t": pytest.approx(1.0)}


def test_a_loss_that_t_does_not_explain() -> None:
    rng = np.random.default_rng(0)
    steps = [
        {"t": [int(t)], "loss_per_view": [float(L)]}
        for t, L in zip(rng.integers(1, 999, 2000), np.exp(rng.normal(size=2000)))
    ]
    assert facts.loss_explained_by_t(steps) < 0.03  # 20 bins of noise explain about 19 / 2000
    assert facts.loss_explained_by_t([{"t": [3], "loss_per_view": None}]) == 0


# --- running ----------------------------------------------------------------------------------------------------------


def _told(out, *words, status: int = 0) -> None:
    assert ablate_toy.main(["--out", str(out), *words]) == status


@pytest.fixture
def pretended(monkeypatch):
    """run_one without training: the list of what it was asked for; names in `pretended.failing` fail."""
    asked = SimpleNamespace(names=[], failing=set(), clean=lambda facts: False)

    def run_one(run, sweep, slot):
        asked.names.append(run.name)
        if run.facts["variant"] in asked.failing:
            raise experiment_runs.RunFailed("train.py ended with status 1: no memory")
        clean = asked.clean(run.facts)
        made = _result(run.facts["variant"], run.facts["seed"], 20.0, clean)
        result = {**made, **run.facts, "flags": list(run.flags), "train_s": 1.0}
        sweep.path(run.name).write_text(json.dumps(result))
        return result

    monkeypatch.setattr(experiment_runs, "run_one", run_one)
    monkeypatch.setattr(report, "sheet", lambda out, results, side_px: np.zeros((8, 8, 3), np.uint8))
    return asked


SELECTED = ["--priors", "ideal", "--words", "full", "--objects", ROBOT, "--variants", "full", "plain", "--seeds", "2"]


def test_only_missing_runs_are_done(tmp_path, pretended) -> None:
    _told(tmp_path, *SELECTED)
    assert len(pretended.names) == 4
    (tmp_path / f"{pretended.names[2]}.json").unlink()
    _told(tmp_path, *SELECTED)
    assert pretended.names[4:] == [pretended.names[2]]
    assert "| full | 2 |" in (tmp_path / "summary.md").read_text()
    lines = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert [(line["variant"], line["seed"]) for line in lines] == [
        ("full", "0"),
        ("plain", "0"),
        ("full", "1"),
        ("plain", "1"),
    ]
    assert all(float(line["psnr"]) > 0 for line in lines)


def test_results_of_other_flags_are_not_mixed(tmp_path, pretended, capsys) -> None:
    _told(tmp_path, *SELECTED)
    _told(tmp_path, *SELECTED, "--", "--iterations", "9", status=2)
    assert "was made with other flags (--iterations 9); give another --out" in capsys.readouterr().err


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path, pretended, capsys) -> None:
    pretended.failing.add("plain")
    _told(tmp_path, *SELECTED, status=1)
    captured = capsys.readouterr()
    assert captured.err.count("no memory") == 2 and "| full | 2 |" in captured.out
    pretended.failing.clear()
    _told(tmp_path, *SELECTED)


def test_bad_flags_are_met_before_anything_runs(tmp_path, pretended, capsys) -> None:
    _told(tmp_path / "none", *SELECTED, "--", "--iteratons", "9", status=2)
    assert "did you mean --iterations?" in capsys.readouterr().err and not pretended.names
    assert not (tmp_path / "none").exists()
    assert ablate_toy.main(["--out", str(tmp_path), "--seeds", "0"]) == 2


def test_summary_only_runs_nothing(tmp_path, pretended, capsys) -> None:
    _told(tmp_path, *SELECTED[:-1], "1")
    before = len(pretended.names)
    _told(tmp_path, *SELECTED, "--summary_only")
    assert len(pretended.names) == before and "1 objects, 1 seeds" in capsys.readouterr().out


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """Two variants, two seeds, five steps of 16 x 16 pixels, five snapshots, as a user calls it."""
    out = tmp_path_factory.mktemp("miniature")
    _told(out, *SELECTED, "--jobs", "2", "--score_px", "32", "--film", "5", "--", *TINY)
    return out


@pytest.mark.slow
def test_a_miniature_benchmark(miniature) -> None:
    results = {path.name: json.loads(path.read_text()) for path in miniature.glob("*-seed*.json")}
    assert len(results) == 4 and {result["denoiser_calls"] for result in results.values()} == {20}
    assert len({result["scores"]["psnr"] for result in results.values()}) == 4
    first = results[min(results)]
    assert {"starved_share", "auxiliaries"} <= first["mechanism"].keys()
    assert first["film"]["iteration"] == [1, 2, 3, 4, 5] and np.shape(first["film"]["assigned_deg"]) == (5, 24)
    assert [sum(views) for views in first["film"]["views_by_azimuth"]] == [4] * 5
    names = {name.removesuffix(".json") for name in results}
    assert {path.name for path in (miniature / "runs").iterdir()} == names
    assert {path.name for path in (miniature / "clouds").iterdir()} == names
    sizes = [path.stat().st_size for path in (miniature / "clouds").rglob("*.npz")]
    assert len(sizes) == 20 and max(sizes) < 6000  # of 60 Gaussians
    assert not list(miniature.rglob("log.jsonl")) and not list(miniature.rglob("*.ply"))
    shown = cv2.imread(str(miniature / "sheet_ideal_full.png"))
    assert shown.shape == (4 * 96, LABEL_PX + 8 * 96, 3)
    again = miniature / "again.png"
    assert contact_sheet.main([str(miniature), "--out", str(again), "--seeds", "1", "--frames", "5", "--side_px", "40"]) == 0
    assert cv2.imread(str(again)).shape == (2 * 40, LABEL_PX + 5 * 40, 3)
    assert all((row[:, LABEL_PX:] < 250).any() and (row[:, LABEL_PX:] > 250).any() for row in np.split(shown, 4))
    assert len((miniature / "film.csv").read_text().splitlines()) == 21
    assert cv2.imread(str(miniature / "film_ideal_full.png")).shape[0] == 4 * film.ROW_PX
    stamps = {path: path.stat().st_mtime_ns for path in miniature.glob("*-seed*.json")}
    _told(miniature, *SELECTED, "--film", "5", "--", *TINY)
    assert stamps == {path: path.stat().st_mtime_ns for path in miniature.glob("*-seed*.json")}
    text = (miniature / "summary.md").read_text()
    assert "| CoGrad3D - plain | full - plain | 2 |" in text and "(sheet_ideal_full.png)" in text


@pytest.mark.slow
def test_scoring_again_needs_the_clouds_alone_and_resumes(miniature, tmp_path, capsys) -> None:
    out = shutil.copytree(miniature, tmp_path / "copy")
    shutil.rmtree(out / "runs")
    paths = sorted(out.glob("*-seed*.json"))
    before = [json.loads(path.read_text()) for path in paths]
    assert ablate_toy.main(["--rescore", str(out), "--jobs", "1", "--score_px", "32"]) == 0
    assert "4 runs, 4 of them scored by this yardstick before" in capsys.readouterr().out
    for number, result in enumerate(before):
        if number != 1:  # one of them was scored before the yardstick changed again
            stale = {**result, "scores": {"psnr": 1.0, "clean": None, "yardstick": "old"}}
            paths[number].write_text(json.dumps(stale))
    lost = paths[3].stem
    shutil.rmtree(out / "clouds" / lost)
    paths[3].write_text(json.dumps(before[3] | {"scores": before[3]["scores"] | {"yardstick": "old"}}))
    (out / "summary.md").unlink()
    assert ablate_toy.main(["--rescore", str(out), "--jobs", "2", "--score_px", "32"]) == 1
    assert [json.loads(path.read_text()) for path in paths[:3]] == before[:3]
    assert f"{lost} keeps its old scores: its cloud is not in" in capsys.readouterr().err
    assert "| full | 2 |" in (out / "summary.md").read_text()


def test_a_folder_without_a_finished_run_is_no_summary(tmp_path, capsys) -> None:
    """Nor is a mistyped one, of which the empty table and status 0 were the answer."""
    for words in (["--out", str(tmp_path / "none"), "--summary_only"], ["--out", str(tmp_path), "--summary_only"], ["--rescore", str(tmp_path)]):
        assert ablate_toy.main(words) == 2
        assert "holds no finished run" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_folder_to_score_again_that_is_not_there(tmp_path, capsys) -> None:
    assert ablate_toy.main(["--rescore", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_kept_cloud_scores_as_the_run_it_is_of(tmp_path) -> None:
    run = write_run(tmp_path / "run", (5, 10))
    clouds.keep(run, tmp_path / "kept")
    assert [path.name for path in clouds.snapshots(tmp_path / "kept")] == ["000005.npz", "000010.npz"]
    kept = scores.scored(tmp_path / "kept", "a red sphere with red stripe", 32)
    direct = known_truth.score_run(run, 32)
    assert kept["scores"]["psnr"] == pytest.approx(direct["psnr"], abs=0.01)
    assert kept["scores"]["iou"] == pytest.approx(direct["iou"], abs=0.01)
    assert kept["film"]["iteration"] == [5, 10]


def test_a_kept_cloud_is_rendered_as_it_was_trained(tmp_path) -> None:
    run = write_run(tmp_path / "run", (5,))
    ball = red_ball()
    ball.antialiased = True
    ball.save_ply(run / "point_cloud" / "iteration_10" / "point_cloud.ply")
    clouds.keep(run, tmp_path / "kept")
    assert [clouds.load(path).cloud.antialiased for path in clouds.snapshots(tmp_path / "kept")] == [False, True]


def test_config_errors_are_value_errors() -> None:
    assert issubclass(ConfigError, ValueError)  # what main() catches
