# SPDX-License-Identifier: Apache-2.0
"""The automatic Janus measures: what they say of scenes of known fronts, and that their calibration is what it claims."""


import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from evaluation import load_metric
from evaluation.automatic_janus import CALIBRATION, Flag, calibration, rates_by_variant
from evaluation.view_order import colour_shares, order, rank_correlation
from evaluation.view_words import WORDS, second_front, view_probabilities
from tests.evaluation.janus_roc import roc
from tests.evaluation.janus_roc.__main__ import main as janus_roc
from tests.evaluation.janus_roc.__main__ import read_scenes
from tests.evaluation.janus_roc.page import calibration as recomputed
from tests.evaluation.janus_roc.page import page
from tests.evaluation.janus_roc.scenes import built_scenes, is_janus
from tests.red_ball import write_run
from tools import janus

ROOT = Path(__file__).resolve().parents[2]
SCENES = ROOT / "benchmarks" / "results" / "janus.csv"
RNG = np.random.default_rng(0)


def turn(share_red: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A view an entry: a square object of 20 x 20 px on grey, that share of its pixels red and the rest blue."""
    images = np.full((len(share_red), 28, 28, 3), 128, np.uint8)
    coverage = np.zeros(images.shape[:3])
    coverage[:, 4:24, 4:24] = 1
    for image, red in zip(images, share_red):
        own = np.zeros((400, 3), np.uint8)
        own[: round(400 * red), 0], own[round(400 * red) :, 2] = 255, 255
        image[4:24, 4:24] = own.reshape(20, 20, 3)
    return images, coverage


AZIMUTH = np.radians(np.arange(0, 360, 15))
ONE = (1 + np.cos(AZIMUTH)) / 2
TWO = (1 + np.cos(2 * AZIMUTH)) / 2
THREE = (1 + np.cos(3 * AZIMUTH)) / 2


# --- the measure without weights --------------------------------------------------------------------------------------


def test_one_front_is_in_order_and_more_are_not() -> None:
    assert order(*turn(ONE)) == pytest.approx(1, abs=0.02)
    assert order(*turn(TWO)) < 0.1 and order(*turn(THREE)) < 0.4


def test_a_front_all_round_has_no_order() -> None:
    assert order(*turn(np.full(24, 0.7))) == 0.0


@pytest.mark.parametrize("yaw", [1, 5, 12, 23])
def test_the_first_azimuth_does_not_matter(yaw) -> None:
    images, coverage = turn(ONE)
    assert order(np.roll(images, yaw, 0), np.roll(coverage, yaw, 0)) == pytest.approx(order(images, coverage), abs=1e-9)


def test_neither_background_nor_a_mirror_image_matter() -> None:
    images, coverage = turn(TWO)
    dark = np.where(coverage[..., None] > 0.5, images, 7).astype(np.uint8)
    assert order(dark, coverage) == order(images[:, :, ::-1], coverage[:, :, ::-1]) == order(images, coverage)


def test_a_view_that_shows_nothing_is_not_measured() -> None:
    images, coverage = turn(ONE)
    coverage[3] = 0
    assert math.isnan(order(images, coverage))


def test_shares_of_colours_sum_to_one_over_the_object() -> None:
    shares = colour_shares(*turn(ONE))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    red = 3 * 16  # the highest of four levels of red, the lowest of green and blue
    np.testing.assert_allclose(shares[:, red], np.round(400 * ONE) / 400)


@pytest.mark.parametrize("levels", [3, 100])
def test_rank_correlation_is_scipys(levels) -> None:
    """Few levels: many ties."""
    x, y = RNG.integers(levels, size=(2, 30)).astype(float)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert rank_correlation(x, np.ones(30)) == 0.0


# --- the view words ---------------------------------------------------------------------------------------------------


def seen(words: str) -> np.ndarray:
    """Probabilities of F, S or B in each of the views."""
    return np.eye(3)[["FSB".index(letter) for letter in words]] * 0.7 + 0.1


@pytest.mark.parametrize(
    ("words", "second"),
    [
        ("FFFFSSSSSBBBBBBBSSSSSFFF", False),  # one front, a quarter of a turn wide
        ("FFFFSSSSSSFFFFFSSSSSSFFF", True),  # right opposite
        ("FFFSSSSFFFFFSSSSSSSSSSFF", True),  # 135 degrees away
        ("FFFFSSSSSSSSFSSSSSSSSFFF", False),  # a single view is an error of the classifier
        ("FFFSSSBFFFSSSSSSSSSSSSFF", True),
        ("FFFFFFFFFFFFFFFFFFFFFFFF", True),
        ("BBBBBBBBBBBBBBBBBBBBBBBB", False),
    ],
)
def test_a_front_beyond_90_degrees_counts(words, second) -> None:
    for yaw in range(len(words)):
        assert (second_front(np.roll(seen(words), yaw, 0)) > 0) == second


def test_probabilities_are_a_softmax_over_clips_similarities(weights) -> None:
    import tiny_models as tiny

    clip, images = load_metric("clip_b32", "cpu", weights), tiny.images(5, 40, 40)
    found = view_probabilities(clip, images, "a dog")
    logits = np.stack([clip(images, f"{word} view of a dog") for word in WORDS], axis=1)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(np.log(found[:, 0] / found[:, 2]), logits[:, 0] - logits[:, 2], atol=1e-9)
    assert np.ptp(logits[:, 0] - logits[:, 2]) > 1e-3  # views differ


# --- ROC --------------------------------------------------------------------------------------------------------------


def test_the_area_is_mann_and_whitneys_and_that_under_the_curve() -> None:
    score, fault = RNG.integers(12, size=60).astype(float), RNG.random(60) < 0.4
    false, true = roc.curve(score, fault)
    expected = mannwhitneyu(score[fault], score[~fault]).statistic / (fault.sum() * (~fault).sum())
    assert roc.area(score, fault) == pytest.approx(expected)
    assert roc.area(score, fault) == pytest.approx(np.trapezoid(true, false))
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_the_threshold_separates_what_can_be_separated() -> None:
    assert roc.best_threshold(np.array([1.0, 2, 5, 6]), np.array([False, False, True, True])) == 3.5


def test_a_held_out_groups_threshold_comes_from_the_others() -> None:
    score, fault = np.array([1.0, 2, 11, 12, 5, 6]), np.array([False, True, False, True, False, True])
    group = np.array(["a", "a", "b", "b", "c", "c"])
    own = [roc.best_threshold(score[group != name], fault[group != name]) for name in "abc"]
    expected = [score[k] > own["abc".index(group[k])] for k in range(6)]
    assert roc.held_out_flags(score, fault, group).tolist() == expected


# --- the calibration that is shipped ----------------------------------------------------------------------------------


def test_the_calibration_is_that_of_the_stored_scenes() -> None:
    assert json.loads(CALIBRATION.read_text()) == {"order": recomputed(read_scenes(SCENES))}


def test_the_tables_of_the_page_are_those_of_the_stored_scenes() -> None:
    """But for the last table, whose simulated classifiers take ten seconds."""
    tables, _, _ = page(read_scenes(SCENES), []).rpartition("| scenes; views")
    assert tables.count("\n") > 30 and tables in SCENES.with_suffix(".md").read_text()


@pytest.mark.slow
def test_the_page_is_made_by_one_command(tmp_path, capsys) -> None:
    assert janus_roc(["--out", str(tmp_path), "--scenes", str(SCENES)]) == 0
    assert capsys.readouterr().out in SCENES.with_suffix(".md").read_text()
    assert json.loads((tmp_path / "calibration.json").read_text()) == json.loads(CALIBRATION.read_text())
    roc_png, committed = (cv2.imread(str(path)) for path in (tmp_path / "roc.png", SCENES.with_suffix(".png")))
    assert roc_png.shape == committed.shape and np.mean(roc_png != committed) < 0.01


@pytest.mark.parametrize("class_name", ["mug", "rocket"])
def test_stored_scenes_are_measured_again_from_nothing(class_name) -> None:
    """Every built scene of an object, by its name; the object's pixels are those of any machine to 1 of 255."""
    stored = {s.kind: s for s in read_scenes(SCENES) if (s.source, s.object) == ("built", class_name)}
    again = {scene.kind: scene for scene in built_scenes(class_name, fit=False)}
    assert again.keys() == stored.keys()
    for kind, scene in again.items():
        assert scene.order == pytest.approx(stored[kind].order, abs=0.05), kind
        assert (scene.janus, scene.seen_deg) == (stored[kind].janus, stored[kind].seen_deg)


@pytest.mark.parametrize(
    ("fronts", "share", "clean", "janus"),
    [(1, 0.25, True, False), (2, 0.5, False, True), (1, 0.9, False, True), (0, 0.0, False, None)],
)
def test_what_counts_as_janus_in_a_run(fronts, share, clean, janus) -> None:
    assert is_janus({"scores": {"fronts": fronts, "front_share": share, "clean": clean}}) is janus


# --- the tool ---------------------------------------------------------------------------------------------------------


def test_rates_by_variant_leave_out_what_shows_nothing() -> None:
    flags = {"full-a": {"order": Flag(0.1, True)}, "full-b": {"order": Flag(math.nan, None)}, "wo-a": {"order": Flag(1, False)}}
    found = rates_by_variant(flags)
    full, other = found["full", "order"], found["wo", "order"]
    assert (full.janus, full.counted, full.unsure) == (1, 1, 1) and (other.janus, other.counted, other.unsure) == (0, 1, 0)


def test_the_tool_prints_how_often_a_flag_is_right_beside_every_rate(tmp_path, capsys, weights) -> None:
    runs = [str(write_run(tmp_path / name, (5,))) for name in ("full-a", "full-b", "wo-a")]
    assert janus.main(["measure", *runs, "--clip", "clip_b32", "--weights", str(weights)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"full-a: order [\d.]+, several fronts", out)  # red all round
    own = calibration()["scenes"]["clouds"]
    right = [roc.share(*own[name]) for name in ("sensitivity", "specificity")]
    expected = f"of known fronts: sensitivity {right[0]}, specificity {right[1]}"
    by_order = [line for line in out.splitlines() if ", by order: " in line]
    assert len(by_order) == 2 and all(expected in line for line in by_order)
    assert "full, by order: 1.0000 (2 of 2, 0 unsure), 95 % interval 0.342 .. 1.000" in by_order[0]
    by_words = [line for line in out.splitlines() if ", by words: " in line]
    assert len(by_words) == 2 and all("sensitivity and specificity not measured" in line for line in by_words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--clip", "clip_b32", "--weights", "nowhere"], "nowhere/clip-vit-base-patch32 does not exist; expected"),
        (["--weights", "nowhere"], "given without --clip; add --clip clip_b32"),
    ],
)
def test_the_tool_refuses_before_any_work(tmp_path, capsys, monkeypatch, words, told) -> None:
    run = write_run(tmp_path / "full-a", (5,))
    monkeypatch.setattr(janus, "flags_of", lambda *_: pytest.fail("measured"))
    assert janus.main(["measure", str(run), *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("command", [["measure"], ["sheet", "out"]])
def test_two_runs_of_one_name_are_refused(tmp_path, capsys, command, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [str(write_run(tmp_path / name / "full-a", (5,))) for name in "xy"]
    assert janus.main([*command, *runs]) == 2
    assert "full-a is the name of several runs" in capsys.readouterr().err
    assert not Path("out").exists()
