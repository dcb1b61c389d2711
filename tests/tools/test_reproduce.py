# SPDX-License-Identifier: Apache-2.0
"""tools/reproduce.py: what is run, what it costs, going on, failures, what is missing, tables, report, Janus sheet."""

import csv
import functools
import json
import math
import re

import pytest

import train
from arguments.load import load_config
from evaluation import run_folder
from evaluation.experiments import budget, grid, runs
from evaluation.reproduction import order, summary
from tests.reproduced import SMALL, reproduced
from tools import reproduce

ROBOT = "a cyan robot with orange arms"


# --- what is run ------------------------------------------------------------------------------------------------------


def test_the_papers_rows_and_numbers() -> None:
    """Of the paper's tables 1 and 2."""
    told = {
        name: [variant.paper.get(key) for key in ("clip_b32", "clip_l14", "vqascore", "image_reward", "janus")]
        for name, variant in grid.VARIANTS.items()
        if variant.title
    }
    assert told == {
        "luciddreamer": [30.02, 27.74, 0.5702, 0.5022, 0.2],
        "ism": [30.02, 27.74, 0.5702, 0.5022, 0.2],
        "full": [31.42, 28.91, 0.6286, 0.7449, 0.225],
        "wo_region": [28.28, 24.75, 0.4988, -0.0447, None],
        "wo_timestep": [29.03, 24.91, 0.5310, -0.4829, None],
        "wo_fusion": [27.97, 25.21, 0.5541, 0.2448, None],
        "schedule_only": [None] * 5,
        "dreamfusion": [24.77, 22.62, 0.4229, -1.4925, 0.525],
        "gaussiandreamer": [27.47, 25.42, 0.4901, 0.0021, 0.325],
        "hifa": [26.72, 24.01, 0.4401, -0.7148, 0.475],
        "perpneg": [26.35, 23.7, 0.4071, -1.0281, 0.4125],
        "scaledreamer": [29.85, 28.08, 0.5601, 0.381, 0.4375],
        "consistent3d": [28.76, 26.9, 0.5349, -0.3084, 0.4625],
        **{name: [None] * 5 for name in ("ism_schedule", *grid.TABLES["weights"][1:])},
    }
    assert "schedule_only" not in grid.PAPER_VARIANTS and len(grid.PAPER_VARIANTS) == 5
    assert set(grid.TOY_TABLE_VARIANTS) - set(grid.PAPER_VARIANTS) == {"ism"}


@pytest.mark.parametrize(("variant", "prior", "title"), [
    ("luciddreamer", "sd", "LucidDreamer"), ("luciddreamer", "toy", "SDS, CoGrad off"),
    ("ism", "sd", "LucidDreamer (ISM)"), ("ism", "toy", "LucidDreamer (ISM)"), ("full", "toy", "CoGrad3D"),
])  # fmt: skip
def test_a_title_says_what_the_runs_distil_by(variant, prior, title) -> None:
    """No row is called LucidDreamer, or stands beside its numbers, whose runs are not CoGrad off and ISM."""
    entry = grid.VARIANTS[variant]
    config = grid.config_of(grid.table_run(prior, variant, ROBOT, 0))
    assert entry.title_on(prior) == title
    assert title.startswith("LucidDreamer") == (not config.cograd.enabled and not config.guidance.sds)
    assert ("SDS" in title) == (not config.cograd.enabled and config.guidance.sds)
    assert bool(entry.paper_on(prior)) == ("SDS" not in title)


@pytest.mark.parametrize("prior", ["sd", "toy", "toy-trained"])
@pytest.mark.parametrize("variant", grid.TABLE_VARIANTS)
def test_an_asset_is_the_variant_it_is_called_after(prior, variant) -> None:
    extra = ["--iterations", "7", "--warmup_iter", "7"]
    config = grid.config_of(grid.table_run(prior, variant, ROBOT, 3, extra))
    p = config.cograd
    assert (p.enabled, p.use_regions, p.timestep_mode, p.use_fusion) == {
        "luciddreamer": (False, True, "full", True),
        "ism": (False, True, "full", True),
        "full": (True, True, "full", True),
        "wo_region": (True, False, "full", True),
        "wo_timestep": (True, True, "random", True),
        "wo_fusion": (True, True, "full", False),
        "schedule_only": (True, False, "schedule", False),
        "ism_schedule": (True, False, "schedule", False),
    }.get(variant, (variant in grid.TABLES["weights"], True, "full", True))
    assert (config.guidance.text, config.seed, config.guidance.noise_seed, config.optimization.iterations) == (
        ROBOT,
        3,
        3,
        7,
    )
    assert config.guidance.guidance == {"sd": "SD", "toy": "ideal", "toy-trained": "SD"}[prior]


