# SPDX-License-Identifier: Apache-2.0
"""Is the toy world's yardstick right? Scores scenes of known truth: python tools/calibrate_yardstick.py --out FOLDER

Every object with a front, in scenes that are right, and in scenes with several fronts or none; each turned by a random
yaw and degraded. "fitted" scenes are Gaussians fitted to the scene's images, all others are the images themselves.
Writes scenes.csv, a line a scene, and prints Markdown: how many right scenes are called clean (specificity) and how
many wrong ones are not (sensitivity), with Wilson's 95 % intervals.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import csv
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from arguments import PipelineParams
from evaluation.janus import wilson
from evaluation.known_truth import renderer_of_gaussians
from gaussian_renderer import render
from scene.dataset_readers import camera_at
from scene.gaussian_model import GaussianModel
from toy import fronts
from toy.captions import DEFAULT_COLOURS, Spec
from toy.objects import ONE_SIDED
from toy.raycast import View
from toy.truth import Images, Renderer, renderer_of_truth

RADIUS, FOV_RAD = 3.5, 0.40
SHARES = (0.30, 0.325, 0.35, 0.375, 0.40, 0.45)
Azimuths = Callable[[float], float]


def nearest(*centres_deg: float) -> Azimuths:
    """Fronts at these azimuths: each is looked at as if it were alone."""

    def shown(azimuth_deg: float) -> float:
        return min(((azimuth_deg - centre + 180) % 360 - 180 for centre in centres_deg), key=abs)

    return shown


@dataclass(frozen=True)
class Kind:
    """A scene shows at an azimuth what the truth shows at shown(azimuth).

    `right`: None where it can be argued; `fronts`: separate ones, if it has such; `ghost`: how much of the truth's own
    image at the azimuth is blended in.
    """

    shown: Azimuths
    right: bool | None = False
    fronts: int | None = None
    ghost: float = 0.0

    def of(self, truth: Renderer) -> Renderer:
        """The scene."""

        def rendered(views: Sequence[View], size_px: int) -> Images:
            pairs = zip(remapped(truth, self.shown)(views, size_px), truth(views, size_px))
            images, coverages = ((1 - self.ghost) * scene + self.ghost * own for scene, own in pairs)
            return images, coverages

        return rendered


KINDS: dict[str, Kind] = {
    "right": Kind(lambda azimuth: azimuth, right=True, fronts=1),
    "two fronts, 180 apart": Kind(nearest(0, 180), fronts=2),
    "two fronts, 120 apart": Kind(nearest(0, 120), fronts=2),
    "two fronts, 90 apart": Kind(nearest(0, 90), fronts=2),
    "three fronts": Kind(nearest(0, 120, 240), fronts=3),
    "four fronts": Kind(nearest(0, 90, 180, 270), fronts=4),
    "two squeezed objects": Kind(lambda azimuth: 2 * azimuth, fronts=2),
    "three squeezed objects": Kind(lambda azimuth: 3 * azimuth, fronts=3),
    "front all round": Kind(lambda azimuth: 0),
    "back all round": Kind(lambda azimuth: 180, fronts=0),
    "two backs": Kind(lambda azimuth: 180 - nearest(0, 180)(azimuth), fronts=0),
    "side all round": Kind(lambda azimuth: 90, fronts=0),
    "a second front of 70 % contrast": Kind(nearest(0, 180), fronts=2, ghost=0.3),
    "a second front of 50 % contrast": Kind(nearest(0, 180), right=None, ghost=0.5),
    "a second front of 30 % contrast": Kind(nearest(0, 180), right=None, ghost=0.7),
}
FITTED = ("right", "two fronts, 180 apart", "two fronts, 90 apart", "three fronts", "front all round", "two backs")
BLURS = (0.0, 0.01, 0.02, 0.03, 0.04)


def remapped(base: Renderer, shown: Azimuths) -> Renderer:
    """Shows at each azimuth what `base` shows at shown(azimuth)."""

    def rendered(views: Sequence[View], size_px: int) -> Images:
        return base([replace(view, phi_deg=shown(view.phi_deg) % 360) for view in views], size_px)

    return rendered


def turned(base: Renderer, yaw_deg: float) -> Renderer:
    """The object turned: its front is at azimuth yaw_deg."""
    return remapped(base, lambda azimuth: azimuth - yaw_deg)


def degraded(base: Renderer, blur: float, gain: float = 1.0, noise: float = 0.0) -> Renderer:
    """Blurred (std as a share of the side), then contrast times `gain`, then white noise of std `noise` in [0, 1]."""

    def rendered(views: Sequence[View], size_px: int) -> Images:
        images, coverages = base(views, size_px)
        images, coverages = fronts.blurred(images, blur), fronts.blurred(coverages[:, None], blur)[:, 0]
        drawn = np.random.default_rng(0).normal(0, noise, images.shape) if noise else 0
        return (0.5 + gain * (images - 0.5) + drawn).clip(0, 1).astype(np.float32), coverages

    return rendered


def fitted(base: Renderer, seed: int, steps: int = 250, points: int = 1200) -> GaussianModel:
    """Gaussians that look like `base` from elevations -10 to 40 degrees: a cloud as a good run would leave it."""
    rng = np.random.default_rng(seed)
    side_px = fronts.SIDE_PX
    views = [View(90.0 - e, float(a), RADIUS, FOV_RAD) for e in (-10, 15, 40) for a in range(0, 360, 10)]
    images = torch.from_numpy(base(views, side_px)[0])
    cloud = _random_cloud(points, rng)
    rates = {"xyz": 0.006, "f_dc": 0.04, "opacity": 0.1, "scaling": 0.02, "rotation": 0.01, "f_rest": 0.0}
    values = cloud.parameters_in_order()
    optimizer = torch.optim.Adam([{"params": [values[name]], "lr": rate} for name, rate in rates.items() if rate])
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["lr"] *= 0.1 ** (1 / steps)
        loss = torch.zeros(())
        for chosen in rng.integers(len(views), size=2):
            view = views[chosen]
            camera = camera_at(RADIUS, view.theta_deg, view.phi_deg, FOV_RAD, side_px, side_px, torch.device("cpu"))
            seen = render(camera, cloud, PipelineParams(), torch.ones(3))["render"]
            loss = loss + (seen - images[chosen]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return cloud


def _random_cloud(points: int, rng: np.random.Generator) -> GaussianModel:
    directions = rng.normal(size=(points, 3))
    radii = 0.55 * rng.random((points, 1)) ** (1 / 3)
    xyz = directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii
    values = {
        "xyz": torch.from_numpy(xyz).float(),
        "f_dc": torch.zeros(points, 1, 3),
        "f_rest": torch.zeros(points, 0, 3),
        "opacity": torch.full((points, 1), -1.0),
        "scaling": torch.full((points, 3), -3.2),
        "rotation": torch.tensor([1.0, 0, 0, 0]).repeat(points, 1),
    }
    return GaussianModel.of_parameters(values)


@dataclass(frozen=True)
class Row:
    """A scene and what the yardstick said of it."""

    object: str
    kind: str
    degradation: str
    yaw_deg: int
    share: float
    count: int
    clean: bool
    found_blur: float


def rows_of(class_name: str, fit: bool) -> list[Row]:
    """Every scene of one object; `fit`: the fitted ones, else the images."""
    spec = Spec(class_name, *DEFAULT_COLOURS[class_name])
    truth = renderer_of_truth(spec)
    rng = np.random.default_rng(zlib.crc32(class_name.encode()))
    rows: list[Row] = []
    for name in FITTED if fit else KINDS:
        base = KINDS[name].of(truth)
        degradations = {f"blur {blur:g}": degraded(base, blur) for blur in BLURS}
        degradations["blur 0.01, contrast 1.3, noise 0.05"] = degraded(base, 0.01, 1.3, 0.05)
        if fit:
            degradations = {"fitted": renderer_of_gaussians(fitted(base, seed=len(rows)))}
        for degradation, scene in degradations.items():
            yaw_deg = int(rng.integers(360))
            found = fronts.scan(turned(scene, yaw_deg), spec, RADIUS, FOV_RAD)
            seen = fronts.fronts_of(found.assigned_deg)
            rows.append(Row(class_name, name, degradation, yaw_deg, seen.share, seen.count, seen.clean, found.blur))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The tables of the calibration."""
    degradations = list(dict.fromkeys(row.degradation for row in rows))
    lines = ["| scene | " + " | ".join(degradations) + " |", "|---" * (len(degradations) + 1) + "|"]
    for kind in KINDS:
        cells = [_cell([r for r in rows if (r.kind, r.degradation) == (kind, d)]) for d in degradations]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += ["", "| clean means | specificity | sensitivity |", "|---|---|---|"]
    for name, clean in _rules().items():
        right = [clean(row) for row in rows if KINDS[row.kind].right is True]
        wrong = [not clean(row) for row in rows if KINDS[row.kind].right is False]
        lines.append(f"| {name} | {_share(right)} | {_share(wrong)} |")
    known = [row for row in rows if KINDS[row.kind].fronts is not None]
    exact = [row.count == KINDS[row.kind].fronts for row in known]
    return "\n".join([*lines, "", f"Fronts counted exactly, where a scene has separate ones: {_share(exact)}."])


