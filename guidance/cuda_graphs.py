# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs for calls of fixed shape: the kernels of a call are recorded once and then started all in one go."""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from utils.failures import first_line

logger = logging.getLogger(__name__)

WARM_UP_CALLS = 3  # libraries choose kernels and allocate workspaces in the first calls, which cannot be recorded
MOST_GRAPHS = 16


class Recording(Protocol):
    """A recorded call: `replay` computes `outputs` again from what is in `inputs`."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def replay(self) -> None: ...


class CudaRecording:
    """A call recorded as a CUDA graph. Graphs of one `pool` share memory: they never run at the same time."""

    def __init__(self, call: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], pool: Any) -> None:
        self.inputs = tuple(x.clone() for x in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_CALLS):
                call(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self.outputs = call(*self.inputs)

    def replay(self) -> None:
        self._graph.replay()


class GraphedCall:
    """A function of tensors that is recorded for each combination of shapes it meets, the first MOST_GRAPHS of them.

    Further shapes are computed without a graph: recording costs as much as four calls, and shapes that took turns would
    be recorded again and again. So are all of them where the function cannot be recorded. Each is logged once.
    The function must do the same work whatever its inputs hold. Results are copies, so a later call changes none.
    """

    def __init__(
        self, call: Callable[..., tuple[Tensor, ...]], record: Callable[..., Recording] = CudaRecording
    ) -> None:
        self._call, self._record = call, record
        self._pool: Any = None
        self._recordings: dict[Any, Recording] = {}
        self._records = True  # until there are enough, or one fails

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        key = tuple((x.shape, x.dtype) for x in inputs)
        if key not in self._recordings and self._records:
            self._add(key, inputs)
        if (recording := self._recordings.get(key)) is None:
            return self._call(*inputs)
        for ours, theirs in zip(recording.inputs, inputs, strict=True):
            ours.copy_(theirs)
        recording.replay()
        return tuple(output.clone() for output in recording.outputs)

    def _add(self, key: Any, inputs: tuple[Tensor, ...]) -> None:
        if len(self._recordings) == MOST_GRAPHS:
            self._records = False
            logger.warning("more than %d batch sizes meet the U-Net; the others run without a CUDA graph", MOST_GRAPHS)
            return
        if self._pool is None and self._record is CudaRecording:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            self._recordings[key] = self._record(self._call, inputs, self._pool)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # CUDA's errors of a capture, and of operations that are not allowed in one
            self._records = False
            logger.warning(
                "the U-Net's calls cannot be recorded as CUDA graphs (%s), so they run without; "
                "set GuidanceParams.cuda_graphs to false",
                first_line(error),
            )