def test_assets_have_different_names_and_whole_comparisons_come_first() -> None:
    prompts = ["a cat!", "a cat?", "x" * 90, "x" * 91]
    make = functools.partial(grid.table_run, "sd")
    assets = grid.runs_of(make, 2, prompt=prompts, variant=["luciddreamer", "full"])
    assert len({asset.name for asset in assets}) == 16 and all(
        re.fullmatch(r"[a-z0-9_-]{1,100}", asset.name) for asset in assets
    )
    assert [(asset.facts["prompt"], asset.facts["variant"]) for asset in assets[:3]] == [
        ("a cat!", "luciddreamer"),
        ("a cat!", "full"),
        ("a cat?", "luciddreamer"),
    ]
    assert {asset.facts["seed"] for asset in assets[:8]} == {0}


def test_the_default_is_the_papers_80_prompts(tmp_path) -> None:
    args = reproduce.parser().parse_args(["--out", str(tmp_path)])
    made = order.order_of(args, [], train.main)
    assert len(made.runs) == 5 * 80 and made.metrics == ["clip_b32", "clip_l14", "vqascore", "image_reward"]
    assert made.sweep.resume and not list(tmp_path.iterdir())


def test_a_cost_is_told_before_anything_runs(tmp_path, pretended, monkeypatch, capsys) -> None:
    monkeypatch.setattr(order, "gpus_here", lambda: ())
    reproduced(tmp_path / "none", "--dry_run")
    told = capsys.readouterr().out
    assert (
        "400 assets, 0 of them made before. 400 assets to make: about " in told
        and "148 PFLOP an asset at 100 TFLOP/s" in told
        and told.endswith("on this machine, which has no GPU.\n")
    )
    reproduced(tmp_path / "none", status=2)
    assert "more than 2 hours; add --yes to start" in capsys.readouterr().err
    assert not pretended.names and not (tmp_path / "none").exists()


@pytest.mark.parametrize(("words", "folder"), [([], "tables"), (["--prior", "toy"], "toy_tables")])
def test_without_a_folder_it_is_under_output(tmp_path, monkeypatch, capsys, words, folder) -> None:
    monkeypatch.chdir(tmp_path)
    assert reproduce.main([*words, "--report_only"]) == 2
    assert f"output/{folder} holds no finished asset of this order" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--miniature"], r"--miniature is for --prior toy"),
        (["--part", "9/8"], r"--part '9/8' given; expected K/N with 1 <= K <= N"),
        (["--part", "half"], r"--part 'half' given; expected K/N"),
        (["--seeds", "0"], r"--seeds 0: expected a number from 1 to"),
        (["--count", "0"], r"--count 0: expected a number from 1 to"),
        (["--tflops", "inf"], r"--tflops inf: expected a number from"),
        (["--tflops", "nan"], r"--tflops nan: expected a number from"),
        (["--prior", "toy", "--budget", "minutes", "--dry_run"], r"cannot be combined with --dry_run, which runs nothing"),
        (["--prior", "toy", "--budget", "minutes", "--ray"], r"cannot be combined with --ray, whose machines differ"),
        (["--prior", "toy", "--budget", "minutes", "--part", "1/2"], r"cannot be combined with --part, whose machines differ"),
        (["--prior", "toy", "--budget", "minutes", "--report_only"], r"cannot be combined with --report_only before it was timed"),
        (["--prior", "toy", "--view_px", "8"], r"--view_px 8: expected a number of pixels from 16"),
        (["--count", "500"], r"500 prompts requested, 415 are there"),
        (["--prior", "toy", "--", "--iteratoins", "5"], r"did you mean --iterations\?"),
        (["--prior", "toy", "--report_only"], r"holds no finished asset of this order"),
    ],
)
def test_what_cannot_be_run_is_told_first(tmp_path, pretended, capsys, words, told) -> None:
    reproduced(tmp_path / "none", *words, status=2)
    assert re.search(told, capsys.readouterr().err) and not pretended.names


@pytest.mark.parametrize(("named", "here"), [(None, ("0", "1")), ("3,5", ("3", "5")), ("3,5,-1", ("3", "5"))])
def test_runs_get_the_gpus_that_the_environment_leaves(monkeypatch, named, here) -> None:
    monkeypatch.setattr(order.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named) if named else monkeypatch.delenv("CUDA_VISIBLE_DEVICES", False)
    assert order.gpus_here() == here


