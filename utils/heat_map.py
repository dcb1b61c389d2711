# SPDX-License-Identifier: Apache-2.0
"""Tables of numbers as images: coloured cells with a title, several of them in rows and columns.

R rows and C columns of cells; images are uint8 [H, W, 3] RGB on white.
"""

from collections.abc import Sequence

import cv2
import numpy as np

TITLE_PX = 22
MARGIN_PX = 10
HAIRLINE_FROM_PX = 6
BLUE, RED = (33, 102, 172), (178, 24, 43)


def cell_colours(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 [R, C, 3] of values [R, C]: dark violet at `low`, yellow at `high`.

    Where the range has both signs, colours say the sign: blue below 0, white at 0, red above, of one scale.
    """
    if low < 0 < high:
        share = np.clip(values / max(-low, high), -1, 1)[..., None]
        end = np.where(share < 0, np.array(BLUE), np.array(RED))
        return np.round(255 + np.abs(share) * (end - 255)).astype(np.uint8)
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    grey = np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def heat_map(values: np.ndarray, title: str, low: float, high: float, cell_px: tuple[int, int]) -> np.ndarray:
    """A title above the coloured cells of values [R, C]; cell_px: height and width of a cell.

    A hairline parts the cells, unless they are so small that it would hide them.
    """
    colours = np.repeat(np.repeat(cell_colours(values, low, high), cell_px[0], axis=0), cell_px[1], axis=1)
    if min(cell_px) >= HAIRLINE_FROM_PX:
        colours[:: cell_px[0]], colours[:, :: cell_px[1]] = 255, 255
    return np.concatenate([text_strip(title, colours.shape[1]), colours])


def text_strip(text: str, width_px: int) -> np.ndarray:
    """One line of text, [TITLE_PX, width_px, 3], in any script of OpenCV's font; what does not fit is cut off.

    Bytes of a file's name that are not UTF-8 are drawn as question marks: with them in its text OpenCV crashes.
    """
    strip = np.full((TITLE_PX, width_px, 3), 255, np.uint8)
    text = text.encode("utf-8", "replace").decode()
    return cv2.putText(strip, text, (2, TITLE_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)


def text_lines(texts: Sequence[str], width_px: int, height_px: int) -> np.ndarray:
    """Lines of text from the upper edge on, [height_px, width_px, 3]; what does not fit is cut off."""
    lines = np.concatenate([text_strip(text, width_px) for text in texts])[:height_px]
    return np.pad(lines, ((0, height_px - len(lines)), (0, 0), (0, 0)), constant_values=255)


def in_rows(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Images side by side in rows, all of one size in a row and as many in each row, with margins."""
    lines = [np.concatenate([_with_margin(image) for image in row], axis=1) for row in rows]
    return np.concatenate(lines)


def _with_margin(image: np.ndarray) -> np.ndarray:
    width = ((MARGIN_PX // 2,) * 2, (MARGIN_PX // 2,) * 2, (0, 0))
    return np.pad(image, width, constant_values=255)
