# SPDX-License-Identifier: Apache-2.0
"""A simulated GPU for a test, and tiny runs on it."""

from collections.abc import Iterator
from pathlib import Path

import diffusers  # noqa: F401  (imports much, which is not done on the simulated device)
import pytest
import transformers  # noqa: F401

import train
from tests.simulated_cuda.device import simulated_gpu
from tests.simulated_cuda.memory import DeviceMemory

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "device": "cuda", "iterations": 4, "C_batch_size": 2, "init_num_pts": 200, "view_px": 16, "test_ratio": 1,
    "save_video": "false", "save_process": "false", "keep_checkpoints": 9,
}  # fmt: skip
OF_PRIOR = {
    "ideal": {"opt": ROOT / "configs/quickstart.yaml", "image_w": 16, "image_h": 16},
    "SD": {"opt": ROOT / "configs/prompt.yaml", "model_key": ROOT / "tests/data/golden/tiny-sd", "text": "a cat",
           "image_w": 64, "image_h": 64, "azimuth_levels": 4, "elevation_levels": 2, "xs_inv_steps": 2},
}  # fmt: skip


@pytest.fixture
def gpu() -> Iterator[DeviceMemory]:
    """A GPU with the rasterizer's kernels."""
    with simulated_gpu() as memory:
        yield memory


@pytest.fixture
def gpu_without_kernels() -> Iterator[DeviceMemory]:
    """A GPU, and a rasterizer that was built without nvcc."""
    with simulated_gpu(kernels=False) as memory:
        yield memory


def words_of(prior: str, folder: Path, **settings: object) -> list[str]:
    """The command line of a tiny run on the simulated device."""
    merged = {**TINY, **OF_PRIOR[prior], "model_path": folder, **settings}
    return [word for name, value in merged.items() for word in (f"--{name}", str(value))]


def run(prior: str, folder: Path, **settings: object) -> int:
    """Runs it; the exit status."""
    return train.main(words_of(prior, folder, **settings))