def test_a_prompt_that_the_toy_world_does_not_know_istold(tmp_path, pretended, capsys) -> None:
    (tmp_path / "mine.txt").write_text("a corgi taking a selfie\n")
    reproduced(tmp_path / "out", "--prior", "toy", "--prompts", str(tmp_path / "mine.txt"), status=2)
    assert "names no object of the toy world" in capsys.readouterr().err


def test_a_prompt_that_train_py_refuses_is_refused_wherever_it_stands(tmp_path, pretended, capsys) -> None:
    (tmp_path / "mine.txt").write_text("a red mug\n-robot\na blue mug\n")
    reproduced(tmp_path / "out", "--prompts", str(tmp_path / "mine.txt"), status=2)
    assert "--text '-robot': a value that starts with a dash" in capsys.readouterr().err and not pretended.names


def test_settings_are_read_as_often_for_nine_seeds_as_for_one(tmp_path, monkeypatch) -> None:
    read = []
    monkeypatch.setattr(grid, "load_config", lambda words: read.append(words) or load_config(words))
    for seeds in (1, 9):
        words = ["--prior", "toy", "--table", "1", "--budget", "steps", "--seeds", str(seeds), "--dry_run"]
        assert reproduce.main([*words, "--out", str(tmp_path)]) == 0
        read.append(None)
    once = read.index(None)
    assert once > len(grid.TABLES["1"]) and len(read) == 2 * once + 2


def asked_for(tmp_path, pretended, *words) -> list[tuple[str, int, float, int]]:
    """(variant, steps, guidance scale, samples a step) of what is made."""
    reproduced(tmp_path, "--prior", "toy", "--count", "1", "--seeds", "1", *words)
    made = [json.loads((tmp_path / f"{name}.json").read_text()) for name in pretended.names]
    configs = [grid.config_of(runs.Run(one["name"], tuple(one["flags"]), {})) for one in made]
    return [
        (one["variant"], c.optimization.iterations, c.guidance.guidance_scale, budget.samples_a_step(c))
        for one, c in zip(made, configs, strict=True)
    ]


def test_table_1_is_made_at_equal_samples(tmp_path, pretended) -> None:
    rows = asked_for(tmp_path, pretended, "--table", "1")
    assert [row[0] for row in rows] == grid.TABLES["1"]
    taken = [steps * samples for _, steps, _, samples in rows]
    assert max(taken) <= 1.02 * min(taken) and len({steps for _, steps, *_ in rows}) > 2
    assert all(scale <= grid.MOST_GUIDANCE["toy"] for _, _, scale, _ in rows)


def test_rows_of_equal_minutes_have_more_steps_the_quicker_they_are(tmp_path, pretended, monkeypatch) -> None:
    monkeypatch.setattr(order, "paces", lambda runs, sweep: {run.facts["variant"]: pace(run.facts["variant"]) for run in runs})

    def pace(variant):
        return 0.3 if variant == "full" else 0.1

    rows = asked_for(tmp_path, pretended, "--table", "2", "--budget", "minutes")
    assert [(variant, steps) for variant, steps, *_ in rows] == [
        ("wo_region", 900), ("wo_timestep", 900), ("wo_fusion", 900), ("full", 300),
    ]  # fmt: skip


def test_the_table_of_weights_has_three_w_and_two_betas(tmp_path, pretended) -> None:
    reproduced(tmp_path, "--prior", "toy", "--count", "1", "--seeds", "1", "--table", "weights")
    configs = [grid.config_of(grid.table_run("toy", variant, ROBOT, 0)) for variant in grid.TABLES["weights"]]
    pairs = {(config.guidance.weighting, config.optimization.adam_beta2) for config in configs}
    assert pairs == {(w, beta2) for w in ("interval", "sigma_squared", "uniform") for beta2 in (0.999, 0.99)}
    assert all(config.cograd.enabled for config in configs) and len(pretended.names) == 6


