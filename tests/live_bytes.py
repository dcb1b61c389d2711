# SPDX-License-Identifier: Apache-2.0
"""Bytes that torch operations allocate, counted while they run."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts what operations allocate inside a with block: bytes alive `now`, and their `peak`."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """`known`: tensors that are there already, such as weights."""
        super().__init__()
        self.now = self.peak = 0
        self._seen = {x.untyped_storage()._cdata for x in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := (storage := x.untyped_storage())._cdata) not in self._seen:
                self._seen.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _gone(self, key: int, count: int) -> None:
        self._seen.discard(key)
        self.now -= count
