# SPDX-License-Identifier: Apache-2.0
"""Heat maps: which colour stands where, and that titles are there."""

import os

import numpy as np

from utils.heat_map import BLUE, RED, TITLE_PX, cell_colours, heat_map, in_rows, text_strip


def test_colours_rise_from_violet_to_yellow_and_are_clamped() -> None:
    low, middle, high, above = cell_colours(np.array([[2.0, 5.0, 8.0, 99.0]]), 2, 8)[0].astype(int)
    assert low.sum() < middle.sum() < high.sum() and (above == high).all()
    assert high[0] > 200 and high[1] > 200 and high[2] < 80  # yellow
    assert (cell_colours(np.full((2, 3), 7.0), 7, 7) == low).all()  # one value: no range


def test_a_range_of_both_signs_is_white_at_zero_and_of_one_scale() -> None:
    colours = cell_colours(np.array([[-4.0, -2.0, 0.0, 2.0]]), -4, 2)[0].astype(int)
    assert tuple(colours[0]) == BLUE and tuple(colours[2]) == (255, 255, 255)
    assert abs(colours[3] - (255 + np.array(RED)) / 2).max() <= 1  # half of the larger end, 4
    assert abs(colours[1] - (255 + np.array(BLUE)) / 2).max() <= 1


def test_cells_keep_their_place_below_the_title() -> None:
    picture = heat_map(np.array([[0.0, 1.0], [1.0, 0.0]]), "", 0, 1, (10, 20))
    assert picture.shape == (TITLE_PX + 20, 40, 3)
    centres = picture[TITLE_PX + 5 :: 10, 10::20].astype(int)
    assert (centres == cell_colours(np.array([[0.0, 1.0], [1.0, 0.0]]), 0, 1)).all()
    assert (picture[TITLE_PX, :] == 255).all() and (picture[:TITLE_PX] == 255).all()


def test_small_cells_have_no_hairline() -> None:
    assert not (heat_map(np.zeros((3, 300)), "", 0, 1, (2, 2))[TITLE_PX:] == 255).all(-1).any()


def test_text_is_drawn_and_fits() -> None:
    assert (text_strip("visits: 0 .. 12", 200) < 128).any()
    assert text_strip("a very long title " * 20, 60).shape == (TITLE_PX, 60, 3)


def test_text_is_of_any_script_and_bytes_that_are_no_utf_8_are_question_marks() -> None:
    boxes = {text: text_strip(text, 60).tobytes() for text in ("Höhe", "Hohe", "H?he", "高さ", "??")}
    assert len(set(boxes.values())) == len(boxes)
    assert text_strip(os.fsdecode(b"H\xf6he"), 60).tobytes() == boxes["H?he"]


def test_rows_of_pictures_of_different_width() -> None:
    one, two = np.zeros((5, 8, 3), np.uint8), np.zeros((7, 8, 3), np.uint8)
    assert in_rows([[one, one], [two, two]]).shape == (5 + 7 + 20, 2 * (8 + 10), 3)
