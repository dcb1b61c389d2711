# SPDX-License-Identifier: Apache-2.0
"""`python -m simple_knn`: one line that says what was built."""

from . import _cuda

archs = None if _cuda.LIBRARY is None else _cuda.LIBRARY.knn_cuda_archs().decode()
print(f"simple_knn: CPU, {f'CUDA for {archs}' if archs else f'no CUDA kernels: {_cuda.WHY_NOT}'}")
