# SPDX-License-Identifier: Apache-2.0
"""`python -m diff_gaussian_rasterization`: one line that says what was built."""

from . import backend

found = backend()
cuda = f"CUDA for {' '.join(found['cuda'])}" if found["cuda"] else f"no CUDA kernels: {found['why_no_cuda']}"
print(f"diff_gaussian_rasterization: CPU ({found['cpu']}), {cuda}")
