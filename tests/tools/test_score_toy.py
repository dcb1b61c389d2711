# SPDX-License-Identifier: Apache-2.0
"""tools/score_toy.py on a run folder that is fitted to nothing: table, JSON, messages."""

import json
import re

import pytest

from tests.red_ball import CONFIG, write_run
from tools import ablate_toy, gpteval3d, janus, reproduce, score_toy, t3bench, turntable


def test_a_run_folder_is_scored_and_written(tmp_path, capsys):
    run_folder = write_run(tmp_path)
    out = run_folder / "scores.json"
    assert score_toy.main([str(run_folder), "--size", "48", "--json", str(out)]) == 0
    scores = json.loads(out.read_text(encoding="utf-8"))
    assert scores["iteration"] == 10 and scores["prompt"] == "a red sphere with red stripe" and scores["psnr"] > 19
    assert scores["clean"] is None
    told = capsys.readouterr().out
    assert (
        "alike from front and back" in told and f"yaw {scores['yaw_deg']:.2f} deg" in told and "unaligned: psnr" in told
    )


def test_an_object_with_a_front_has_its_fronts_told():
    scores = dict.fromkeys(("psnr", "ssim", "iou", "detail", "psnr_unaligned", "detail_unaligned", "yaw_deg"), 0.5)
    scores |= {"prompt": "an owl", "iteration": 9, "size_px": 48, "fronts": 2, "front_share": 0.5, "clean": False}
    azimuths = [(azimuth + 90) % 180 - 90 for azimuth in range(0, 360, 5)]
    told = score_toy.table({**scores, "assigned_deg": azimuths})
    assert "fronts       2, front share 0.50 (right: 1, 0.25): not clean" in told
    assert "azimuths     FFFFsssssFFFFFFFsssssFFF  (every 15 deg" in told


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert score_toy.main([str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    assert score_toy.main([str(tmp_path)]) == 2
    assert "point_cloud/iteration_K" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "-4", "2", "15", "4097"])
def test_sizes_that_cannot_be_scored_are_refused_before_anything_runs(tmp_path, capsys, size) -> None:
    """By every tool that draws images to look at or to score."""
    run, out = str(tmp_path / "run"), tmp_path / "out"
    for tool, words in (
        (score_toy, [run, "--size"]),
        (ablate_toy, ["--out", str(out), "--score_px"]),
        (ablate_toy, ["--rescore", str(out), "--score_px"]),
        (janus, ["sheet", str(out), run, "--view_px"]),
        (reproduce, ["--out", str(out), "--prior", "toy", "--view_px"]),
        (t3bench, [run, "--prompts", "p.txt", "--size_px"]),
        (gpteval3d, [run, "--out", str(out), "--size_px"]),
        (turntable, [run, "--size_px"]),
    ):
        assert tool.main([*words, size]) == 2, tool.__name__
        assert re.search(rf"{words[-1]} {size}: expected a number .*from 16 to 4096", capsys.readouterr().err), tool.__name__
    assert not list(tmp_path.iterdir())
