# SPDX-License-Identifier: Apache-2.0
"""The whole trainer on the simulated GPU: no mixing of devices, no host index, and the waits of a step that are documented."""

import json

import pytest

from arguments.exit_codes import FINISHED
from diff_gaussian_rasterization import _cuda, _host
from tests.simulated_cuda.conftest import run


def test_a_run_stays_on_the_device(gpu, tmp_path):
    """CoGrad with densification and fusion at every step, test views, checkpoints."""
    words = {"densify_from_iter": 1, "densification_interval": 2, "fusion_range": "0.0,1.0", "checkpoint_every": 2}
    assert run("ideal", tmp_path, iterations=5, **words) == FINISHED
    assert gpu.host_indices == {}
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["rasterizer"]["backend"] == "cuda"


@pytest.mark.parametrize("kernels", [True, pytest.param(False, marks=pytest.mark.device)])
def test_the_views_of_a_step_are_rendered_by_one_call(gpu, tmp_path, monkeypatch, kernels):
    """One launch of each kernel for three views on the GPU, one call of the CPU's library where that renders."""
    owner, name = (_cuda, "rasterize") if kernels else (_host.Rasterize, "apply")
    calls, original = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda settings, *rest: calls.append(len(settings)) or original(settings, *rest))
    options = {"C_batch_size": 3, "lambda_z_variance": 0.5, "rasterizer": "auto" if kernels else "cpu"}
    assert run("ideal", tmp_path, iterations=4, **options) == FINISHED
    assert [count for count in calls if count > 1] == [3] * 2 * 4  # the images and the z-variances of four steps


@pytest.mark.device
@pytest.mark.parametrize("loss", ["ism", "sds"])
def test_a_diffusion_model(gpu, tmp_path, loss):
    assert run("SD", tmp_path, distillation=loss, iterations=2) == FINISHED
    assert gpu.host_indices == {}


def test_without_kernels_the_cpu_renders_and_that_is_reported_and_recorded(gpu_without_kernels, tmp_path, caplog):
    assert run("ideal", tmp_path, iterations=1) == FINISHED
    told = [record.getMessage() for record in caplog.records if "CUDA kernels do not run on cuda:0" in record.getMessage()]
    assert len(told) == 1 and "rasterizer" in told[0]
    record = json.loads((tmp_path / "run.json").read_text())
    expected = {"backend": "cpu", "why_not_cuda": "nvcc was not found when the package was built"}
    assert record["rasterizer"] == record["rasterizer"] | expected


def test_without_kernels_a_run_that_demands_them_is_refused(gpu_without_kernels, tmp_path, capsys):
    assert run("ideal", tmp_path / "run", rasterizer="cuda") == 2
    assert "the CUDA kernels do not run: nvcc was not found" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.device
def test_the_cpu_renders_where_it_is_asked_to(gpu, tmp_path, caplog):
    assert run("ideal", tmp_path, iterations=1, rasterizer="cpu") == FINISHED
    assert not [record for record in caplog.records if "CUDA kernels" in record.getMessage()]
    assert json.loads((tmp_path / "run.json").read_text())["rasterizer"]["backend"] == "cpu"
