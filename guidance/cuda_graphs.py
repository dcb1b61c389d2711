# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs for calls of fixed shape: the kernels of a call are recorded once and then started all in one go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

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
    """A function of tensors that is recorded for each combination of shapes it meets, the last MOST_GRAPHS of them.

    The function must do the same work whatever its inputs hold. Results are copies, so a later call changes none.
    """

    def __init__(
        self, call: Callable[..., tuple[Tensor, ...]], record: Callable[..., Recording] = CudaRecording
    ) -> None:
        self._call, self._record = call, record
        self._pool: Any = None
        self._recordings: OrderedDict[Any, Recording] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        key = tuple((x.shape, x.dtype) for x in inputs)
        if key not in self._recordings:
            if self._pool is None and self._record is CudaRecording:
                self._pool = torch.cuda.graph_pool_handle()
            self._recordings[key] = self._record(self._call, inputs, self._pool)
            if len(self._recordings) > MOST_GRAPHS:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        recording = self._recordings[key]
        for ours, theirs in zip(recording.inputs, inputs, strict=True):
            ours.copy_(theirs)
        recording.replay()
        return tuple(output.clone() for output in recording.outputs)
