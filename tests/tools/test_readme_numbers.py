# SPDX-License-Identifier: Apache-2.0
"""tools/readme_numbers.py on runs of two steps: images, times, table, continuing, and a document that has lost its marks."""

import json
import re
import subprocess
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import train
from evaluation.known_truth import score_run
from tools import readme_numbers as tool
from tools.readme_numbers import IDEAL, Example
from toy import ideal
from toy.objects import CLASSES
from toy.reading import parse_prompt
from toy.rendered_set import render_set
from toy.truth import renderer_of_truth

CHECKOUT = tool.ROOT
SMALL = [
    "--set", "iterations=2", "image_w=16", "image_h=16", "view_px=16", "init_num_pts=40", "pro_frames_num=2", "test_ratio=1",
    "quiet=true", "device=cpu",
]  # fmt: skip
FOUR = (
    Example(IDEAL[0], "quickstart", "quickstart.png"),
    Example(IDEAL[0], "toy"),
    Example(IDEAL[0], "fine"),
    Example(IDEAL[4], "quickstart_trained", "trained_prior.png"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout's docs/scores.md and images after one call, and the folder of the runs."""
    root, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("runs")
    (root / "docs" / "images").mkdir(parents=True)
    (root / "docs" / "scores.md").write_text((CHECKOUT / "docs" / "scores.md").read_text("utf-8"), "utf-8")

    def one(run, folder, flags):
        settings = ["--opt", f"{CHECKOUT}/configs/toy.yaml", "--text", run.prompt, "--model_path", str(folder)]
        assert train.main([*settings, *flags]) == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "RUNS", FOUR)
        patch.setattr(tool, "COMPARED", IDEAL[:1])
        patch.setattr(tool, "ROOT", root)
        patch.setattr(tool, "train", one)
        patch.setattr(tool, "score_run", lambda folder: score_run(folder, 32))
        patch.setattr(ideal, "render_set", lambda specs, ranges, size_px, *_: render_set(specs, ranges, size_px, 16))
        assert tool.main(["--out", str(out), "--", *SMALL]) == 0
    return SimpleNamespace(root=root, out=out, page=(root / "docs" / "scores.md").read_text("utf-8"))


def test_the_table_has_a_row_a_run_and_the_rest_of_the_page_stays(made) -> None:
    table = made.page.split("<!-- scores: python tools/readme_numbers.py -->")[1].split("<!-- end of scores -->")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| (a|the) ", line)]
    assert [row.split(" | ")[1] for row in rows] == ["`quickstart`", "`toy`", "`fine`", "`quickstart_trained`"]
    assert all(len(row.split(" | ")) == 8 and re.search(r"\| -?\d+\.\d \|", row) for row in rows)
    before = (tool.ROOT / "docs" / "scores.md").read_text("utf-8")
    assert made.page.split("## The paper")[1] == before.split("## The paper")[1]


def test_times_are_those_of_the_runs(made) -> None:
    times = made.page.split("<!-- times: python tools/readme_numbers.py -->")[1].split("<!-- end of times -->")[0]
    assert re.search(r"Measured \d{4}-\d\d-\d\d on .*: 2 steps of the quickstart in \d+ s, \d+\.\d\d GB at most;", times)
    assert re.search(r"2 steps of `configs/fine.yaml` in \d+ s, \d+\.\d\d GB; the baseline", times)


def test_images_have_a_row_a_run_that_they_show(made) -> None:
    for name in ("quickstart.png", "trained_prior.png"):
        assert cv2.imread(str(made.root / "docs" / "images" / name)).shape == (112, 8 * 112, 3)


def test_quickstart_and_fine_stand_above_the_truth(made) -> None:
    shown = cv2.imread(str(made.root / "docs" / "images" / "fine.jpg"))
    truth = renderer_of_truth(parse_prompt(IDEAL[0]))(tool.SIDES, tool.SIDES_PX)[0]
    assert shown.shape == (3 * tool.SIDES_PX, len(tool.SIDES) * tool.SIDES_PX, 3)
    third = shown[2 * tool.SIDES_PX :, :, ::-1] / 255
    assert np.abs(third - np.moveaxis(np.concatenate(list(truth), axis=2), 0, -1)).mean() < 0.01
    assert all(np.abs(row / 255 - third).mean() > 0.02 for row in np.split(shown[..., ::-1], 3)[:2])


def test_a_finished_run_is_not_made_again_and_a_failed_one_is_told(made, monkeypatch, capsys) -> None:
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, cwd: asked.append(command) or SimpleNamespace(returncode=75))
    tool.train(FOUR[0], made.out / FOUR[0].name, [])
    assert asked == []
    with pytest.raises(SystemExit) as ended:
        tool.train(FOUR[0], made.out / "new", ["--iterations", "9"])
    assert ended.value.code == 75
    assert "train.py ended with status 75; repeat the command to continue" in capsys.readouterr().err
    assert asked[0][1:5] == ["train.py", "--opt", "configs/quickstart.yaml", "--text"] and asked[0][-2:] == [
        "--iterations",
        "9",
    ]


def test_seconds_are_counted_from_start_to_end(tmp_path) -> None:
    record = {
        "started_utc": "2026-11-25T10:00:00+00:00",
        "finished_utc": "2026-11-25T10:01:30+00:00",
        "peak_bytes": {"main": 2e9},
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "log.jsonl").write_text("{}\n{}\n")
    assert tool.facts(tmp_path) == {"date": "2026-11-25", "s": 90.0, "gb": 2.0, "steps": 2}


def test_a_readme_without_marks_is_told() -> None:
    with pytest.raises(ValueError, match="expected the marks"):
        tool.filled("# CoGrad3D\n", "scores", "x")


def test_the_runs_are_those_of_the_images() -> None:
    assert len(tool.RUNS) == 25 and len({run.name for run in tool.RUNS}) == 25
    assert {parse_prompt(run.prompt).class_name for run in tool.RUNS if run.config == "quickstart"} == set(CLASSES)
    assert all((tool.ROOT / "configs" / f"{run.config}.yaml").is_file() for run in tool.RUNS)
