# SPDX-License-Identifier: Apache-2.0
"""How the networks are run: dtype, memory layout, kernels, how much at a time. None of it changes the result
by more than rounding; docs/performance.md says when each setting is worth it.
"""

import contextlib
import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from arguments import GuidanceParams

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# The chosen kernel, then those for shapes that it cannot do: the autoencoder's one head is 512 wide.
ATTENTION = {
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "math": [SDPBackend.MATH],
}
AMPERE, VOLTA = (8, 0), (7, 0)
LOW_MEMORY_UNET_BATCH = 4


@dataclass(frozen=True)
class Execution:
    """GuidanceParams' settings of speed and memory with every `auto` decided for one device."""

    dtype: torch.dtype
    channels_last: bool
    fuse_qkv: bool
    attention_kernel: str
    compile_unet: bool
    cuda_graphs: bool
    unet_batch: int  # samples that the U-Net sees at a time; 0: all
    vae_slicing: bool
    vae_checkpointing: bool
    offload_unet: bool

    @classmethod
    def of(cls, params: GuidanceParams, device: torch.device) -> Self:
        """Decide for `device`. Raises ValueError for what it cannot do."""
        if params.offload_unet and (params.cuda_graphs or params.compile_unet):
            other = "cuda_graphs" if params.cuda_graphs else "compile_unet"
            raise ValueError(
                f"GuidanceParams.offload_unet moves the weights during a call, which {other} cannot follow; "
                "turn one of them off"
            )
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        for key, value, problem, remedy in _impossible(params, capability):
            name = "a CPU" if capability is None else f"a GPU of compute capability {capability[0]}.{capability[1]}"
            raise ValueError(f"GuidanceParams.{key} is {value}, but {name} {problem}; {remedy}")
        dtype = _dtype(params, on_gpu=capability is not None)
        tensor_cores = capability is not None and capability >= VOLTA and dtype != torch.float32
        return cls(
            dtype=dtype,
            channels_last=_decided(params.channels_last, tensor_cores),
            fuse_qkv=_decided(params.fuse_qkv, capability is not None and not params.law.needs_predictor),
            attention_kernel=_attention(params, on_gpu=capability is not None),
            compile_unet=params.compile_unet,
            cuda_graphs=params.cuda_graphs,
            unet_batch=params.unet_batch or (LOW_MEMORY_UNET_BATCH if params.vram_O else 0),
            vae_slicing=_decided(params.vae_slicing, params.vram_O),
            vae_checkpointing=_decided(params.vae_checkpointing, params.vram_O),
            offload_unet=params.offload_unet,
        )

    def attention(self) -> contextlib.AbstractContextManager[Any]:
        """A with block in which attention runs by the chosen kernel; auto leaves the choice to torch."""
        if self.attention_kernel == "auto":
            return contextlib.nullcontext()
        return sdpa_kernel(ATTENTION[self.attention_kernel], set_priority=True)

    def recompute(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(*inputs), computed again in the backward pass, both times by the chosen attention kernel."""

        def with_kernel(*again: Any) -> Any:
            with self.attention():
                return function(*again)

        return checkpoint(with_kernel, *inputs, use_reentrant=False, preserve_rng_state=False)


def _decided(setting: str, auto: bool) -> bool:
    return auto if setting == "auto" else setting == "on"


def _dtype(params: GuidanceParams, on_gpu: bool) -> torch.dtype:
    """Auto: float16 on a GPU, upstream's and eight times finer than bfloat16, unless fp16 is off; float32 on a CPU."""
    if params.precision != "auto":
        return DTYPES[params.precision]
    return torch.float16 if params.fp16 and on_gpu else torch.float32


def _attention(params: GuidanceParams, on_gpu: bool) -> str:
    """Auto leaves the kernel to torch, except where torch would choose one that this CPU cannot run."""
    if params.attention_kernel == "auto" and not on_gpu and flash_attention_fails_on_cpu(_dtype(params, on_gpu)):
        return "math"
    return params.attention_kernel


def flash_attention_fails_on_cpu(dtype: torch.dtype) -> bool:
    """Whether torch's flash attention raises "pack_vnni2 is only supported when avx512 is supported" on this CPU.

    It packs half-precision operands for AMX wherever the CPU has AMX, by code that exists in its AVX-512 kernels only;
    ATEN_CPU_CAPABILITY can select others.
    """
    below_avx512 = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    return dtype != torch.float32 and below_avx512 and bool(torch.cpu.get_capabilities().get("amx_tile"))


def _impossible(params: GuidanceParams, capability: tuple[int, int] | None) -> list[tuple[str, Any, str, str]]:
    """(key, value, what is missing, what to do) of settings that a device of this capability (None: CPU) cannot do."""
    kernel = params.attention_kernel
    found: list[tuple[str, Any, str, str]] = []
    half = _dtype(params, capability is not None) != torch.float32
    if capability is None:
        if params.cuda_graphs:
            found.append(("cuda_graphs", True, "has none", "leave it out"))
        if kernel in ("efficient", "cudnn"):
            found.append(("attention_kernel", kernel, "has no such kernel", "use auto, flash or math"))
        if kernel == "flash" and flash_attention_fails_on_cpu(_dtype(params, on_gpu=False)):
            problem = f"with AMX cannot run it in {params.precision} below AVX-512"
            found.append(("attention_kernel", kernel, problem, "unset ATEN_CPU_CAPABILITY, or use auto or math"))
        if params.compile_unet and (lack := _no_compiler(on_gpu=False)):
            found.append(("compile_unet", True, *lack))
        return found
    if params.precision == "bfloat16" and capability < AMPERE:
        found.append(("precision", "bfloat16", "does not compute in bfloat16", "use float16 or auto"))
    if kernel in ("flash", "cudnn") and (capability < AMPERE or not half):
        problem = "does not run it in float32" if capability >= AMPERE else "cannot run it"
        found.append(("attention_kernel", kernel, problem, "use auto, efficient or math"))
    if params.compile_unet and capability <= VOLTA:
        found.append(("compile_unet", True, "is too old for torch.compile's kernels", "leave it out"))
    if params.compile_unet and (lack := _no_compiler(on_gpu=True)):
        found.append(("compile_unet", True, *lack))
    return found


def _no_compiler(on_gpu: bool) -> tuple[str, str] | None:
    """What torch.compile lacks on this machine, and what to do; None where it can compile."""
    if on_gpu and find_spec("triton") is None:
        return "is compiled for by the package triton, which is not installed", "install it, or leave it out"
    name = os.environ.get("CC", "gcc") if on_gpu else os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        return f"needs a compiler on the host, and {name} is not found", "install it, or leave it out"
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").is_file():
        return f"needs Python's headers, which are not in {headers}", "install them (python3-dev), or leave it out"
    return None


def prepare(module: nn.Module, execution: Execution, device: torch.device) -> None:
    """Freeze a network, move it to its device, and put its convolutions into the chosen layout."""
    module.requires_grad_(False).eval().to(device)
    if execution.channels_last and any(isinstance(part, nn.Conv2d) for part in module.modules()):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def speed_up(unet: Any, execution: Execution) -> None:
    """Fuse and compile a U-Net on its device as `execution` says."""
    if execution.fuse_qkv:
        fuse_qkv(unet)
    if execution.compile_unet:
        # dynamic: the number of samples changes from call to call. Shapes compiled one by one would exceed torch's
        # limit of recompilations, beyond which it runs the blocks uncompiled.
        unet.compile_repeated_blocks(dynamic=True)


def fuse_qkv(unet: Any) -> None:
    """One matrix for the query, key and value of each attention; the single ones are let go."""
    unet.fuse_qkv_projections()
    for module in unet.modules():
        if hasattr(module, "to_qkv"):
            module.to_q = module.to_k = module.to_v = None
        elif hasattr(module, "to_kv"):
            module.to_k = module.to_v = None


def offload(unet: nn.Module, device: torch.device) -> None:
    """Keep a network's weights where they are; each layer's own are on `device` while the layer is called, no longer.

    On a GPU the copies come from pinned memory, in order with the work, so nothing waits on the host.
    """
    for layer in unet.modules():
        if weights := list(layer.parameters(recurse=False)):
            homes = [w.data.pin_memory() if device.type == "cuda" else w.data for w in weights]
            layer.register_forward_pre_hook(partial(_bring, weights, homes, device))
            layer.register_forward_hook(partial(_send_back, weights, homes))
            _send_back(weights, homes)


def _bring(weights: list[nn.Parameter], homes: list[Tensor], device: torch.device, *_: Any) -> None:
    for weight, home in zip(weights, homes, strict=True):
        weight.data = home.to(device, non_blocking=True, copy=True)


def _send_back(weights: list[nn.Parameter], homes: list[Tensor], *_: Any) -> None:
    for weight, home in zip(weights, homes, strict=True):
        weight.data = home
