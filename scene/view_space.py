# SPDX-License-Identifier: Apache-2.0
"""Whether a run's cameras see its object: how often the lens holds the initial ball, and where CoGrad's regions lie.

Distances in world units, fields of view vertical and in radians, elevations in degrees above the horizon.
"""

import math

import numpy as np

from arguments import Config
from scene.cameras import Range
from scene.dataset_readers import CameraRanges

BALL_RADIUS = 0.5
"""Of the initial sphere; every other shape but `scene` and `file` is about as large."""
LEAST_WHOLE = 0.75
"""Share of the views from which on nothing is reported; of LucidDreamer's after all widenings 0.82 hold the ball."""
ROOM = 1.25
"""What a lens needs beyond the ball for the jitter of centre and target, as in configs/prompt.yaml."""


def view_notices(config: Config) -> list[str]:
    """Sentences on regions beside the config's own cameras, and on lenses that crop the initial ball."""
    problems = region_problems(config) if config.cograd.enabled else []
    return [*(f"{text}, or start from configs/prompt.yaml" for text in problems), *_cropped(config)]


def region_problems(config: Config) -> list[str]:
    """A sentence for each axis on which the middle of the config's own cameras is in none of CoGrad's regions."""
    cameras, p = config.cameras, config.cograd
    elevation = (90 - cameras.theta_range[1], 90 - cameras.theta_range[0])
    axes = ("elevation", elevation, p.elevation_range), ("distance", cameras.radius_range, p.distance_range)
    return [
        f"the settings' cameras have {name}s {own[0]:g}..{own[1]:g}, CoGrad's regions {regions[0]:g}..{regions[1]:g}; "
        f"set CoGradParams.{name}_range {f'to {own[0]:g} {own[1]:g}' if own[0] < own[1] else f'around {own[0]:g}'}"
        for name, own, regions in axes
        if not regions[0] <= sum(own) / 2 <= regions[1]
    ]


def angle_of_ball(distance: float) -> float:
    """The angle in radians that the initial ball fills; pi from within."""
    return 2 * math.asin(min(1.0, BALL_RADIUS / distance))


def share_whole(distance: Range, fovy_rad: Range, aspect: float = 1.0) -> float:
    """Share of views, distance and field of view uniform in their ranges, whose image holds all of the initial ball.

    aspect: width over height. Jitter is left out, which makes it less.
    """
    middles = (np.arange(100) + 0.5) / 100
    distances, fov = (low + (high - low) * middles for low, high in (distance, fovy_rad))
    narrower = 2 * np.arctan(np.tan(fov / 2) * min(1.0, aspect))
    return float((np.array([angle_of_ball(x) for x in distances])[:, None] < narrower).mean())


def _cropped(config: Config) -> list[str]:
    """A sentence where too few views hold the ball, at the start or else after the last widening."""
    cameras, opt, aspect = config.cameras, config.optimization, config.cameras.image_w / config.cameras.image_h
    if cameras.init_shape in ("scene", "file"):
        return []
    last = CameraRanges.after_steps(opt.iterations, opt, cameras)
    for when, ranges in (("", CameraRanges.from_params(cameras)), (" once the ranges are widened", last)):
        is_placed, (low, high) = config.cograd.enabled, ranges.fovy_rad
        distance = config.cograd.distance_range if is_placed else ranges.radius
        if (share := share_whole(distance, ranges.fovy_rad, aspect)) >= LEAST_WHOLE:
            continue
        group = "CoGradParams.distance_range" if is_placed else "GenerateCamParams.radius_range"
        angle = angle_of_ball(distance[0])
        needed = 2 * math.atan(math.tan(min(ROOM * angle, 3.0) / 2) / min(1.0, aspect))
        return [
            f"only {int(100 * share)} % of the views hold the whole initial ball{when}, of radius {BALL_RADIUS:g}: at "
            f"distance {distance[0]:.3g} it fills {angle:.2f} rad, and the lens has {low:.3g}..{high:.3g}; begin "
            f"GenerateCamParams.fovy_range and max_fovy_range at {needed:.2f}, or set {group} farther away"
        ]
    return []
