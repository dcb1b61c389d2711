# SPDX-License-Identifier: Apache-2.0
"""docs/distillation.md has a row for every law, whose numbers are those of its preset and of the counted samples."""

import json
import re
from pathlib import Path

import pytest

from distillation import LAWS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "distillation.md").read_text(encoding="utf-8")
NUMBERS = json.loads((ROOT / "tests" / "data" / "distillation_numbers.json").read_text())["laws"]
WEIGHTS = {"s/a": "interval", "s^2": "sigma_squared", "1": "uniform", "a": "alpha"}


def rows(title):
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in cells}


LAW_ROWS, COST_ROWS = rows("The laws"), rows("Cost, source, and what is verified here")


def test_both_tables_have_every_law():
    assert LAW_ROWS.keys() == COST_ROWS.keys() == LAWS.keys()


def numbers(text):
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("law", LAWS)
def test_a_row_has_the_presets_numbers(law):
    _, g, w, times, further = LAW_ROWS[law]
    preset = LAWS[law].preset
    scale, share = preset.get("guidance_scale"), preset.get("guidance_end_share", 1)
    assert numbers(g) == ([] if scale is None else [scale] if share == 1 else [scale, scale * share])
    assert WEIGHTS[w] == preset["weighting"] and f"`{preset['t_schedule']}`" in times
    given = set(numbers(times))
    assert {*preset["t_range"], *preset.get("t_range_start", ())} <= given
    assert "t_switch" not in preset or f"{100 * preset['t_switch']:g} %" in times
    assert ("one noise for the run" in further) == (preset.get("noise_source") == "fixed")
    assert ("clamp" in further) == ("grad_clamp" in preset) and ("unit norm" in further) == ("grad_unit_norm" in preset)
    assert all(f"`{name}`" in further for name in ("contrast_text", "source_words", "camera_guidance", "noising") if name in preset)


@pytest.mark.parametrize("law", LAWS)
def test_a_row_has_the_samples_and_the_state(law):
    samples, state, paper, licence = COST_ROWS[law]
    assert numbers(samples)[0] == NUMBERS[law]["samples"]
    assert (state == "the noise") == (LAWS[law].preset.get("noise_source") == "fixed")
    assert (state == "q") == LAWS[law].needs_predictor and paper and licence
