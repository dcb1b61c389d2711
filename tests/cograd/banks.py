# SPDX-License-Identifier: Apache-2.0
"""Gradient banks and gradients for their tests."""

import dataclasses

import torch

from arguments import CoGradParams
from cograd.gradient_bank import GradientBank, PackedGradient
from cograd.regions import RegionGrid
from tests.drawn import Draws

EXACT = CoGradParams(bank_precision="float32")
GRID = RegionGrid()
TOTAL = 1000
PRECISIONS = ["float32", "float16"]


def bank_of(total_steps: int = TOTAL, **settings) -> GradientBank:
    return GradientBank(GRID, dataclasses.replace(EXACT, **settings), total_steps)


def gradient_of(n: int = 30, seed: int = 0, seen: float = 0.5) -> dict[str, torch.Tensor]:
    """What a view leaves: zeros where it sees nothing, the scale term's gradient everywhere, nothing in f_rest."""
    draws = Draws(seed)
    visible = draws.uniform(n) < seen
    g = {"xyz": draws.normal(n, 3), "f_dc": draws.normal(n, 1, 3), "f_rest": torch.zeros(n, 0, 3)}
    g |= {"opacity": 1e-4 * draws.normal(n, 1), "rotation": draws.normal(n, 4)}
    g = {name: x * visible.view(-1, *[1] * (x.dim() - 1)) for name, x in g.items()}
    return {**g, "scaling": draws.normal(n, 3), "background": draws.normal(3, 1, 1)}


def pack(bank: GradientBank) -> GradientBank:
    """What a bank beyond its limit does, to every entry."""
    dtype = getattr(torch, bank.params.bank_precision)
    bank.entries = {region: PackedGradient.pack(entry, dtype) for region, entry in bank.entries.items()}
    return bank


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
