# SPDX-License-Identifier: Apache-2.0
"""From a prompt to what each view is conditioned on, by azimuth.

Letters of shapes: B views, K prompts, L tokens, D width of a token's embedding.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from arguments import GuidanceParams
from guidance.perpneg_utils import view_weights
from guidance.prior import Conditioning, Prior
from utils.device import send

logger = logging.getLogger(__name__)

VIEWS = ("front", "side", "back")
ENDINGS = {view: f", {view} view" for view in VIEWS}


def nearest_views(position: float) -> tuple[str, str, float]:
    """(near, far, share of far) of a position between front (0), side (1) and back (2)."""
    near = 0 if position <= 1 else 1
    return VIEWS[near], VIEWS[near + 1], position - near


@dataclass(frozen=True)
class PromptTexts:
    """The six texts of a run, as they are encoded."""

    default: str
    uncond: str
    front: str
    side: str
    back: str
    inverse: str

    @classmethod
    def from_params(cls, params: GuidanceParams) -> "PromptTexts":
        """Upstream's wording: "<text>, <view> view"; the negative prompt stands for the unconditional one."""
        if not params.text.strip():
            raise ValueError('GuidanceParams.text is empty; give a prompt, for example --text "a photo of a bagel"')
        views = {view: params.text + ENDINGS[view] for view in VIEWS}
        return cls(default=params.text, uncond=params.negative, inverse=params.inverse_text, **views)

    def shortened(self, prior: Prior) -> "PromptTexts":
        """These texts with as much of the prompt as `prior` takes beside the view words; a cut is reported.

        DECISION: of a prompt that is too long for the text encoder the end is cut and the view words stay; upstream
        cuts them off, so that every side has one text and Perp-Neg nothing to push from.
        """
        shorten = getattr(prior, "shorten", None)
        if shorten is None:
            return self
        prompt = shorten(self.default, tuple(ENDINGS.values()))
        if prompt == self.default:
            return self
        logger.warning("GuidanceParams.text is too long for the text encoder: cut to %r, the view words stay", prompt)
        views = {view: prompt + ENDINGS[view] for view in VIEWS}
        return replace(self, default=shorten(self.default, ("",)), **views)


def further_texts(texts: PromptTexts, params: GuidanceParams) -> dict[str, str]:
    """The texts of a law that has more than those: `contrast` alone, `source` and `target` for each view word."""
    read, found = params.law.reads, {}
    if "contrast_text" in read:
        found["contrast"] = params.contrast_text
    for name, setting in (("source", "source_words"), ("target", "target_words")):
        if setting in read:
            found |= {f"{name} {view}": getattr(texts, view) + getattr(params, setting) for view in VIEWS}
    return found


class PromptEmbeddings:
    """Embeddings of the run's six texts, and of those of its law.

    The prior's text encoder is called once, here. With a front_bias b the views' embeddings are (1 - b) view + b front,
    as if the prior were biased towards the front, which causes several faces.
    """

    def __init__(self, prior: Prior, guidance_params: GuidanceParams):
        self.params = guidance_params
        self.texts = PromptTexts.from_params(guidance_params).shortened(prior)
        named = {**vars(self.texts), **further_texts(self.texts, guidance_params)}
        encoded = prior.get_text_embeds(list(named.values()))  # [6 or more,L,D]
        self.embeddings: dict[str, Tensor] = {name: encoded[k] for k, name in enumerate(named)}  # each [L,D]
        if bias := guidance_params.front_bias:
            for name in self.embeddings:
                *words, view = name.split()
                if view in VIEWS:
                    front = self.embeddings[" ".join([*words, "front"])]
                    self.embeddings[name] = (1 - bias) * self.embeddings[name] + bias * front

    def conditioning(self, azimuth_deg: Sequence[float] | Tensor) -> Conditioning:
        """Embeddings for views at these azimuths [B] (0 = front, either sign, any turn)."""
        angles = [float(angle) for angle in azimuth_deg]
        params = self.params
        decay = (params.negative_w, params.front_decay_factor, params.side_decay_factor)
        weighted = [view_weights(angle, *decay) for angle in angles]
        return Conditioning(
            uncond=self._repeated("uncond", len(angles)),
            positive=self._blended("", [position for position, _ in weighted]),
            inverse=self._repeated("inverse", len(angles)),
            negatives=self._negatives([negatives for _, negatives in weighted]) if params.perpneg else (),
            further=self._further([position for position, _ in weighted]),
        )

    def _further(self, positions: list[float]) -> dict[str, Tensor]:
        """Embeddings [B,L,D] of the law's own texts."""
        found = {"contrast": self._repeated("contrast", len(positions))} if "contrast" in self.embeddings else {}
        names = [name for name in ("source", "target") if f"{name} front" in self.embeddings]
        return found | {name: self._blended(f"{name} ", positions) for name in names}

    def _blended(self, text: str, positions: list[float]) -> Tensor:
        """[B,L,D] of a text's views."""
        return torch.stack([self._blend(position, text) for position in positions])

    def _repeated(self, name: str, count: int) -> Tensor:
        return self.embeddings[name].expand(count, -1, -1)  # [B,L,D]

    def _blend(self, position: float, text: str) -> Tensor:
        """Embedding at a position between front (0), side (1) and back (2), linear between neighbours: [L,D].

        Kept from upstream: text follows azimuth alone; a view from above is still a front, side or back view.
        """
        near, far, share = nearest_views(position)
        return (1 - share) * self.embeddings[text + near] + share * self.embeddings[text + far]

    def _negatives(self, rows: list[tuple[tuple[int, float], ...]]) -> tuple[tuple[Tensor, Tensor], ...]:
        """Turn each view's (view, weight) pairs into ([B,L,D], weights [B]) per negative."""
        result = []
        for pairs in zip(*rows, strict=True):
            texts = torch.stack([self.embeddings[VIEWS[view]] for view, _ in pairs])
            result.append((texts, send([weight for _, weight in pairs], texts.device)))
        return tuple(result)
