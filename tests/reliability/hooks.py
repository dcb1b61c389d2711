# SPDX-License-Identifier: Apache-2.0
"""Something that happens in the middle of a run."""

import cograd.team


def at_step(monkeypatch, step: int, act) -> None:
    """Calls act() between the gradients and the update of a step, the first time that the run gets there."""
    with_state(monkeypatch, step, lambda state: act())


def with_state(monkeypatch, step: int, act) -> None:
    """The same with act(state)."""
    sound, done = cograd.team.accumulate_gradients, []

    def patched(state, *args):
        report = sound(state, *args)
        if state.iteration == step and not done:
            done.append(True)
            act(state)
        return report

    monkeypatch.setattr(cograd.team, "accumulate_gradients", patched)
