# SPDX-License-Identifier: Apache-2.0
"""Nearest-neighbour distances of point clouds; the function lives in `simple_knn._C`, as upstream's does."""

__version__ = "1.0.0"
