# SPDX-License-Identifier: Apache-2.0
"""The yaw at which an object fits the truth best: nothing fixes it where view words are weak.

An object of yaw y shows at azimuth a + y what the truth shows at azimuth a. Letters: A azimuths of the object,
T azimuths of the truth, V views.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from toy import fronts
from toy.captions import Spec
from toy.raycast import View
from toy.truth import Renderer, renderer_of_truth

REFINED_STEPS_DEG = (1.0, 0.2, 0.05)
"""Steps of the refinement, each from -3 to 3 steps around the best of the one before."""


def rotated_views(views: Sequence[View], yaw_deg: float) -> list[View]:
    """The views that show an object of this yaw as `views` show one of yaw 0."""
    return [replace(view, phi_deg=(view.phi_deg + yaw_deg) % 360) for view in views]


def coarse_yaw(scan: fronts.Scan) -> float:
    """Best yaw in degrees [0, 360), in steps of STEP_DEG: that of the smallest mean error over the truth's azimuths."""
    steps, views = scan.error.shape
    at = np.arange(views) * (fronts.TRUTH_STEP_DEG // fronts.STEP_DEG)
    means = [float(scan.error[(at + yaw) % steps, np.arange(views)].mean()) for yaw in range(steps)]
    return float(int(np.argmin(means)) * fronts.STEP_DEG)


def best_yaw(render: Renderer, spec: Spec, scan: fronts.Scan, views: Sequence[View], size_px: int) -> float:
    """Best yaw in degrees (-180, 180], to 0.05: the coarse one, refined on `views` at size_px.

    The smallest mean squared error counts; a step is taken only where it makes it smaller.
    """
    truth = renderer_of_truth(spec)(views, size_px)[0]

    def error(yaw_deg: float) -> float:
        return float(np.mean((render(rotated_views(views, yaw_deg), size_px)[0] - truth) ** 2))

    best = coarse_yaw(scan)
    smallest = error(best)
    for step_deg in REFINED_STEPS_DEG:
        centre = best
        for offset in (-3, -2, -1, 1, 2, 3):
            yaw_deg = centre + offset * step_deg
            if (found := error(yaw_deg)) < smallest:
                best, smallest = yaw_deg, found
    return round(180 - (180 - best) % 360, 2)
