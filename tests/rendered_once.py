# SPDX-License-Identifier: Apache-2.0
"""Import it, and an ideal prior's images are rendered once a process: runs in tests ask for the same ones again and again."""

import functools

import toy.ideal
from toy.rendered_set import RenderedSet, render_set


@functools.lru_cache(maxsize=4)
def _rendered(specs, ranges, size_px: int, views_per_spec: int) -> RenderedSet:
    return render_set(specs, ranges, size_px, views_per_spec)


def _render_set(specs, ranges, size_px: int, views_per_spec: int, workers: int) -> RenderedSet:
    return _rendered(tuple(specs), ranges, size_px, views_per_spec)


toy.ideal.render_set = _render_set
