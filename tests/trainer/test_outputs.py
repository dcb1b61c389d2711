# SPDX-License-Identifier: Apache-2.0
"""The process video's frames; the picture of CoGrad's regions, and that a run writes it at every test iteration."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from arguments import CoGradParams, Config
from arguments.load import load_config
from trainer.outputs import REGION_MAPS, RunOutputs
from utils.heat_map import MARGIN_PX, TITLE_PX, cell_colours
from utils.image_utils import read_png

RUN = {
    "iterations": 4, "image_w": 16, "image_h": 16, "init_num_pts": 50, "guidance": "ideal", "sds": True, "perpneg": False, "text": "a red cube",
    "device": "cpu", "test_ratio": 2, "save_video": False, "save_process": False, "C_batch_size": 2, "CoGradParams.enabled": True,
    "densify_until_iter": 0,
}  # fmt: skip


@pytest.fixture
def outputs(tmp_path):
    """region_maps of 2 x 4 x 2 regions; nothing else of RunOutputs is needed."""
    params = CoGradParams(elevation_levels=2, azimuth_levels=4, distance_levels=2)
    return SimpleNamespace(folder=tmp_path, config=Config(cograd=params))


def _maps() -> dict[str, torch.Tensor]:
    """Numbers that are different everywhere, [E, A, D]."""
    values = torch.arange(16).view(2, 4, 2)
    return {"visits": values, "indicator": 1 + values / 10, "t_local": values * 10.0 - 60, "probability": values / 100}


def test_highest_elevation_is_on_top_and_distance_levels_are_side_by_side(outputs) -> None:
    path = RunOutputs.region_maps(outputs, 7, _maps)
    assert path == outputs.folder / "cograd" / "regions_7.png"
    picture = read_png(path).astype(int)
    cell_h, cell_w, strip = 33, 120, TITLE_PX + MARGIN_PX
    for row, name in enumerate(REGION_MAPS):
        values = _maps()[name].double().numpy()
        expected = cell_colours(values.transpose(2, 0, 1).reshape(4, 4), values.min(), values.max()).reshape(2, 2, 4, 3)
        top = (row + 1) * strip + row * (strip + 2 * cell_h) + TITLE_PX + MARGIN_PX // 2
        for d in range(2):
            left = d * (4 * cell_w + MARGIN_PX) + MARGIN_PX // 2
            centres = picture[
                top + cell_h // 2 : top + 2 * cell_h : cell_h, left + cell_w // 2 : left + 4 * cell_w : cell_w
            ]
            assert np.array_equal(centres[::-1], expected[d]), (name, d)


def test_titles_are_written(outputs) -> None:
    picture = read_png(RunOutputs.region_maps(outputs, 1, _maps))
    assert (picture[:TITLE_PX, :200].max(-1) < 100).sum() > 20  # "visits: 0 .. 15"
    assert (picture[-TITLE_PX - MARGIN_PX :, :400].max(-1) < 100).sum() > 100  # the axes


def test_one_region_and_equal_values_are_a_picture(outputs) -> None:
    outputs.config = Config(cograd=CoGradParams(elevation_levels=1, azimuth_levels=1, distance_levels=1))
    maps = {name: torch.zeros(1, 1, 1) for name in REGION_MAPS}
    assert read_png(RunOutputs.region_maps(outputs, 1, lambda: maps)).shape[1] == 480 + MARGIN_PX


def test_a_run_writes_it_at_every_test_iteration(tmp_path) -> None:
    words = [word for name, value in RUN.items() for word in (f"--{name}", str(value))]
    assert train.main([*words, "--model_path", str(tmp_path / "on")]) == 0
    assert {path.name for path in (tmp_path / "on" / "cograd").iterdir()} == {f"regions_{k}.png" for k in (1, 2, 4)}
    lines = [json.loads(line) for line in (tmp_path / "on" / "log.jsonl").read_text().splitlines()]
    assert all(len(line["cograd"]["regions"]) == 2 for line in lines)
    assert train.main([*words, "--CoGradParams.enabled", "false", "--model_path", str(tmp_path / "off")]) == 0
    assert not (tmp_path / "off" / "cograd").exists()


def test_the_process_video_goes_once_round_however_long_the_run() -> None:
    """7 frames over 20 iterations, evenly spread, each from the next camera of the circle."""
    outputs = RunOutputs.__new__(RunOutputs)
    outputs.config = load_config(["--text", "x", "--iterations", "20", "--pro_frames_num", "7"])
    outputs._process_frames, outputs._process_cameras = 7, list("abcdefg")
    seen = [outputs._process_camera(iteration) for iteration in range(1, 21)]
    assert [camera for camera in seen if camera] == list("abcdefg")
    assert [k for k, camera in enumerate(seen, 1) if camera] == [3, 6, 9, 12, 15, 18, 20]
