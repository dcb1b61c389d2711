# SPDX-License-Identifier: Apache-2.0
"""The goals that the GPU check holds its times against."""

import json

import pytest

from evaluation.gpu_check import parts
from evaluation.gpu_check.goals import judged
from evaluation.gpu_check.protocol import PartFailed, Session


@pytest.mark.parametrize(
    ("gpu", "ism_ms", "sds_ms", "rasterizer_ms", "met"),
    [
        ("NVIDIA H100 80GB HBM3", 120.0, 50.0, 1.5, [True, True, True]),
        ("NVIDIA H100 80GB HBM3", 121.0, 50.0, 1.5, [True, False, True]),
        ("NVIDIA H200", 119.0, 51.0, 1.6, [False, True, False]),
        ("NVIDIA A100-SXM4-40GB", 300.0, 900.0, 1.0, [True, True, True]),
        ("NVIDIA A100-SXM4-40GB", 301.0, 900.0, 1.0, [True, False, True]),
        ("Tesla V100", 9000.0, 9000.0, 1.0, [True, True, True]),
    ],
)
def test_each_goal_is_met_up_to_its_number(gpu, ism_ms, sds_ms, rasterizer_ms, met) -> None:
    lines = judged(gpu, ism_ms, sds_ms, rasterizer_ms)
    assert [is_met for _, is_met in lines] == met
    assert f"ISM, 6000 steps: {ism_ms / 10:.1f} min" in lines[1][0]


@pytest.mark.parametrize(("ism_ms", "is_tiny"), [(110.0, False), (130.0, False), (130.0, True)])
def test_a_missed_goal_fails_the_part_but_not_a_rehearsal(tmp_path, monkeypatch, ism_ms, is_tiny) -> None:
    asked = []

    def printed(self, words, *rest, **options):
        asked.append(words)
        if "evaluation.gpu_check.device" in words:
            return json.dumps({"gpu": "NVIDIA H100"})
        if "benchmarks/rasterizer.py" in words:
            return "| rasterizer | both |\n|---|---|\n| ours | 1.0 (0.9) |\n"
        return f"| step ms |\n|---|\n| {45.0 if '--sds' in words else ism_ms} |\n"

    monkeypatch.setattr(Session, "output_of", printed)
    monkeypatch.setattr(parts, "random_weights", lambda session: tmp_path)
    given = Session(("python",), "cuda", is_tiny, tmp_path, 1e9)
    if ism_ms > 120 and not is_tiny:
        with pytest.raises(PartFailed, match=r"^missed: ISM, 6000 steps: 13\.0 min, goal 12 min$"):
            parts.goals(given)
    else:
        assert "SDS, 6000 steps: 4.5 min, goal 5 min" in parts.goals(given).summary
    assert all(words[words.index("--t") + 1] == "450" for words in asked if "benchmarks/step.py" in words)
