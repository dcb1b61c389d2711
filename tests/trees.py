# SPDX-License-Identifier: Apache-2.0
"""Bitwise comparison of nested dictionaries, lists, tensors and plain values, for tests of saved and resumed state."""

import torch


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    return a == b
