# SPDX-License-Identifier: Apache-2.0
"""Images of the toy world's ground truth, made once for each object, view and size.

Letters: V views, H W image.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from toy.captions import Spec
from toy.compose import compose
from toy.objects import primitives_of
from toy.raycast import View, render_primitives

Images = tuple[np.ndarray, np.ndarray]
"""Images [V, 3, H, W] on white and coverages [V, H, W], float32 in [0, 1]."""

Renderer = Callable[[Sequence[View], int], Images]
"""(views, side in px) -> what an object looks like from there. What is scored is handed over as one of these."""

SUPERSAMPLE = 3
"""Rays a pixel along each axis."""


def renderer_of_truth(spec: Spec) -> Renderer:
    """The true object as something to be looked at."""

    def rendered(views: Sequence[View], size_px: int) -> Images:
        gbuffers = np.stack([_gbuffer(spec.class_name, view, size_px) for view in views])
        return compose(gbuffers, spec.rgb_a(), spec.rgb_b(), (1, 1, 1)), gbuffers[:, 5].astype(np.float32) / 255

    return rendered


def _gbuffer(class_name: str, view: View, size_px: int) -> np.ndarray:
    """uint8 [6, H, W]. Objects are mirror-symmetric about x = 0: azimuth -phi is the mirror image of azimuth phi."""
    folded, mirrored = _folded(view)
    gbuffer = _rendered(class_name, folded, size_px)
    return gbuffer[..., ::-1] if mirrored else gbuffer


@lru_cache(maxsize=512)
def _rendered(class_name: str, view: View, size_px: int) -> np.ndarray:
    return render_primitives(primitives_of(class_name), view, size_px, SUPERSAMPLE)


def _folded(view: View) -> tuple[View, bool]:
    """The view of azimuth 0..180 that shows the same, and whether mirrored."""
    phi_deg = view.phi_deg % 360
    return (replace(view, phi_deg=360 - phi_deg), True) if phi_deg > 180 else (replace(view, phi_deg=phi_deg), False)
