# SPDX-License-Identifier: Apache-2.0
"""A path at which nothing can be written is refused before the work whose result it is for; and modes that exclude each other."""

import importlib
import re

import pytest

from tests.checkout import ROOT
from tests.red_ball import write_run
from tools import ablate_toy, readme_numbers, reproduce

WORK = {  # words, and the function of the tool that takes long
    "ablate_toy": ("--seeds 1", "run_grid"),
    "contact_sheet": ("RUN", "_drawn"),
    "distill_2d": ("--distillation sds --text mug", "load_prior_and_prompts"),
    "export": ("RUN", "exports"),
    "gpteval3d": ("RUN", "write_asset"),
    "gpu_check": ("--device cpu", "check"),
    "readme_numbers": ("", "train"),
    "reproduce": ("--prior toy", "make_runs"),
    "search_toy": ("", "run_grid"),
    "show_cameras": ("", "camera_sheet"),
    "side_by_side": ("RUN RUN", "turns"),
    "turntable": ("RUN", "turns"),
}
SUFFIX = {"contact_sheet": ".png", "show_cameras": ".png", "export": ".spz", "side_by_side": ".mp4", "turntable": ".mp4"}


def test_every_tool_with_an_output_is_tried() -> None:
    assert set(WORK) == {path.stem for path in (ROOT / "tools").glob("*.py") if '"--out"' in path.read_text("utf-8")}


@pytest.mark.parametrize("tool", WORK)
@pytest.mark.parametrize("place", ["taken/below", "taken/below/deeper", "long"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, monkeypatch, tool, place) -> None:
    words, work = WORK[tool]
    module = importlib.import_module(f"tools.{tool}")
    if tool != "export":  # which checks in what it calls
        monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("the work was begun"))
    run = write_run(tmp_path / "run", (5,))
    (tmp_path / "taken").write_text("mine")
    out = tmp_path / ("n" * 300 if place == "long" else place)
    given = [str(run) if word == "RUN" else word for word in words.split()]
    assert module.main([*given, "--out", f"{out}{SUFFIX.get(tool, '')}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tool}: ") and str(tmp_path) in line and (tmp_path / "taken").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "taken"]


def test_a_dry_run_looks_at_its_folder_too(tmp_path, capsys) -> None:
    (tmp_path / "taken").write_text("mine")
    assert reproduce.main(["--prior", "toy", "--dry_run", "--out", str(tmp_path / "taken")]) == 2
    assert str(tmp_path / "taken") in capsys.readouterr().err


def test_the_documents_are_looked_at_too(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(readme_numbers, "train", None)
    monkeypatch.setattr(readme_numbers, "ROOT", tmp_path)
    (tmp_path / "docs").write_text("a file")
    assert readme_numbers.main(["--out", str(tmp_path / "runs")]) == 2
    assert str(tmp_path / "docs") in capsys.readouterr().err


@pytest.mark.parametrize(("tool", "words", "flag", "mode"), [
    (ablate_toy, "--out O --calibrate 2 --summary_only", "--summary_only", "--calibrate"),
    (ablate_toy, "--out O --calibrate 2 --priors ideal --front_bias F", "--front_bias", "--calibrate"),
    (ablate_toy, "--out O --calibrate 2 --seeds 8", "--seeds", "--calibrate"),
    (ablate_toy, "--out O --calibrate 2 --words weak", "--words", "--calibrate"),
    (ablate_toy, "--out O --calibrate 2 --weak 0.7", "--weak", "--calibrate"),
    (ablate_toy, "--out O --calibrate 2 --variants full", "--variants", "--calibrate"),
    *((ablate_toy, f"--rescore R {words}", words.split()[0], "--rescore") for words in (
        "--priors ideal", "--words full", "--seeds 8", "--variants full", "--film 1", "--summary_only", "--calibrate 2")),
    (ablate_toy, "--out O --words full --front_bias F", "--front_bias", "--words full"),
    (ablate_toy, "--out O --words full --weak 0.5", "--weak", "--words full"),
    (ablate_toy, "--out O --front_bias F --weak 0.7", "--weak", "--front_bias"),
    (reproduce, "--verify V --seeds 1", "--seeds", "--verify"),
    (reproduce, "--verify V --out O", "--out", "--verify"),
    (reproduce, "--verify V --prior sd", "--prior", "--verify"),
    (reproduce, "--prior toy --tflops 100", "--tflops", "--prior toy"),
    (reproduce, "--report_only --dry_run", "--dry_run", "--report_only"),
])  # fmt: skip
def test_a_flag_that_a_mode_does_not_read_is_refused(tmp_path, capsys, monkeypatch, tool, words, flag, mode) -> None:
    """The default too, where it is given."""
    monkeypatch.chdir(tmp_path)
    assert tool.main(words.split()) == 2
    told = capsys.readouterr().err
    assert re.search(rf": {flag} has no effect with {mode}\b.*; leave out one of them\.$", told.strip()) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--rescore", "R", "--", "--iterations", "3"], ["--verify", "V", "--", "--iterations", "3"]])
def test_words_for_train_py_are_refused_where_nothing_is_run(capsys, words) -> None:
    tool = ablate_toy if words[0] == "--rescore" else reproduce
    assert tool.main(words) == 2 and f"--iterations after `--` has no effect with {words[0]}" in capsys.readouterr().err


def test_weights_without_a_metric_are_refused(tmp_path, capsys) -> None:
    assert reproduce.main(["--prior", "toy", "--out", str(tmp_path / "out"), "--weights", str(tmp_path)]) == 2
    assert f"--weights {tmp_path} has no effect without a metric; add --metrics" in capsys.readouterr().err
