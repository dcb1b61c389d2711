# SPDX-License-Identifier: Apache-2.0
"""A Janus measure by view words: where around an object does CLIP see a front?

Each view is classified by a soft-max over CLIP's similarities with "front view of ...", "side view of ..." and
"back view of ...". A front more than 90 degrees from the best one is a second front. One view that is classified
wrongly is none: probabilities are averaged over neighbouring views first. V views of one turn.
"""

import numpy as np

from evaluation import Metric

WORDS = ("front", "side", "back")
VIEWS = 24
BEYOND_DEG = 90.0
AVERAGED_DEG = 30.0
"""To each side. benchmarks/results/janus.md has what single errors of the classifier do without it."""


def view_probabilities(clip: Metric, images: np.ndarray, prompt: str) -> np.ndarray:
    """Probabilities [V, 3] of WORDS for images uint8 [V, H, W, 3].

    `clip` gives 100 times the cosine, which is also the scale of the logits in the published models.
    """
    logits = np.stack([clip(images, f"{word} view of {prompt}") for word in WORDS], axis=1)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def second_front(probability: np.ndarray) -> float:
    """How clearly a second front is seen, in [-1, 1], from probabilities [V, 3] over one turn; above 0: it is.

    The largest lead of "front" over the other words among the views more than BEYOND_DEG from the likeliest front.
    """
    count = len(probability)
    reach = round(AVERAGED_DEG * count / 360)
    mean = np.mean([np.roll(probability, shift, axis=0) for shift in range(-reach, reach + 1)], axis=0)
    step = np.abs(np.arange(count) - int(mean[:, 0].argmax()))
    away_deg = 360.0 * np.minimum(step, count - step) / count
    lead = mean[:, 0] - mean[:, 1:].max(axis=1)
    return float(lead[away_deg > BEYOND_DEG].max())
