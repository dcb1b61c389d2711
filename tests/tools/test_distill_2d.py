# SPDX-License-Identifier: Apache-2.0
"""tools/distill_2d.py: files of each law, a free image that becomes the prompt's, and refusals before any file."""

import csv

import numpy as np
import pytest

from distillation import LAWS
from tools.distill_2d import SHEET_COLUMNS, main
from utils.image_utils import read_png
from utils.video import read_video

ROBOT = "a cyan robot with orange arms"
SMALL = ["--text", ROBOT, "--size", "16"]


def test_each_law_leaves_its_image_film_and_numbers(tmp_path):
    assert main(["--distillation", "sds", "vsd", "--out", str(tmp_path), "--steps", "7", *SMALL]) == 0
    for law in ("sds", "vsd"):
        assert read_png(tmp_path / f"{law}.png").shape == (16, 16, 3)
        assert len(read_video(tmp_path / f"{law}.mp4")) == 7
        rows = list(csv.DictReader((tmp_path / f"{law}.csv").open()))
        assert [int(row["iteration"]) for row in rows] == [*range(1, 8)]
        assert all(float(row["loss"]) > 0 and 0 < int(row["t"]) < 1000 for row in rows)
    assert read_png(tmp_path / "sheet.png").shape[1] == 16 * SHEET_COLUMNS
    assert (read_png(tmp_path / "sds.png") != read_png(tmp_path / "vsd.png")).any()


@pytest.mark.slow
@pytest.mark.parametrize("further", [[], ["--latents"]])
def test_the_image_becomes_that_of_the_prompt_and_repeats(tmp_path, further):
    """The robot fills the middle with cyan and leaves white corners, from grey all over."""
    words = ["--distillation", "vsd", "--steps", "60", *SMALL, *further]
    for name in ("a", "b"):
        assert main([*words, "--rate", "0.05", "--out", str(tmp_path / name)]) == 0
    image = read_png(tmp_path / "a" / "vsd.png").astype(float)
    assert np.array_equal(image, read_png(tmp_path / "b" / "vsd.png"))
    red, green, blue = image[6:10, 6:10].reshape(-1, 3).mean(0)
    assert min(green, blue) > red + 20
    assert image[:2, :2].mean() > 200


def test_settings_after_the_dashes_reach_the_law(tmp_path):
    for name, scale in (("a", "1"), ("b", "50")):
        words = ["--distillation", "sds", "--steps", "3", "--out", str(tmp_path / name), *SMALL]
        assert main([*words, "--", "--guidance_scale", scale]) == 0
    assert (tmp_path / "a" / "sds.csv").read_text() != (tmp_path / "b" / "sds.csv").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--distillation", "sds", "magic"], "magic"),
        (["--distillation", "sds", "--steps", "0"], "--steps 0"),
        (["--distillation", "sds", "--rate", "-1"], "--rate -1"),
        (["--distillation", "sds", "--rate", "inf"], "--rate inf"),
        (["--distillation", "sds", "--size", "0"], "--size 0"),
        (["--distillation", "sds", "--prior", "/nowhere"], "/nowhere"),
        (["--distillation", "sds", "--", "--guidance_scale", "a"], "guidance_scale"),
    ],
)
def test_what_is_wrong_is_said_before_any_file_is_written(tmp_path, capsys, words, said):
    out = tmp_path / "out"
    assert main([*SMALL, "--out", str(out), *words]) == 2
    assert said in capsys.readouterr().err and not out.exists()


def test_the_help_names_every_law(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in LAWS)
