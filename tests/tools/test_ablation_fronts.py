# SPDX-License-Identifier: Apache-2.0
"""Statistics of clean objects, the calibration of the front bias, and films: on rows that nobody ran."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.ablation import film, outcomes, report, scores, staircase, summary
from evaluation.ablation.report import first_seeds
from evaluation.ablation.staircase import climbed
from tools import ablate_toy, contact_sheet

OWL, CAT = "a purple owl with green belly", "an orange cat with blue collar"


def row(variant: str, prompt: str, seed: int, clean: bool | None, psnr: float = 20.0) -> dict:
    share = None if clean is None else 0.25 if clean else 0.9
    scores = {"psnr": psnr, "ssim": 0.5, "iou": 0.9, "detail": 0.2, "clean": clean, "front_share": share}
    scores |= {"fronts": None if clean is None else 1, "psnr_unaligned": 15.0, "detail_unaligned": 0.1, "yaw_deg": 3.0}
    return {
        "prior": "ideal", "words": "weak", "front_bias": 0.8, "prompt": prompt, "variant": variant, "seed": seed,
        "denoiser_calls": 40, "cpu_s": 9.0, "mechanism": {}, "scores": scores,
    }  # fmt: skip


def rows(variant: str, prompt: str, outcomes_of_seeds: str) -> list[dict]:
    """A row a seed: c clean, . not."""
    return [row(variant, prompt, seed, letter == "c") for seed, letter in enumerate(outcomes_of_seeds)]


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 9))
@pytest.mark.parametrize("other", [0, 1, 5, 12])
def test_mcnemar_is_the_exact_binomial_test(first, other):
    expected = binomtest(first, first + other, 0.5).pvalue if first + other else 1.0
    assert outcomes.mcnemar(first, other) == pytest.approx(expected)


def test_holm_on_its_textbook_example():
    """Holm 1979: the smallest p times m, the next times m - 1, never falling."""
    assert outcomes.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert outcomes.holm([0.5, 0.9]) == [1.0, 1.0] and outcomes.holm([]) == []


def test_pairs_are_of_equal_object_and_seed():
    results = [*rows("full", OWL, "cc.c"), *rows("schedule_only", OWL, "..cc"), *rows("full", CAT, "c")]
    results += [row("full", "a donut", 0, None), row("schedule_only", "a donut", 0, None)]
    found = outcomes.pairs_of(results, "full", "schedule_only")
    assert found == outcomes.Pairs(both=1, first=2, other=1, neither=0) and found.total == 4 and found.p == 1.0
    assert outcomes.pairs_of(results, "schedule_only", "full") == outcomes.Pairs(1, 1, 2, 0)


def test_the_summary_says_shares_tests_and_corrects_for_their_number():
    results = [*rows("full", OWL, "c" * 12), *rows("schedule_only", OWL, "." * 12), *rows("wo_region", OWL, "c." * 6)]
    text = summary.summary(results)
    assert "| full | 12/12 (0.76..1.00) | 12/12 |" in text and "(bias 0.8)" in text
    assert "Holm's for 3 comparisons" in text
    p = 2 / 2**12
    assert f"| CoGrad3D - schedule | full | schedule_only | 12 | 0 | 12 | 0 | 0 | {p:.3f} | **{3 * p:.3f}** |" in text
    a = outcomes.mcnemar(6, 0)
    assert f"| A (regions) | full | wo_region | 12 | 6 | 6 | 0 | 0 | {a:.3f} | {2 * a:.3f} |" in text


def test_sheets_show_the_smallest_seeds_of_all_variants():
    results = [*rows("full", OWL, "c..c"), *rows("schedule_only", OWL, "c..c"), *rows("full", CAT, "c..c")]
    shown = first_seeds(results, 2)
    assert [(r["prompt"], r["variant"], r["seed"]) for r in shown] == [
        (OWL, "full", 0), (OWL, "schedule_only", 0), (OWL, "full", 1), (OWL, "schedule_only", 1),
        (CAT, "full", 0), (CAT, "full", 1),
    ]  # fmt: skip


def test_runs_of_several_front_biases_are_neither_paired_nor_averaged():
    """One folder may hold --weak 0.7, then 0.8; or weak words of one bias, then of calibrated ones."""
    easy = [{**result, "front_bias": 0.5} for result in (*rows("full", OWL, "c."), *rows("schedule_only", OWL, "cc"))]
    hard = [*rows("full", OWL, "..c"), *rows("schedule_only", OWL, ".")]
    trained = [{**result, "prior": "trained"} for result in hard]
    mixed = [*easy, *hard, *trained]
    assert outcomes.pairs_of(mixed, "full", "schedule_only") == outcomes.Pairs(both=1, first=0, other=1, neither=2)
    assert len(summary.paired_differences(mixed, "full", "schedule_only", "psnr")) == 4
    found = {block.name: block.results for block in summary.blocks(mixed)}
    assert found == {"ideal_weak_0.5": easy, "ideal_weak_0.8": hard, "trained_weak": trained}
    assert "## ideal prior, weak view words, front bias 0.5\n" in summary.summary(mixed)
    calibrated = [*rows("full", OWL, "c"), *({**result, "front_bias": 0.6} for result in rows("full", CAT, "c"))]
    assert [block.name for block in summary.blocks(calibrated)] == ["ideal_weak"]  # a bias an object: one experiment


def test_two_runs_that_would_be_one_half_of_a_pair_are_refused():
    twice = [*rows("full", OWL, "c"), *rows("full", OWL, "."), *rows("plain", OWL, "c")]
    with pytest.raises(ValueError, match=r"two runs of full have the prior ideal, front bias 0\.8, .* and seed 0;"):
        outcomes.pairs_of(twice, "full", "plain")
    with pytest.raises(ValueError, match=r"move one of them to another folder"):
        summary.summary(twice)


def test_trials_of_a_calibration_are_scored_again_and_not_summarized(tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(report, "sheet", lambda out, results, side_px: drawn.extend(results) or np.zeros((8, 8, 3)))
    monkeypatch.setattr(contact_sheet, "sheet", lambda out, results, *sizes: drawn.extend(results) or np.zeros((8, 8, 3)))
    monkeypatch.setattr(report, "write_png", lambda path, image: None)
    monkeypatch.setattr(contact_sheet, "write_png", lambda path, image: None)
    today = {"yardstick": scores.yardstick_digest(), "size_px": 64}
    for result in [*rows("schedule_only", OWL, "c."), row("schedule_only", OWL, staircase.FIRST_SEED, True)]:
        path = tmp_path / f"{result['variant']}-seed{result['seed']}.json"
        path.write_text(json.dumps({**result, "scores": result["scores"] | today}))
    assert ablate_toy.main(["--rescore", str(tmp_path)]) == 0
    assert "3 runs, 3 of them scored" in capsys.readouterr().out
    assert "| schedule_only | 1/2 " in (tmp_path / "summary.md").read_text()
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 3
    (tmp_path / "clouds").mkdir()
    assert contact_sheet.main([str(tmp_path), "--seeds", "9", "--out", str(tmp_path / "sheet.png")]) == 0
    assert [result["seed"] for result in drawn] == [0, 1] * 2
    assert ablate_toy.main(["--out", str(tmp_path), "--seeds", str(staircase.FIRST_SEED + 1)]) == 2
    assert f"--seeds {staircase.FIRST_SEED + 1}: expected a number from 1 to {staircase.FIRST_SEED}" in capsys.readouterr().err


# --- the calibration of the front bias --------------------------------------------------------------------------------


def test_the_staircase_rises_while_clean_and_its_step_doubles_until_a_turn_and_halves_at_each():
    assert climbed([]).bias == staircase.FIRST_BIAS
    assert climbed([False, False, False, False]).tried == pytest.approx((0.80, 0.72, 0.56, 0.32))
    found = climbed([True, False, True, True, False])
    assert found.tried == pytest.approx((0.80, 0.88, 0.84, 0.86, 0.88)) and found.bias == pytest.approx(0.86)
    assert climbed([True] * 9).bias == 1.0 and climbed([False] * 20).bias >= 0.02


@pytest.mark.parametrize("half", [0.3, 0.55, 0.72, 0.87])
def test_the_staircase_finds_where_half_are_clean(half):
    errors = []
    for repeat in range(40):
        rng, clean = np.random.default_rng([repeat, int(100 * half)]), []
        for _ in range(16):
            clean.append(bool(rng.random() < 1 / (1 + np.exp((climbed(clean).bias - half) / 0.03))))
        errors.append(climbed(clean).estimate - half)
    assert abs(np.mean(errors)) < 0.03 and np.std(errors) < 0.05


def test_calibrating_writes_a_bias_for_each_object_and_resumes(tmp_path, monkeypatch, capsys):
    done = []

    def run_grid(runs, sweep):
        for run in runs:
            path, facts = sweep.path(run.name), run.facts
            if not path.is_file():
                done.append(SimpleNamespace(**facts))
                clean = facts["front_bias"] < (0.9 if facts["prompt"] == OWL else 0.7)
                path.write_text(json.dumps({**row(facts["variant"], facts["prompt"], facts["seed"], clean), **facts}))
        return []

    monkeypatch.setattr(ablate_toy, "run_grid", run_grid)
    flags = ["--out", str(tmp_path), "--priors", "ideal", "--objects", OWL, CAT]
    assert ablate_toy.main([*flags, "--calibrate", "8"]) == 0
    assert len(done) == 16 and {run.variant for run in done} == {"schedule_only"}
    assert len({(run.prompt, run.seed) for run in done}) == 16 and min(run.seed for run in done) >= 1000
    biases = staircase.read_biases(tmp_path / "front_bias.json", [OWL, CAT])
    assert biases[OWL] == pytest.approx(0.9, abs=0.03) and biases[CAT] == pytest.approx(0.7, abs=0.03)
    assert ablate_toy.main([*flags, "--calibrate", "10"]) == 0
    assert len(done) == 20 and OWL in capsys.readouterr().out
    with pytest.raises(ValueError, match="lacks the object 'a red cube'"):
        staircase.read_biases(tmp_path / "front_bias.json", ["a red cube"])
    assert ablate_toy.main([*flags, "--front_bias", str(tmp_path / "no.json"), "--summary_only"]) == 2
    assert "is not a front_bias.json" in capsys.readouterr().err
    assert ablate_toy.main(["--out", str(tmp_path), "--calibrate", "2"]) == 2
    assert "expected one prior" in capsys.readouterr().err


# --- films ------------------------------------------------------------------------------------------------------------


def filmed(variant: str, seed: int, letters: str) -> dict:
    """A snapshot a letter: c right, a front all round, b back all round."""
    right = np.arange(0, 360, 15)
    kinds = {"c": np.where(right > 180, right - 360, right), "a": np.zeros(24, int), "b": np.full(24, 180)}
    count = len(letters)
    shown = {
        "iteration": [10 * (k + 1) for k in range(count)],
        "assigned_deg": [kinds[letter].tolist() for letter in letters],
        "t_mean": [900.0 - 100 * k for k in range(count)],
        "views_by_azimuth": [[5] * 8] * count,
    }
    return {**row(variant, OWL, seed, letters[-1] == "c"), "film": shown}


@pytest.mark.parametrize(
    ("letters", "decided"), [("aacc", 2), ("cccc", 0), ("acac", 3), ("aaaa", 0), ("caba", 1), ("aaac", 3)]
)
def test_a_run_is_decided_when_it_changes_no_more(letters, decided):
    assert film.decided_at(filmed("full", 0, letters)) == decided


def test_films_are_tabled_written_and_drawn():
    results = [filmed("full", 0, "aacc"), filmed("full", 1, "aaaa"), filmed("wo_region", 0, "cccc")]
    text = summary.summary(results)
    assert "| full | clean | 1 | 30 / 30 / 30 | 700 / 700 / 700 |" in text
    assert "| full | not clean | 1 | 10 / 10 / 10 | 900 / 900 / 900 |" in text
    lines = film.film_csv(results).splitlines()
    assert len(lines) == 13 and lines[3].startswith(f"{OWL},full,0,0.8,30,0.292,1,1,700,5,5")
    drawn = film.figure(results)
    assert drawn.shape == (3 * film.ROW_PX, film.LABEL_PX + 420, 3)
    strip = drawn[: film.ROW_PX - 4, film.LABEL_PX :]
    assert (strip[:, 10] == film.COLOURS[0]).all()  # the front all round at the start
    last = strip[:, -10]
    assert (last[1] == film.COLOURS[0]).all() and (last[len(last) // 2] == film.COLOURS[3]).all()
    assert film.figure([row("full", OWL, 0, True)]) is None and "decided" not in summary.summary(
        [row("full", OWL, 0, True)]
    )
