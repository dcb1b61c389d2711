# SPDX-License-Identifier: Apache-2.0
"""The Mip filter's benchmark: what it trains, scores and shows."""

import dataclasses

import numpy as np

from benchmarks.mip import OBJECTS, SHOWN, SHOWN_PX, SIZES_PX, enlarged, psnr_of_sizes, settings_of
from toy.raycast import View
from toy.reading import parse_prompt
from toy.truth import renderer_of_truth

VIEW = View(70.0, 45.0, 3.5, 0.4)


def test_the_trainings_differ_in_the_filter_alone(tmp_path) -> None:
    off, on = (settings_of(OBJECTS[0], mip_filter, tmp_path) for mip_filter in (False, True))
    assert not off.pipeline.mip_filter
    assert on == dataclasses.replace(off, pipeline=dataclasses.replace(off.pipeline, mip_filter=True))


def test_every_size_is_scored_against_the_truth_of_that_size() -> None:
    truth = renderer_of_truth(parse_prompt(OBJECTS[0]))

    def darker(views, size_px):
        images, coverages = truth(views, size_px)
        return images - np.float32(0.1 if size_px == SIZES_PX[0] else 0.01), coverages

    scores = psnr_of_sizes(darker, parse_prompt(OBJECTS[0]), [VIEW], 0.0)
    assert np.allclose(scores, [20, 40, 40, 40, 40], atol=0.01)


def test_images_are_shown_in_one_size() -> None:
    """Small ones with larger pixels, of large ones the middle."""
    truth = renderer_of_truth(parse_prompt(OBJECTS[0]))
    small, middle, large = (enlarged(truth, VIEW, px) for px in SHOWN)
    assert small.shape == middle.shape == large.shape == (SHOWN_PX, SHOWN_PX, 3)
    assert np.array_equal(small[::8, ::8], np.moveaxis(truth([VIEW], 32)[0][0], 0, -1))
    assert np.array_equal(large, np.moveaxis(truth([VIEW], 512)[0][0], 0, -1)[128:384, 128:384])
