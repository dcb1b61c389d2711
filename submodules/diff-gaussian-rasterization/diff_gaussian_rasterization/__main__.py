# SPDX-License-Identifier: Apache-2.0
"""`python -m diff_gaussian_rasterization`: one line that says what was built."""

from . import backend

built = backend()
cuda = f"CUDA for {' '.join(built['cuda'])}" if built["cuda"] else f"no CUDA kernels: {built['why_no_cuda']}"
print(f"diff_gaussian_rasterization: CPU ({built['cpu']}), {cuda}")