def test_the_trained_toy_prior_has_its_own_objects_and_scale(tmp_path, pretended) -> None:
    reproduced(tmp_path, "--prior", "toy-trained", "--seeds", "1", "--table", "1", "--variants", "hifa", "full")
    made = [json.loads((tmp_path / f"{name}.json").read_text()) for name in pretended.names]
    assert {one["prompt"] for one in made} == set(grid.TRAINED_OBJECTS) and all(one["known_truth"] for one in made)
    guidance = [grid.config_of(runs.Run(one["name"], tuple(one["flags"]), {})).guidance for one in made]
    assert {(params.guidance, params.guidance_scale) for params in guidance} == {("SD", 2.5)}
    assert "The embedded trained prior" in (tmp_path / "report.html").read_text()


def test_every_number_is_beside_a_link_to_its_run(tmp_path, pretended) -> None:
    reproduced(tmp_path, *SMALL)
    page = (tmp_path / "report.html").read_text()
    for name in pretended.names:
        assert f'href="runs/{name}/"' in page and (tmp_path / "runs" / name).is_dir()
    assert 'href="#full"' in page and page.count('id="full"') == 1


@pytest.mark.parametrize("words", [("--budget", "steps"), ("--budget", "steps", "--setting", "common"), ("--variants", "hifa")])
def test_a_tables_budget_setting_and_rows_can_be_chosen(tmp_path, pretended, words) -> None:
    rows = asked_for(tmp_path, pretended, "--table", "1", *words)
    assert [row[0] for row in rows] == (["hifa"] if "hifa" in words else grid.TABLES["1"])
    assert ({steps for _, steps, *_ in rows} == {300}) == ("steps" in words) or words[0] == "--variants"
    assert all("-common" in name for name in pretended.names) == ("common" in words)
    stored = json.loads((tmp_path / "results.json").read_text())["provenance"]
    assert (stored["budget"] == "steps") == ("steps" in words) and stored["setting"] == ("common" if "common" in words else "own")
    assert ("and LucidDreamer's scale, weight and schedule of t" in (tmp_path / "report.html").read_text()) == ("common" in words)


# --- going on, failing ------------------------------------------------------------------------------------------------


def test_finished_assets_are_not_made_again(tmp_path, pretended, capsys) -> None:
    reproduced(tmp_path, *SMALL)
    assert len(pretended.names) == 4
    (tmp_path / f"{pretended.names[1]}.json").unlink()
    reproduced(tmp_path, *SMALL)
    assert (
        pretended.names[4:] == [pretended.names[1]]
        and "4 assets, 3 of them made before. 1 asset to make" in capsys.readouterr().out
    )
    reproduced(tmp_path, *SMALL, "--report_only")
    assert len(pretended.names) == 5


def test_failures_are_tried_twice_and_reported(tmp_path, pretended, capsys) -> None:
    pretended.failing.add("full")
    reproduced(tmp_path, *SMALL, status=1)
    assert len(pretended.names) == 6 and capsys.readouterr().out.count("reproduce: failed: full-") == 2
    report = (tmp_path / "report.html").read_text()
    assert "Failed twice" in report and "&lt;no&gt; memory" in report and "<no>" not in report
    pretended.failing.clear()
    reproduced(tmp_path, *SMALL)
    assert "Failed twice" not in (tmp_path / "report.html").read_text()


