# SPDX-License-Identifier: Apache-2.0
"""Something that happens in the middle of a run."""

import torch

import train
from toy.ideal import IdealPrior


def at_step(monkeypatch, step: int, act) -> None:
    """Calls act() between the gradients and the update of a step, the first time that the run gets there."""
    with_state(monkeypatch, step, lambda state: act())


def with_state(monkeypatch, step: int, act) -> None:
    """The same with act(state)."""
    sound, done = train.compute_gradients, []

    def patched(state, *args):
        report = sound(state, *args)
        if state.iteration == step and not done:
            done.append(True)
            act(state)
        return report

    monkeypatch.setattr(train, "compute_gradients", patched)


def faulty_calls(monkeypatch, is_faulty) -> None:
    """The denoiser answers with infinities in those of its calls, counted from 1; one call a step here (SDS)."""
    sound, calls = IdealPrior.predict_noise, []

    def faulty(self, x_t, t, embeddings):
        calls.append(1)
        eps = sound(self, x_t, t, embeddings)
        return torch.full_like(eps, float("inf")) if is_faulty(len(calls)) else eps

    monkeypatch.setattr(IdealPrior, "predict_noise", faulty)
