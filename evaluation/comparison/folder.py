# SPDX-License-Identifier: Apache-2.0
"""A run folder of this program or of LucidDreamer itself, read without running anything that it holds.

N Gaussians; cameras are those of cameras.json, in its order.
"""

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arguments import GROUPS, Config
from arguments.cfg_args import read_cfg_args
from arguments.load import ConfigError, load_config
from evaluation.run_folder import last_point_cloud
from scene.cameras import ZFAR, ZNEAR, RCamera
from scene.gaussian_model import GaussianModel
from trainer.run_records import parse_seconds
from utils.bounded_file import read_text
from utils.graphics_utils import focal2fov, getProjectionMatrix, getWorld2View2

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a file of any content may raise; numpy's LinAlgError is a ValueError."""
MAX_BYTES = 1 << 26
PLACES = {"workspace", "model_path", "opt_path", "data_device", "device", "g_device", "quiet", "source_path"}
"""Keys that say where a run is, not what it is."""


@dataclass(frozen=True)
class Side:
    """One of the two runs. `settings`: Group.key -> value; `notes`: what could not be read, a sentence each."""

    path: Path
    kind: str  # LucidDreamer or this program
    config: Config
    settings: dict[str, Any]
    iteration: int
    gaussians: GaussianModel
    cameras: list[RCamera]
    timing: dict[str, float]
    notes: list[str]

    def own_image(self, view: int) -> Path | None:
        """What the run itself drew of a test view at its last saved iteration."""
        path = self.path / "test_six_views" / f"{self.iteration}_iteration" / f"render_view_{view}.png"
        return path if path.is_file() else None


def read_side(path: Path) -> Side:
    """Raises ValueError for a folder without a cloud, or with a file that is damaged."""
    iteration, cloud = last_point_cloud(path)
    kind = "this program" if (path / "run.json").is_file() else "LucidDreamer"
    notes: list[str] = []
    config = _config(path, notes)
    return Side(
        path=path,
        kind=kind,
        config=config,
        settings=_settings(config),
        iteration=iteration,
        gaussians=GaussianModel.from_ply(cloud),
        cameras=read_cameras(path / "cameras.json") if (path / "cameras.json").is_file() else [],
        timing=_timing(path),
        notes=notes,
    )


def _config(path: Path, notes: list[str]) -> Config:
    """config.yaml over the defaults, which are LucidDreamer's; what it lacks and cfg_args has is taken from there."""
    words: list[str] = []
    if (path / "config.yaml").is_file():
        words = ["--opt", str(path / "config.yaml")]
    else:
        notes.append(f"{path / 'config.yaml'} is missing; defaults are shown")
    if (path / "cfg_args").is_file():
        own = {field.name for field in dataclasses.fields(Config().model)} - PLACES
        stored = {name: value for name, value in read_cfg_args(path / "cfg_args").items() if name in own}
        words += [f"--set=ModelParams.{name}={value}" for name, value in stored.items() if value not in (None, "")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keys of upstream's files that nothing reads
            return load_config(words)
    except ConfigError as error:
        notes += [f"not understood, the default is shown: {problem}" for problem in error.problems]
        return Config()


def _settings(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for group, (attribute, _) in GROUPS.items():
        values = dataclasses.asdict(getattr(config, attribute))
        flat |= {f"{group}.{name}": value for name, value in values.items() if name not in PLACES}
    plain = {field.name for field in dataclasses.fields(config)} - {attribute for attribute, _ in GROUPS.values()}
    return flat | {name: getattr(config, name) for name in ("seed", "save_ratio", "test_ratio") if name in plain}


def read_cameras(path: Path) -> list[RCamera]:
    """The cameras of a cameras.json. Raises ValueError, one sentence, where it is none."""
    try:
        return [camera_from_JSON(record) for record in json.loads(read_text(path, MAX_BYTES))]
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is no list of cameras ({type(error).__name__}: {error}); delete it to use a circle instead"
        ) from error


def camera_from_JSON(record: dict[str, Any]) -> RCamera:
    """The inverse of utils.camera_utils.camera_to_JSON, up to what a renderer does not need."""
    R = np.array(record["rotation"], dtype=np.float32).reshape(3, 3)
    T = -R.T @ np.array(record["position"], dtype=np.float32).reshape(3)
    width, height = int(record["width"]), int(record["height"])
    if not (0 < width <= 16384 and 0 < height <= 16384 and np.isfinite(R).all() and np.isfinite(T).all()):
        raise ValueError(
            f"camera {record.get('id')} has {width} x {height} pixels and the position {record['position']}"
        )
    fov_x, fov_y = focal2fov(float(record["fx"]), width), focal2fov(float(record["fy"]), height)
    world_view = torch.from_numpy(getWorld2View2(R[None], T[None]))[0].T.contiguous()
    projection = getProjectionMatrix(ZNEAR, ZFAR, fov_x, fov_y).T.contiguous()
    centre = torch.linalg.inv(world_view)[3, :3]
    full = world_view @ projection
    uid = int(record.get("id", 0))
    return RCamera(uid, R, T, fov_x, fov_y, width, height, 0.0, 0.0, 0.0, world_view, projection, full, centre)


def _timing(path: Path) -> dict[str, float]:
    """Of log.jsonl where there is one, else of TensorBoard's events; empty where there is neither."""
    if (path / "log.jsonl").is_file():
        with (path / "log.jsonl").open(encoding="utf-8") as lines:
            steps = [seconds * 1e3 for seconds in map(parse_seconds, lines) if seconds is not None]
        return (
            {"steps": float(len(steps)), "ms a step": float(np.mean(steps)), "seconds": sum(steps) / 1e3}
            if steps
            else {}
        )
    return _event_timing(path)


def _event_timing(path: Path) -> dict[str, float]:
    """`iter_time`, which plain 3DGS logs in ms, and the time from the first to the last event."""
    if not list(path.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path)).Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    times = [event.wall_time for series in scalars.values() for event in series]
    found = {"seconds from first to last event": max(times) - min(times)} if times else {}
    if scalars.get("iter_time"):
        found["ms a step"] = float(np.mean([event.value for event in scalars["iter_time"]]))
    return found
