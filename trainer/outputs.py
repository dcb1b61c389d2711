# SPDX-License-Identifier: Apache-2.0
"""The images and videos of a run, in upstream's folders and under upstream's names.

Nothing here touches the random streams of the training: looking at a run does not change it. (Upstream's reports draw
from the global streams; a run with other report intervals is another run there.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from arguments import CoGradParams, Config
from gaussian_renderer import render
from scene import cloud_path
from trainer.careful_writes import CarefulWrites
from utils.heat_map import heat_map, in_rows, text_strip
from utils.image_utils import colour_map, to_uint8, write_png
from utils.video import SegmentedVideo, VideoWriter

if TYPE_CHECKING:
    from scene import Scene
    from scene.cameras import RCamera
    from scene.gaussian_model import GaussianModel

FPS = 30
REGION_MAPS = {
    "visits": "visits",
    "indicator": "convergence indicator r",
    "t_local": "local timestep offset (timesteps)",
}
MAP_PX = (66, 480)  # least height and width of one map of all regions


def plain_background(config: Config, gaussians: GaussianModel) -> torch.Tensor:
    """White or black, as the config says: [3] on the Gaussians' device."""
    return torch.full((3,), float(config.model.white_background), device=gaussians.get_xyz.device)


@torch.no_grad()
def turntable(
    gaussians: GaussianModel, cameras: Sequence[RCamera], config: Config, background: torch.Tensor | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (rgb, disparity colours), uint8 [H, W, 3] each, of one camera after the other, without augmentation.

    `background` [3] in place of the config's white or black.
    """
    background = plain_background(config, gaussians) if background is None else background
    for camera in cameras:
        out = render(camera, gaussians, config.pipeline, background)
        yield to_uint8(out["render"]), colour_map(out["depth"])


class RunOutputs:
    """Writes test views, turntable videos, the process video and the guidance panels of one run folder."""

    def __init__(self, folder: Path, scene: Scene, gaussians: GaussianModel, config: Config) -> None:
        self.folder, self.scene, self.gaussians, self.config = folder, scene, gaussians, config
        iterations, opt = config.optimization.iterations, config.optimization
        self._process_frames = min(opt.pro_frames_num, iterations) if opt.save_process else 0
        self._process_cameras = scene.getCircleVideoCameras(self._process_frames) if self._process_frames else []
        self.process_video = SegmentedVideo(folder / "process_videos" / "video_rgb.mp4", FPS)

    def write_due(
        self,
        iteration: int,
        writes: CarefulWrites,
        panel: Callable[[], torch.Tensor] | None,
        maps: Callable[[], Mapping[str, torch.Tensor]] | None,
    ) -> Path | None:
        """All that is due at this iteration; returns the path of a turntable video. panel, maps: None without them.

        What an output shows is computed inside its write, so that a failure there costs that output alone.
        """
        config, writes.step = self.config, iteration
        if (camera := self._process_camera(iteration)) is not None:
            frame = writes("frame of the process video", self._frame, camera)
            if frame is not None:
                writes("process video", self.process_video.add, frame)
        if iteration % config.guidance.vis_interval == 0 and panel is not None:
            writes("panel", self.panel, iteration, panel)
        return self._write(self._due(iteration, maps), writes)

    def write_again(
        self, iteration: int, writes: CarefulWrites, maps: Callable[[], Mapping[str, torch.Tensor]] | None
    ) -> Path | None:
        """What is lost of this iteration's outputs, and can be made from the scene after it, and the scene if absent.

        Returns the path of a turntable video, as `write_due` does.
        """
        writes.step = iteration
        lost = writes.lost_at(iteration)
        if not cloud_path(self.folder, iteration).is_file():
            lost.add("scene")
        return self._write({kind: write for kind, write in self._due(iteration, maps).items() if kind in lost}, writes)

    def _due(
        self, iteration: int, maps: Callable[[], Mapping[str, torch.Tensor]] | None
    ) -> dict[str, Callable[[], Path]]:
        """What of a scene is due at this iteration: kind -> its writing, which returns where it is."""
        due, config = dict[str, Callable[[], Path]](), self.config
        if iteration in config.test_iterations:
            due["test views"] = partial(self.test_views, iteration)
            if maps is not None:
                due["region maps"] = partial(self.region_maps, iteration, maps)
            if config.save_video:
                due["turntable"] = partial(self.videos, iteration)
        if iteration in config.save_iterations:
            due["scene"] = partial(self.scene.save, iteration)
        return due

    @staticmethod
    def _write(due: Mapping[str, Callable[[], Path]], writes: CarefulWrites) -> Path | None:
        return {kind: writes(kind, write) for kind, write in due.items()}.get("turntable")

    def test_views(self, iteration: int) -> Path:
        """test_six_views/K_iteration/render_view_V.png and render_depth_V.png; returns their folder."""
        folder = self.folder / "test_six_views" / f"{iteration}_iteration"
        frames = turntable(self.gaussians, self.scene.getTestCameras(), self.config)
        for view, (rgb, depth) in enumerate(frames):
            write_png(folder / f"render_view_{view}.png", rgb)
            write_png(folder / f"render_depth_{view}.png", depth)
        return folder

    def videos(self, iteration: int) -> Path:
        """videos/K_iteration/video_rgb_K.mp4 and video_depth_K.mp4; returns the path of the first."""
        folder = self.folder / "videos" / f"{iteration}_iteration"
        rgb_path = folder / f"video_rgb_{iteration}.mp4"
        cameras = self.scene.getCircleVideoCameras()
        with (
            VideoWriter(rgb_path, FPS) as rgb_video,
            VideoWriter(folder / f"video_depth_{iteration}.mp4", FPS) as depth_video,
        ):
            for rgb, depth in turntable(self.gaussians, cameras, self.config):
                rgb_video.add(rgb)
                depth_video.add(depth)
        return rgb_path

    def panel(self, iteration: int, image: Callable[[], torch.Tensor]) -> None:
        """train_process/iter_K.png: what the guidance saw and asked for; image() is [3, H, W] in [0, 1]."""
        write_png(self.folder / "train_process" / f"iter_{iteration}.png", to_uint8(image()))

    def region_maps(self, iteration: int, maps: Callable[[], Mapping[str, torch.Tensor]]) -> Path:
        """cograd/regions_K.png: `region_image` of this iteration."""
        path = self.folder / "cograd" / f"regions_{iteration}.png"
        write_png(path, region_image(maps(), iteration, self.config.cograd))
        return path

    def _process_camera(self, iteration: int) -> RCamera | None:
        """The camera of this iteration's frame of process_videos/video_rgb.mp4; None when no frame is due.

        The run has min(pro_frames_num, iterations) frames, evenly spread, while the camera goes once round.
        """
        done = iteration * self._process_frames // self.config.optimization.iterations
        is_due = done > (iteration - 1) * self._process_frames // self.config.optimization.iterations
        return self._process_cameras[done - 1] if is_due else None

    def _frame(self, camera: RCamera) -> np.ndarray:
        (rgb, _), *_ = turntable(self.gaussians, [camera], self.config)
        return rgb


def region_image(maps: Mapping[str, torch.Tensor], iteration: int, params: CoGradParams) -> np.ndarray:
    """uint8 [H, W, 3]: a row for each of REGION_MAPS, [E, A, D] each, and a column for each distance level.

    In a map the highest elevation is on top, azimuth 0 (the front) at the left. One colour scale a row.
    """
    ends = np.linspace(*params.distance_range, params.distance_levels + 1)
    places = [f"distance {near:.3g} .. {far:.3g}" for near, far in itertools.pairwise(ends)]
    rows = []
    for name, title in REGION_MAPS.items():
        values = maps[name].detach().cpu().double().flip(0).numpy()  # [E, A, D], the highest elevation first
        low, high = float(values.min()), float(values.max())
        cell_px = (-(-MAP_PX[0] // values.shape[0]), -(-MAP_PX[1] // values.shape[1]))
        row = [heat_map(values[..., d], place, low, high, cell_px) for d, place in enumerate(places)]
        rows += [_line(f"{title}: {low:.4g} .. {high:.4g}", row), row]
    low, high = params.elevation_range
    axes = f"step {iteration}; left to right: azimuth 0 .. 360 deg; bottom to top: elevation {low:g} .. {high:g} deg"
    rows.append(_line(axes, rows[-1]))
    return in_rows(rows)


def _line(text: str, row: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Text above or below the first image of a row."""
    return [text_strip(text if column == 0 else "", image.shape[1]) for column, image in enumerate(row)]
