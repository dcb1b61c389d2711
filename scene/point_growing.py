# SPDX-License-Identifier: Apache-2.0
"""GaussianDreamer's start: noisy point growing and colour perturbation of an initial cloud."""

from typing import Any

import numpy as np

from utils.graphics_utils import BasicPointCloud
from utils.missing_module import how_to_install

COLOUR_NOISE = 0.2
"""Added colours are the neighbour's plus this times U(0, 1)^3: brighter by 0.1 on average, as the paper has it."""


def grow(cloud: BasicPointCloud, candidates: int, distance: float, rng: np.random.RandomState) -> BasicPointCloud:
    """`cloud`, and those of `candidates` uniform points of its bounding box that are nearer than `distance` to a point.

    A point that is added has the perturbed colour of its nearest one, clipped to [0, 1], and no normal. Source:
    GaussianDreamer, section 3.3, with 1,000,000 candidates and a distance of 0.01 in Shap-E's units.
    """
    low, high = cloud.points.min(0), cloud.points.max(0)
    points = low + (high - low) * rng.random_sample((candidates, 3))
    away, nearest = neighbour_search()(cloud.points).query(points, distance_upper_bound=distance)
    is_near = away < distance  # strictly: query also returns points at the bound
    added, colours = points[is_near], cloud.colors[nearest[is_near]]
    colours = np.clip(colours + COLOUR_NOISE * rng.random_sample(colours.shape), 0, 1)
    return BasicPointCloud(
        np.concatenate([cloud.points, added]),
        np.concatenate([cloud.colors, colours]),
        np.concatenate([cloud.normals, np.zeros_like(added)]),
    )


def neighbour_search() -> Any:
    """SciPy's k-d tree. ValueError where SciPy is not installed."""
    try:
        from scipy.spatial import cKDTree
    except ImportError as error:
        raise ValueError(
            f"GenerateCamParams.init_grow needs SciPy, which is not installed: {how_to_install()}, or set init_grow: 0"
        ) from error
    return cKDTree
