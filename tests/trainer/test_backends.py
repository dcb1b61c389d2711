# SPDX-License-Identifier: Apache-2.0
"""A GPU without CUDA kernels is reported before a run, or refused; run.json says what renders."""

import json
import logging

import pytest
import torch

import diff_gaussian_rasterization
import train
from arguments.exit_codes import FINISHED, REFUSED
from diff_gaussian_rasterization import _cuda
from trainer.backends import backends, check_rasterizer

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
NO_NVCC = "nvcc was not found when the package was built"
RUN = ["--opt", "configs/quickstart.yaml", "--device", "cpu", "--iterations", "1", "--save_video", "false",
       "--image_w", "16", "--image_h", "16", "--init_num_pts", "50", "--C_batch_size", "1", "--quiet"]  # fmt: skip


class Library:
    """A library whose kernels run, or do not for the reason `error`."""

    def __init__(self, error: bytes = b"") -> None:
        self.error = error

    def __getattr__(self, name: str):
        function = name.removeprefix("dgr_cuda_")
        answers = {"probe": lambda device: int(bool(self.error)), "last_error": lambda: self.error, "archs": lambda: b"80 80-ptx"}
        if function not in answers:
            raise AttributeError(name)
        return answers[function]


@pytest.fixture(params=["no library", "no code for this GPU"])
def without_kernels(request, monkeypatch):
    """The rasterizer as it is without nvcc, or on a GPU that they have no code for; gives what the reason begins with."""
    library, reason = (None, NO_NVCC) if request.param == "no library" else (Library(b"no kernel image"), "no kernel image")
    monkeypatch.setattr(_cuda, "LIBRARY", library)
    monkeypatch.setattr(_cuda, "WHY_NOT", NO_NVCC)
    monkeypatch.setattr(_cuda, "_usable", {})
    return reason


@pytest.fixture
def with_kernels(monkeypatch):
    monkeypatch.setattr(_cuda, "LIBRARY", Library())
    monkeypatch.setattr(_cuda, "_usable", {})


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_auto_warns_once_with_the_reason_and_what_to_do(without_kernels, caplog):
    for _ in range(3):
        check_rasterizer("auto", GPU)
    (told,) = warnings_of(caplog)
    assert without_kernels in told and "cuda:0" in told and "pip install --force-reinstall" in told


def test_cuda_is_refused_where_there_are_no_kernels(without_kernels):
    with pytest.raises(ValueError, match=f"rasterizer is cuda, but .*{without_kernels}.*rasterizer: auto"):
        check_rasterizer("cuda", GPU)


def test_cpu_is_quiet(without_kernels, caplog):
    check_rasterizer("cpu", GPU)
    assert warnings_of(caplog) == []


def test_with_kernels_nothing_is_said(with_kernels, caplog):
    for rasterizer in ("auto", "cuda", "cpu"):
        check_rasterizer(rasterizer, GPU)
    check_rasterizer("auto", CPU)
    assert warnings_of(caplog) == []


def test_the_record_names_backend_and_reason(without_kernels):
    record = backends("auto", GPU)
    assert record["rasterizer"]["backend"] == "cpu" and record["rasterizer"]["why_not_cuda"].startswith(without_kernels)


def test_the_record_of_kernels(with_kernels):
    record = backends("auto", GPU)
    assert record["rasterizer"] == {"backend": "cuda", "compiled_for": diff_gaussian_rasterization.backend()["cuda"]}
    assert backends("cpu", GPU)["rasterizer"]["why_not_cuda"] == "PipelineParams.rasterizer is cpu"


def test_run_json_says_what_renders(tmp_path):
    assert train.main([*RUN, "--model_path", str(tmp_path)]) == FINISHED
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["rasterizer"]["backend"] == "cpu"
    assert record["rasterizer"]["cpu_level"] == diff_gaussian_rasterization.backend()["cpu"]
    assert record["rasterizer"]["why_not_cuda"] == "the device is cpu"


def test_a_run_is_refused_before_its_folder_is_made(tmp_path, capsys):
    words = [*RUN, "--model_path", str(tmp_path / "run"), "--rasterizer", "cuda"]
    assert train.main(words) == REFUSED
    assert "PipelineParams.rasterizer is cuda, but the CUDA kernels do not run: the device is cpu" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
