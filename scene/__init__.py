# SPDX-License-Identifier: Apache-2.0
"""The scene: initial points, training cameras and test cameras of one run, and where its clouds are saved."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cograd.regions import Cell
from scene.cameras import Lens, RCamera
from scene.dataset_readers import (
    CameraRanges,
    PoseJitter,
    circle_cameras,
    load_or_sample_points,
    placed_cameras,
    random_cameras,
)
from scene.gaussian_model import GaussianModel
from scene.mip_filter import Sampling
from scene.ply import write_vertices
from utils.camera_utils import camera_to_JSON
from utils.general_utils import write_text_atomically
from utils.random_streams import RandomStreams

if TYPE_CHECKING:
    from arguments import Config

TEST_VIEWS = 8


class CameraStack:
    """State: the training cameras that were drawn and not used yet. Draws the next batch when none is left."""

    def __init__(self, draw_batch: Callable[[RandomStreams], list[RCamera]], device: str | torch.device) -> None:
        self._draw_batch = draw_batch
        self._device = device
        self._cameras: list[RCamera] = []

    def __len__(self) -> int:
        return len(self._cameras)

    def pop(self, streams: RandomStreams) -> RCamera:
        """Take a random camera out (Python stream), after drawing a batch if the stack is empty."""
        if not self._cameras:
            self._cameras = list(self._draw_batch(streams))
        return self._cameras.pop(streams.python.randint(0, len(self._cameras) - 1))

    def state_dict(self) -> dict[str, Any]:
        """The cameras left, field by field: lists of numbers, or tensors stacked over the cameras."""
        names = [field.name for field in dataclasses.fields(RCamera)] if self._cameras else []
        return {name: _stacked([getattr(camera, name) for camera in self._cameras]) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back the cameras of `state_dict`."""
        count = len(state["uid"]) if state else 0
        self._cameras = [RCamera(**{name: self._field(name, x[k]) for name, x in state.items()}) for k in range(count)]

    def _field(self, name: str, value: Any) -> Any:
        if not torch.is_tensor(value):
            return value
        return value.cpu().numpy() if name in ("R", "T") else value.to(self._device)


class Scene:
    """State: the camera ranges (replace `ranges` to widen them), the stack of training cameras, the Gaussians."""

    def __init__(
        self,
        config: Config,
        gaussians: GaussianModel,
        streams: RandomStreams,
        device: str | torch.device,
        writes: bool = True,
        has_stale_points: bool = False,
        parameters: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Read `init_points3d.ply` of the output folder, or sample what `write_start` writes there; start `gaussians`.

        writes: whether `write_start` is called at once. has_stale_points: a file that is there is not read.
        parameters: of a checkpoint's Gaussians, in place of initial points, which are then neither read nor sampled.
        Raises ValueError for an initial shape that is unknown or not available, and for a cloud that cannot be read.
        """
        self.config = config
        self.gaussians = gaussians
        self.device = device
        self.model_path: Path = config.output_dir
        self.cameras_extent: float = config.cameras.default_radius
        self.ranges = CameraRanges.from_params(config.cameras)
        self.camera_stack = CameraStack(self.getRandTrainCameras, device)
        self._test_cameras = circle_cameras(config.cameras, TEST_VIEWS, device, config.cameras.render_45)
        self._initial_path = self.model_path / "init_points3d.ply"
        self._sampled: np.ndarray | None = None
        if parameters is None:
            cloud, self._sampled = load_or_sample_points(self._initial_path, config.cameras, streams, has_stale_points)
            gaussians.create_from_pcd(cloud, self.cameras_extent)
        else:
            gaussians.create_from_parameters(parameters, self.cameras_extent)
        gaussians.antialiased = config.pipeline.mip_filter
        gaussians.sampling = Sampling.of_run(config) if config.pipeline.mip_filter else None
        if writes:
            self.write_start()

    def write_start(self) -> None:
        """Write init_points3d.ply, where it was sampled, and cameras.json. Raises OSError."""
        if self._sampled is not None:
            write_vertices(self._initial_path, self._sampled)
            self._sampled = None
        records = [camera_to_JSON(ind, camera) for ind, camera in enumerate(self._test_cameras)]
        write_text_atomically(self.model_path / "cameras.json", json.dumps(records))

    def getRandTrainCameras(self, streams: RandomStreams) -> list[RCamera]:
        """A fresh batch of ModelParams.batch training cameras from the present ranges."""
        return self.getPurnTrainCameras(streams, self.config.model.batch)

    def getPurnTrainCameras(self, streams: RandomStreams, batch_size: int) -> list[RCamera]:
        """`batch_size` training cameras at once from the present ranges; upstream's name for them."""
        return random_cameras(self.config.cameras, self.ranges, batch_size, streams, self.device)

    def cameras_at(
        self,
        theta_deg: torch.Tensor,
        phi_deg: torch.Tensor,
        radius: torch.Tensor,
        streams: RandomStreams,
        bounds: Sequence[Cell] | None = None,
    ) -> list[RCamera]:
        """Training cameras at chosen places [B], with jitter and one field of view of the ranges for all of them.

        bounds: cells that the jittered centres stay in.
        """
        params, (low, high) = self.config.cameras, self.ranges.fovy_rad
        fov_rad = low + (high - low) * streams.python.random()
        lens = Lens(fov_rad, params.image_w * params.SSAA, params.image_h * params.SSAA)
        default_pose = params.default_polar, params.default_azimuth, params.default_radius
        jitter = PoseJitter.draw(params, len(radius), streams)
        return placed_cameras(radius, theta_deg, phi_deg, lens, self.device, default_pose, jitter, bounds)

    def getTestCameras(self) -> list[RCamera]:
        """The eight test views, and eight more from above with render_45."""
        return self._test_cameras

    def getCircleVideoCameras(self, batch_size: int = 120, render45: bool = False) -> list[RCamera]:
        """Turntable of `batch_size` views, and as many from above with render45."""
        return circle_cameras(self.config.cameras, batch_size, self.device, render45)

    def save(self, iteration: int, gaussians: GaussianModel | None = None) -> Path:
        """Write the Gaussians, or others, to point_cloud/iteration_K/point_cloud.ply; returns that path."""
        path = cloud_path(self.model_path, iteration)
        (self.gaussians if gaussians is None else gaussians).save_ply(path)
        return path


def cloud_path(run: Path, iteration: int) -> Path:
    """Where a run folder has the Gaussians of an iteration: point_cloud/iteration_K/point_cloud.ply."""
    return run / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"


def _stacked(values: list[Any]) -> Any:
    """One field of several cameras: a tensor [B, ...] for arrays and tensors, a list for numbers."""
    if isinstance(values[0], int | float):
        return values
    return torch.stack([torch.as_tensor(value).cpu() for value in values])
