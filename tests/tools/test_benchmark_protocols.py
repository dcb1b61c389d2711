# SPDX-License-Identifier: Apache-2.0
"""R-Precision, T3Bench's quality protocol and GPTEval3D's layout: the rules, and the tools on runs and tiny models."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from evaluation import gpteval3d, r_precision, t3bench
from evaluation.icosphere import icosphere
from evaluation.run_folder import config_of_run
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from tests.red_ball import red_ball, write_run
from tools import gpteval3d as gpteval3d_tool
from tools import r_precision as r_precision_tool
from tools import t3bench as t3bench_tool

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation"))
import tiny_models as tiny

PROMPT = "a red sphere with red stripe"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    tiny.write_clip(folder, "clip-vit-base-patch32")
    return folder


# --- R-Precision ------------------------------------------------------------------------------------------------------


def test_retrieval_per_view_and_per_asset() -> None:
    similarity = np.array([[3.0, 1, 2], [1, 2, 0], [1, 1, 0], [9, 0, 0]])
    assert r_precision.retrieval(similarity, 0) == r_precision.Retrieval(4, 2, True)  # views 0 and 3; a tie is a miss
    assert r_precision.retrieval(similarity, 1) == r_precision.Retrieval(4, 1, False)
    assert r_precision.retrieval(similarity, 2) == r_precision.Retrieval(4, 0, False)


def test_random_similarities_are_at_chance() -> None:
    """Of 4000 views and 8 prompts; five standard errors."""
    found = r_precision.retrieval(np.random.default_rng(0).random((4000, 8)), 3)
    assert abs(found.hits / found.views - 1 / 8) < 5 * (7 / 64 / 4000) ** 0.5


def test_the_set_holds_every_runs_prompt_once() -> None:
    assert r_precision.prompt_set(["a", "b"], ["b", "c", "c"]) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="holds only 'a'; expected two prompts or more"):
        r_precision.prompt_set(["a"], ["a"])


def test_the_r_precision_tool_prints_chance_and_size(tmp_path, weights, monkeypatch, capsys) -> None:
    runs = [str(write_run(tmp_path / name, (5,))) for name in ("full-a", "wo-a")]
    monkeypatch.setattr(r_precision_tool, "orbit", lambda *_: tiny.images(6, 40, 40))
    (tmp_path / "set.txt").write_text("a dog\na photo\n")
    assert r_precision_tool.main([*runs, "--prompts", str(tmp_path / "set.txt"), "--weights", str(weights)]) == 0
    out = capsys.readouterr().out
    assert "R-Precision by CLIP B/32 over 3 prompts (chance 0.3333): per view " in out and "/2, " in out
    assert out.count(" of 6 views; the asset's prompt is ") == 2


# --- T3Bench ----------------------------------------------------------------------------------------------------------


def test_the_sphere_has_162_even_directions() -> None:
    points, neighbours = icosphere(2)
    assert len(points) == 162
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-12)
    counts = [len(own) for own in neighbours]
    assert counts.count(5) == 12 and counts.count(6) == 150
    for k, own in enumerate(neighbours):
        assert all(k in neighbours[other] for other in own)
        assert np.degrees(np.arccos(points[own] @ points[k])).max() < 21


def test_quality_is_the_best_mean_over_neighbours() -> None:
    _, neighbours = icosphere(2)
    even = np.tile([1.0, 0, 3, 2, -1], (162, 1))
    assert t3bench.quality(even, neighbours) == pytest.approx(3)  # the best zoom counts
    single = np.zeros((162, 5))
    twelve = next(k for k, own in enumerate(neighbours) if len(own) == 5)
    single[twelve, 1] = 1.0
    assert t3bench.quality(single, neighbours, 0) == 1.0
    assert t3bench.quality(single, neighbours, 1) == pytest.approx(1 / 6)
    assert t3bench.quality(single, neighbours) < 1 / 6


def test_a_mean_over_neighbours_is_one_written_out() -> None:
    points, neighbours = icosphere(1)
    scores = np.random.default_rng(0).random((len(points), 5))
    joined = np.eye(len(points))
    for k, own in enumerate(neighbours):
        joined[k, own] = 1
    mean = joined / joined.sum(axis=1, keepdims=True)
    expected = (np.linalg.matrix_power(mean, 3) @ scores.max(axis=1)).max()
    assert t3bench.quality(scores, neighbours) == pytest.approx(expected)


def test_cameras_stand_in_their_directions_and_see_the_whole_object() -> None:
    ball = red_ball()
    cameras, (directions, _) = t3bench.cameras_of(ball, 32), icosphere(2)
    assert len(cameras) == 162 and {len(own) for own in cameras} == {5}
    for direction, own in zip(directions, cameras):
        for camera in own:
            place = camera.camera_center.numpy()
            assert place @ direction / np.linalg.norm(place) > np.cos(np.radians(1))
    some = [cameras[k] for k in range(0, 162, 40)]
    metric = lambda images, _: (images < 128).any(axis=-1).mean(axis=(1, 2))  # noqa: E731
    shares = np.array([metric(np.stack(list(t3bench.render_images(ball, own, torch.ones(3)))), "") for own in some])
    assert (np.diff(shares, axis=1) > 0).all()  # larger and larger
    np.testing.assert_allclose(shares[:, 0] * (1.0 / 0.6) ** 2, shares[:, 2], rtol=0.15)
    assert shares[:, 2].max() < np.pi / 4  # at zoom 1 it fits


def test_the_t3bench_tool_averages_over_prompts(tmp_path, monkeypatch, capsys) -> None:
    runs = [str(write_run(tmp_path / name, (5,))) for name in ("full-a", "full-b")]
    (tmp_path / "prompts.txt").write_text(f"a dog\n{PROMPT}\n")
    monkeypatch.setattr(t3bench_tool, "load_metric", lambda *_: lambda images, prompt: np.full(len(images), 0.5))
    assert t3bench_tool.main([*runs, "--prompts", str(tmp_path / "prompts.txt"), "--size_px", "16"]) == 0
    out = capsys.readouterr().out
    assert "Quality by ImageReward: 0.5000, mean over 1 of 2 prompts" in out


# --- GPTEval3D --------------------------------------------------------------------------------------------------------


def test_the_layout_holds_images_and_normals(tmp_path, capsys) -> None:
    runs = [str(write_run(tmp_path / name, (5,))) for name in ("full-a", "wo-a")]
    (tmp_path / "prompts.json").write_text(json.dumps(["a dog", PROMPT]))
    out, small = tmp_path / "out", ["--views", "4", "--size_px", "32"]
    words = [*runs, "--out", str(out), "--prompts", str(tmp_path / "prompts.json"), *small]
    assert gpteval3d_tool.main(words) == 0
    assert json.loads((out / "prompts.json").read_text()) == ["a dog", PROMPT]
    seed = config_of_run(tmp_path / "full-a").seed
    names = sorted(f"{kind}_{k}.png" for kind in ("rgb", "normal") for k in range(4))
    for method in ("full", "wo"):
        assert sorted(path.name for path in (out / "methods" / method / "1" / str(seed)).iterdir()) == names
    rgb = cv2.imread(str(out / "methods" / "full" / "1" / str(seed) / "rgb_0.png"))
    assert rgb.shape == (32, 32, 3) and rgb[16, 16, 2] > 150 > 60 > rgb[16, 16, 0]
    capsys.readouterr()
    (out / "methods" / "wo" / "1" / str(seed)).rename(part := out / "methods" / "wo" / "1" / f"{seed}.part")
    next(part.iterdir()).unlink()  # as a call leaves it that is stopped
    before = (out / "methods" / "full" / "1" / str(seed) / "rgb_0.png").stat().st_mtime_ns
    assert gpteval3d_tool.main(words) == 0
    assert "Wrote 1 asset to" in (told := capsys.readouterr().out) and "there before: 1" in told and not part.exists()
    assert sorted(path.name for path in (out / "methods" / "wo" / "1" / str(seed)).iterdir()) == names
    assert (out / "methods" / "full" / "1" / str(seed) / "rgb_0.png").stat().st_mtime_ns == before
    for other in (["--views", "5"], ["--size_px", "48"]):
        assert gpteval3d_tool.main([*words, *other]) == 2
        assert "px; delete it or give another --out" in capsys.readouterr().err


def test_an_asset_is_there_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    run, made = write_run(tmp_path / "full-a", (5,)), []

    def stops(path, image) -> None:
        made.append(path)
        if len(made) > 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(gpteval3d, "write_png", stops)
    with pytest.raises(KeyboardInterrupt):
        gpteval3d_tool.main([str(run), "--out", str(tmp_path / "out"), "--views", "4", "--size_px", "32"])
    (folder,) = (tmp_path / "out" / "methods" / "full" / "0").iterdir()
    assert folder.name.endswith(".part")


@pytest.mark.parametrize("azimuth_deg", [0, 90, 180, 270])
def test_a_normal_is_the_shortest_axis_towards_the_camera(azimuth_deg) -> None:
    """A disc whose normal is z, turned about x by 90 degrees: its normal is along y; seen from the front it is +y."""
    values = {
        "xyz": torch.zeros(1, 3), "f_dc": torch.zeros(1, 1, 3), "f_rest": torch.zeros(1, 0, 3),
        "opacity": torch.full((1, 1), 9.0), "scaling": torch.tensor([[-1.0, -1.0, -6.0]]),
        "rotation": torch.tensor([[0.5**0.5, 0.5**0.5, 0.0, 0.0]]),
    }  # fmt: skip
    camera = camera_at(3.0, 80.0, azimuth_deg + 10.0, 0.6, 32, 32)
    shown = gpteval3d.coloured_by_normals(GaussianModel.of_parameters(values), camera)
    normal = 2 * (shown.get_features[0, 0].detach().numpy() * 0.28209479177387814 + 0.5) - 1
    sign = 1 if azimuth_deg in (0, 270) else -1
    np.testing.assert_allclose(normal, [0, sign, 0], atol=1e-5)


# --- refusals, before any work ----------------------------------------------------------------------------------------


def _words(tool, folder: Path, file: Path) -> list[str]:
    own = {r_precision_tool: [], t3bench_tool: ["--prompts", str(file)], gpteval3d_tool: ["--out", str(folder / "out")]}
    return own[tool]


@pytest.mark.parametrize("tool", [r_precision_tool, t3bench_tool, gpteval3d_tool])
def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys, tool) -> None:
    (tmp_path / "prompts.txt").write_text(PROMPT)
    run = write_run(tmp_path / "full-a", (5,))
    assert tool.main([str(run), str(tmp_path), *_words(tool, tmp_path, tmp_path / "prompts.txt")]) == 2
    assert "holds no config.yaml, so it is no run folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tool", [r_precision_tool, t3bench_tool])
def test_missing_weights_are_told_before_any_image(tmp_path, capsys, monkeypatch, tool) -> None:
    (tmp_path / "prompts.txt").write_text(PROMPT)
    run = write_run(tmp_path / "full-a", (5,))
    monkeypatch.setattr(tool, "gaussians_of_run", lambda *_: pytest.fail("loaded"))
    words = [str(run), *_words(tool, tmp_path, tmp_path / "prompts.txt"), "--weights", str(tmp_path)]
    assert tool.main(words) == 2
    assert "does not exist; expected the files of the hub repository" in capsys.readouterr().err


@pytest.mark.parametrize("tool", [t3bench_tool, gpteval3d_tool])
def test_a_run_of_another_prompt_is_refused(tmp_path, capsys, tool) -> None:
    (tmp_path / "prompts.txt").write_text("a dog")
    run, out = write_run(tmp_path / "full-a", (5,)), ["--out", str(tmp_path / "out")] if tool is gpteval3d_tool else []
    assert tool.main([str(run), "--prompts", str(tmp_path / "prompts.txt"), *out]) == 2
    assert f"is of {PROMPT!r}, which " in capsys.readouterr().err


def test_two_runs_of_one_asset_are_refused(tmp_path, capsys) -> None:
    runs = [str(write_run(tmp_path / name, (5,))) for name in ("full-a", "full-b")]
    assert gpteval3d_tool.main([*runs, "--out", str(tmp_path / "out")]) == 2
    assert "several runs would be methods/full/0/" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
