# SPDX-License-Identifier: Apache-2.0
"""View-dependent text: which words are encoded, and how views blend them."""

import pytest
import torch

from arguments import GuidanceParams
from guidance.prompts import PromptEmbeddings, PromptTexts
from tests.mixture_prior import GaussianMixturePrior

TEXTS = {"a cat, front view": [1.0, 0, 0], "a cat, side view": [0, 1.0, 0], "a cat, back view": [0, 0, 1.0]}


class CountingPrior(GaussianMixturePrior):
    """Three components, one a view; counts the calls of the text encoder."""

    calls = 0

    def get_text_embeds(self, texts):
        self.calls += 1
        return super().get_text_embeds(texts)


@pytest.fixture
def prior():
    return CountingPrior(torch.zeros(3, 3, 2, 2), 0.5, {text: torch.tensor(row) for text, row in TEXTS.items()})


def book(prior, **changes):
    return PromptEmbeddings(prior, GuidanceParams(text="a cat", perpneg=False, **changes))


def test_texts_are_upstreams():
    texts = PromptTexts.from_params(GuidanceParams(text="a cat", negative="ugly", inverse_text="cat"))
    assert (texts.default, texts.uncond, texts.inverse) == ("a cat", "ugly", "cat")
    assert (texts.front, texts.side, texts.back) == ("a cat, front view", "a cat, side view", "a cat, back view")


@pytest.mark.parametrize(
    ("azimuth_deg", "shares"),
    [(0, [1, 0, 0]), (45, [0.5, 0.5, 0]), (-90, [0, 1, 0]), (90, [0, 1, 0]), (-135, [0, 0.5, 0.5]), (180, [0, 0, 1])],
)
def test_views_blend_front_side_back(prior, azimuth_deg, shares):
    positive = book(prior).conditioning([azimuth_deg]).positive
    torch.testing.assert_close(positive[0, 0], torch.tensor(shares, dtype=torch.float32))


@pytest.mark.parametrize("bias", [0.0, 0.4, 1.0])
def test_front_bias_blends_every_view_with_the_front(prior, bias):
    plain, weak = book(prior), book(prior, front_bias=bias)
    front = plain.conditioning([0.0]).positive[0]
    for azimuth_deg in (0, 45, 120, 180):
        full, blended = (b.conditioning([azimuth_deg]).positive[0] for b in (plain, weak))
        torch.testing.assert_close(blended, (1 - bias) * full + bias * front)
    for name in ("default", "uncond", "inverse"):
        assert torch.equal(weak.embeddings[name], plain.embeddings[name])


def test_text_is_encoded_once_for_a_whole_run(prior):
    prompts = book(prior)
    for azimuth_deg in range(-180, 180, 30):
        prompts.conditioning([azimuth_deg, 0.0])
    assert prior.calls == 1


def test_conditioning_has_one_row_a_view_and_negatives_only_with_perp_neg(prior):
    azimuths = torch.tensor([0.0, 100.0, -100.0, 30.0])
    plain = book(prior).conditioning(azimuths)
    assert plain.negatives == ()
    assert {plain.uncond.shape, plain.positive.shape, plain.inverse.shape} == {(4, 1, 3)}
    perp_neg = PromptEmbeddings(prior, GuidanceParams(text="a cat", perpneg=True)).conditioning(azimuths)
    assert torch.equal(perp_neg.positive, plain.positive)
    (first, first_weights), (second, second_weights) = perp_neg.negatives
    assert first[:, 0].argmax(1).tolist() == [0, 1, 1, 0]  # front in the front half, side behind
    assert second[:, 0].argmax(1).tolist() == [1, 0, 0, 1]
    assert first_weights.shape == second_weights.shape == (4,)
    assert second_weights[1].item() == -2.0


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_prompt_is_refused(prior, text):
    with pytest.raises(ValueError, match=r"GuidanceParams.text is empty; give a prompt, for example --text"):
        PromptEmbeddings(prior, GuidanceParams(text=text))
