# SPDX-License-Identifier: Apache-2.0
"""What a run did, from its log.jsonl: denoiser calls, and the work of CoGrad's parts."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 20  # of timesteps


def denoiser_calls(log: Sequence[dict[str, Any]]) -> int:
    """Views that went through the denoiser in a run, of the records of log.jsonl; a step of B views counts B times."""
    return sum(len(step["unet_timesteps"]) * len(step["t"]) for step in log)


def samples(log: Sequence[dict[str, Any]]) -> int | None:
    """Of the network in a run, by the records of its process; None for a log that an earlier release began."""
    if any("unet_samples" not in step for step in log):
        return None
    return sum(step["unet_samples"] for step in log)


def mechanism(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the parts of CoGrad did over a run.

    loss_explained_by_t is R^2 of log L on 20 timestep bins; the rest is there with CoGrad on: starved_share and
    largest_probability of the regions, clipped_share of the updates u, auxiliaries of a view and their mean cosine with
    g_main, norm_gain |g_fused| / |g_main| of the views that had any. What never happened has no mean and is left out.
    """
    found = {"loss_explained_by_t": loss_explained_by_t(log)}
    steps = [step["cograd"] for step in log if step.get("cograd")]
    if not steps:
        return found
    views = [view for step in steps for view in step["fusion"]]
    updates = [(u, raw) for step in steps for u, raw in zip(step["u"], step["u_raw"]) if u is not None]
    cosines = [cosine for view in views for cosine in view["cosines"]]
    gains = [view["fused_norm"] / view["main_norm"] for view in views if view["cosines"] and view["main_norm"] > 0]
    means = {"clipped_share": [u != raw for u, raw in updates], "cosine": cosines, "norm_gain": gains}
    found |= {
        "starved_share": steps[-1]["starved_share"],
        "largest_probability": max(step["largest_probability"] for step in steps),
        "auxiliaries": len(cosines) / max(len(views), 1),
    }
    return found | {name: float(np.mean(values)) for name, values in means.items() if values}


def loss_explained_by_t(log: Sequence[dict[str, Any]]) -> float:
    """Share of the variance of log L that the mean of its timestep bin explains."""
    steps = [step for step in log if step["loss_per_view"]]
    pairs = [(t, L) for step in steps for t, L in zip(step["t"], step["loss_per_view"]) if L is not None and L > 0]
    if len(pairs) < 2:
        return 0.0
    t, log_L = np.array([pair[0] for pair in pairs]), np.array([math.log(pair[1]) for pair in pairs])
    bin_of = t * BINS // (int(t.max()) + 1)
    explained = sum((bin_of == b).sum() * log_L[bin_of == b].mean() ** 2 for b in np.unique(bin_of))
    total = float(((log_L - log_L.mean()) ** 2).sum())
    return float(explained - len(log_L) * log_L.mean() ** 2) / total if total > 0 else 0.0