def _rules() -> dict[str, Callable[[Row], bool]]:
    """What "clean" may mean: by the count, by the share, by both."""
    low = fronts.CLEAN_SHARE[0]

    def share_below(high: float) -> Callable[[Row], bool]:
        return lambda row: low <= row.share <= high

    def both_below(high: float) -> Callable[[Row], bool]:
        return lambda row: row.count == 1 and low <= row.share <= high

    rules: dict[str, Callable[[Row], bool]] = {"one front by count": lambda row: row.count == 1}
    rules |= {f"share {low:g} to {high:g}": share_below(high) for high in SHARES}
    return rules | {f"both, share {low:g} to {high:g}": both_below(high) for high in SHARES}


def _cell(rows: Sequence[Row]) -> str:
    """Clean ones of all, and the range of the shares."""
    if not rows:
        return "-"
    shares = [row.share for row in rows]
    return f"{sum(row.clean for row in rows)}/{len(rows)} ({min(shares):.2f}..{max(shares):.2f})"


def _share(hits: Sequence[bool]) -> str:
    low, high = wilson(sum(hits), len(hits))
    return f"{sum(hits)}/{len(hits)} ({low:.3f}..{high:.3f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of scenes.csv")
    parser.add_argument("--objects", nargs="+", choices=ONE_SIDED, default=ONE_SIDED)
    parser.add_argument("--no_fit", action="store_true", help="leave the fitted scenes out")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[Row] = []
    args.out.mkdir(parents=True, exist_ok=True)
    for class_name in args.objects:
        for fit in (False,) if args.no_fit else (False, True):
            rows += rows_of(class_name, fit)
        with (args.out / "scenes.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    program.run(main)
