# SPDX-License-Identifier: Apache-2.0
"""Nearest-neighbour distances of point clouds; the function lives in `simple_knn._C`, as upstream's does."""

from ._cuda import why_not as why_no_cuda

__version__ = "1.0.0"
__all__ = ["__version__", "why_no_cuda"]
