# SPDX-License-Identifier: Apache-2.0
"""How alike two images are: PSNR, SSIM, IoU of silhouettes, and correlation of their fine detail.

Letters: H W image. Images are [3, H, W] in [0, 1], coverages [H, W] in [0, 1].
"""

import cv2
import numpy as np

BLUR_SHARE = 0.03
"""Std of the low-pass that high_pass subtracts, as a share of the image side."""


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1]; 100 for equal ones."""
    error = float(np.mean((image.astype(np.float64) - truth) ** 2))
    return 100.0 if error < 1e-10 else -10 * float(np.log10(error))


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of [3, H, W] images in [0, 1], mean over pixels and channels; window 11 px, std 1.5."""
    x, y = (np.moveaxis(p.astype(np.float64), 0, -1) for p in (image, truth))

    def window(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT_101)

    mu_x, mu_y = window(x), window(y)
    var_x, var_y, cov = window(x * x) - mu_x**2, window(y * y) - mu_y**2, window(x * y) - mu_x * mu_y
    c_1, c_2 = 0.01**2, 0.03**2
    quotient = ((2 * mu_x * mu_y + c_1) * (2 * cov + c_2)) / ((mu_x**2 + mu_y**2 + c_1) * (var_x + var_y + c_2))
    return float(quotient.mean())


def iou(coverage: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of the silhouettes [H, W] (coverage > 0.5); 1 where both are empty."""
    a, b = coverage > 0.5, truth > 0.5
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union


def high_pass(image: np.ndarray) -> np.ndarray:
    """The image [3, H, W] minus its blurred version."""
    pixels = np.ascontiguousarray(np.moveaxis(image, 0, -1), dtype=np.float32)
    blurred = cv2.GaussianBlur(pixels, (0, 0), max(BLUR_SHARE * pixels.shape[0], 0.5), borderType=cv2.BORDER_REPLICATE)
    return np.moveaxis(pixels - blurred, -1, 0)


def masked_ncc(image: np.ndarray, truth: np.ndarray, region: np.ndarray) -> float:
    """Normalised cross-correlation in [-1, 1] of two [3, H, W] arrays inside region [H, W]; 0 where either is flat."""
    a, b = (pixels - pixels.mean(axis=1, keepdims=True) for pixels in (image[:, region], truth[:, region]))
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 1e-6 else 0.0