def test_parts_are_the_whole_and_share_nothing(tmp_path, pretended, capsys) -> None:
    for k in (1, 2, 3):
        reproduced(tmp_path, *SMALL, "--part", f"{k}/3")
    assert len(set(pretended.names)) == len(pretended.names) == 4
    assert "This part is done" in capsys.readouterr().out and not (tmp_path / "report.html").exists()
    reproduced(tmp_path, *SMALL, "--report_only")
    assert "Some assets are missing" not in (tmp_path / "report.html").read_text()
    (tmp_path / f"{pretended.names[0]}.json").unlink()
    reproduced(tmp_path, *SMALL, "--report_only")
    assert "Some assets are missing" in (tmp_path / "report.html").read_text()


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch, capsys) -> None:
    def run_one(run, sweep, slot):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_one", run_one)
    reproduced(tmp_path, *SMALL, status=130)
    assert "the same command resumes" in capsys.readouterr().err


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_table_has_means_spread_over_seeds_and_the_papers_numbers(tmp_path, pretended) -> None:
    reproduced(tmp_path, *SMALL)
    rows = {row["variant"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert rows["luciddreamer"]["psnr"] == 20.5 and rows["full"]["psnr"] == 21.5
    assert rows["full"]["psnr_seed_sd"] == pytest.approx(math.sqrt(0.5))
    assert rows["full"]["clip_b32"] is None and rows["full"]["clip_b32_paper"] == 31.42
    assert rows["full"]["clean"] is None  # an object without a front
    table = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert (
        [row["title"] for row in table] == ["SDS, CoGrad off", "CoGrad3D"]
        and table[1]["psnr"] == "21.5"
        and table[1]["clip_b32"] == ""
    )
    assets = list(csv.DictReader((tmp_path / "assets.csv").open()))
    assert len(assets) == 4 and {row["psnr"] for row in assets} == {"20", "21", "22"} and assets[0]["vqascore"] == ""


def test_the_spread_is_between_seeds_not_prompts() -> None:
    made = [
        {"seed": s, "metrics": {"clip_b32": {"mean": 10.0 * p + s, "std": 2.0 * p}}, "known_truth": None}
        for s in (0, 1)
        for p in (1, 2)
    ]
    assert summary.mean_and_spread(made, summary.Column("clip_b32", "", 2)) == (15.5, pytest.approx(math.sqrt(0.5)))
    assert summary.mean_and_spread(made, summary.Column("clip_b32_std", "", 2))[0] == 3.0
    assert summary.mean_and_spread(made[:2], summary.Column("clip_b32", "", 2))[1] is None  # one seed
    assert summary.mean_and_spread(made, summary.Column("vqascore", "", 2)) == (None, None)


def test_an_asset_without_a_time_is_no_part_of_the_estimate(tmp_path, pretended, capsys) -> None:
    """One that was resumed has none."""
    reproduced(tmp_path, *SMALL)
    first, *others = sorted(tmp_path.glob("*-seed*.json"))
    for path in others:
        result = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in result.items() if k not in ("train_s", "cpu_s")}))
    others[0].unlink()
    capsys.readouterr()
    reproduced(tmp_path, *SMALL)
    assert "7 s an asset, as the 1 made before" in capsys.readouterr().out
    assert ",7,6," in (tmp_path / "assets.csv").read_text() and first.is_file()


def test_a_missing_metric_is_told_and_is_no_number(tmp_path, pretended) -> None:
    reproduced(tmp_path, *SMALL, "--metrics", "clip_b32", "--weights", str(tmp_path))
    told = json.loads((tmp_path / "results.json").read_text())
    assert "expected the files of the hub repository openai/clip-vit-base-patch32" in told["missing"]["clip_b32"]
    assert told["missing"]["vqascore"] == "not asked for; --metrics vqascore fetches 13.5 GB"
    assert all(asset["metrics"] == {} for asset in told["assets"]) and told["rows"][0]["clip_b32"] is None
    report = (tmp_path / "report.html").read_text()
    assert "CLIP B/32 is missing" in report and "paper 31.42" in report


def test_a_metric_is_measured_once(tmp_path, pretended, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(run_folder, "load_metric", lambda name, device, folder: name)
    monkeypatch.setattr(
        run_folder, "score_scene", lambda run, name, metric, device: asked.append(run.name) or {"mean": 30.0, "std": 1.5}
    )
    reproduced(tmp_path, *SMALL, "--metrics", "clip_b32")
    reproduced(tmp_path, *SMALL, "--metrics", "clip_b32")
    assert sorted(asked) == sorted(pretended.names)
    sds, full = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert (full["clip_b32"], full["clip_b32_std"], full["clip_b32_std_paper"]) == (30.0, 1.5, 1.02)
    assert (sds["clip_b32"], sds["clip_b32_paper"]) == (30.0, None)  # no row of the paper


# --- for real --------------------------------------------------------------------------------------------------------


def test_one_for_real(tmp_path) -> None:
    """Five steps, as a user calls it; then again, when nothing is left to do. `make reproduce` makes twelve assets."""
    words = ["--prior", "toy", "--miniature", "--variants", "full", "--seeds", "1", "--view_px", "16", "--"]
    tiny = {"--iterations": "5", "--warmup_iter": "5", "--image_w": "16", "--image_h": "16", "--init_num_pts": "60"}
    words += [word for pair in tiny.items() for word in pair]
    reproduced(tmp_path, *words)
    [path] = tmp_path.glob("*-seed0.json")
    result = json.loads(path.read_text())
    assert (result["steps"], result["denoiser_calls"]) == (5, 20)
    assert result["known_truth"]["psnr"] > 3 and result["peak_gb"] > 0
    assert (tmp_path / "report.html").read_text().count("region maps") == 1
    stamp = path.stat().st_mtime_ns
    reproduced(tmp_path, *words)
    assert stamp == path.stat().st_mtime_ns
