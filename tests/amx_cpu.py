# SPDX-License-Identifier: Apache-2.0
"""A CPU with AMX, as torch shows it: half-precision flash attention is missing from kernels narrower than AVX-512.

As a pytest plugin (`-p tests.amx_cpu`) it makes every CPU such a one, with the kernels that ATEN_CPU_CAPABILITY chose.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

HALF = (torch.float16, torch.bfloat16)


def pretend_amx(patch: pytest.MonkeyPatch, vector_width: str) -> None:
    """Give torch AMX and kernels of `vector_width` (DEFAULT, AVX2 or AVX512).

    Half-precision attention that such a CPU has runs by the math kernel, which the real CPU has too.
    """
    patch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": True})
    patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vector_width)
    real: Callable[..., Tensor] = torch.nn.functional.scaled_dot_product_attention

    def attention(q: Tensor, *args: Any, **options: Any) -> Tensor:
        if q.device.type != "cpu" or q.dtype not in HALF:
            return real(q, *args, **options)
        if vector_width != "AVX512" and torch.backends.cuda.flash_sdp_enabled():
            raise RuntimeError("pack_vnni2 is only supported when avx512 is supported")
        with sdpa_kernel(SDPBackend.MATH):
            return real(q, *args, **options)

    patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)


def pytest_configure() -> None:
    pretend_amx(pytest.MonkeyPatch(), torch.backends.cpu.get_cpu_capability())
