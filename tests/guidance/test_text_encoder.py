# SPDX-License-Identifier: Apache-2.0
"""Texts that are longer than the text encoder: what is kept, what is said, and that the sides stay different."""

import logging
from types import SimpleNamespace

import pytest
import torch

from arguments import GuidanceParams
from guidance.prompts import ENDINGS, VIEWS, PromptEmbeddings
from guidance.sd_utils import StableDiffusion
from guidance.text_encoder import TextEncoder
from toy.prompt_words import in_known_words

ENDS = tuple(ENDINGS.values())


@pytest.fixture(scope="module")
def priors(golden_dir):
    keys = golden_dir / "tiny-sd", golden_dir.parents[2] / "assets" / "toy-prior"
    return {key.name: StableDiffusion(GuidanceParams(model_key=str(key), allow_unknown_words=True), "cpu") for key in keys}


@pytest.fixture(params=["tiny-sd", "toy-prior"])
def prior(request, priors):
    return priors[request.param]


def words(prior, tokens):
    """A text of `tokens` tokens with begin and end: each `a` is one."""
    text = " ".join(["a"] * (tokens - 2))
    assert len(prior._texts.tokens(text)) == tokens
    return text


LONG = {
    "words": "a red mug " * 60,
    "one word": "mug" * 200,
    "no blanks": "红色的杯子" * 60,
    "commas": "a mug, red, " * 60,
    "lines": "a\nred\tmug\n" * 60,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_sides_of_a_long_prompt_differ(prior, text, caplog):
    with caplog.at_level(logging.WARNING, logger="guidance"):
        book = PromptEmbeddings(prior, GuidanceParams(text=text, perpneg=True))
    sides = [book.embeddings[view] for view in VIEWS]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (sides[first] - sides[second]).abs().max() > 1e-3
    conditioning = book.conditioning([45.0])
    for negative, _ in conditioning.negatives:
        assert (negative - conditioning.positive).abs().max() > 1e-3
    body = book.texts.front.removesuffix(", front view")
    assert text.startswith(body) and all(prior._texts.fits(body + ending) for ending in ENDS)
    cut = [record.getMessage() for record in caplog.records if "text encoder" in record.getMessage()]
    assert len(cut) == 1 and "\n" not in cut[0] and "the view words stay" in cut[0] and "is too long" in cut[0]


def test_as_many_whole_words_as_fit_are_kept(prior):
    text = words(prior, 3 * prior._texts.limit)
    body = prior.shorten(text, ENDS)
    assert len(prior._texts.tokens(body + ENDS[0])) == prior._texts.limit


@pytest.mark.parametrize("beyond", [-4, -3, -2, -1, 0, 1, 2])
def test_at_the_limit(prior, beyond, caplog):
    """A prompt is cut if it does not fit with its view words (four tokens), and left as it is otherwise."""
    text = words(prior, prior._texts.limit + beyond)
    texts = PromptEmbeddings(prior, GuidanceParams(text=text)).texts
    ending = len(prior._texts.tokens("a" + ENDS[0])) - 3
    assert (texts.front == text + ENDS[0]) == (beyond + ending <= 0)
    assert (texts.default == text) == (beyond <= 0)
    assert len([record for record in caplog.records if "the view words stay" in record.message]) == (beyond + ending > 0)


def test_a_prompt_that_fits_is_encoded_as_ever(prior):
    tokens = prior.tokenizer(["a red mug", ""], padding="max_length", max_length=prior._texts.limit, return_tensors="pt")
    with torch.no_grad():
        expected = prior.text_encoder(tokens.input_ids)[0]
    assert torch.equal(prior.get_text_embeds(["a red mug", ""]), expected)


def test_negative_and_inverse_text_lose_their_end_in_one_line(prior, caplog):
    negative, inverse = "red " * 100, "mug " * 100
    book = PromptEmbeddings(prior, GuidanceParams(text="a mug", negative=negative, inverse_text=inverse))
    lines = [record.getMessage() for record in caplog.records if "cut at the end" in record.getMessage()]
    assert len(lines) == 1 and "'red red" in lines[0] and "'mug mug" in lines[0]
    assert book.texts.uncond == negative
    tokens = prior.tokenizer([negative], truncation=True, max_length=prior._texts.limit, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(book.embeddings["uncond"][None], prior.text_encoder(tokens.input_ids)[0])


def test_nothing_fits(prior):
    """Where not even a word fits beside an ending, the ending is left."""
    assert prior.shorten("a red mug", (" a" * 200,)) == ""


@pytest.mark.parametrize("asks", [True, False])
def test_the_mask_is_given_where_the_model_asks_for_it(priors, asks):
    """As diffusers' pipelines do: padding is hidden from encoders whose config has use_attention_mask."""
    seen = []

    def model(tokens, **options):
        seen.append(options)
        return (torch.zeros(len(tokens), 77, 2),)

    model.config = SimpleNamespace(max_position_embeddings=77, use_attention_mask=asks)
    model.device = torch.device("cpu")
    TextEncoder(priors["tiny-sd"].tokenizer, model, {}).embed(["a mug", "a"])
    if asks:
        assert seen[0]["attention_mask"].sum(dim=1).tolist() == [len(priors["tiny-sd"]._texts.tokens(t)) for t in ("a mug", "a")]
    else:
        assert seen == [{}]


def test_words_that_are_left_out_take_no_room(golden_dir, caplog):
    """The toy prior's texts are brought into its words first: what it does not know is no reason to cut."""
    key = golden_dir.parents[2] / "assets" / "toy-prior"
    prior = StableDiffusion(GuidanceParams(model_key=str(key)), "cpu", in_known_words)
    text = "a red mug " + "gleaming " * 30
    assert prior.shorten(text, ENDS) == text
    sides = PromptEmbeddings(prior, GuidanceParams(text=text)).embeddings
    assert (sides["front"] - sides["back"]).abs().max() > 1e-3 and not caplog.records


@pytest.mark.parametrize(("text", "words"), [("A <Taylor_Swift> wearing <zork>", "'<Taylor_Swift>', '<zork>'"), ("a mug", None), ("3 < 4 > 2", None), ("a <|endoftext|>", None)])
def test_a_bracketed_word_that_no_file_brought_is_reported(priors, caplog, text, words):
    """As in configs/ts_lora.yaml with a file of another word: it would be read letter by letter in silence."""
    PromptEmbeddings(priors["tiny-sd"], GuidanceParams(text=text))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ([f"{words}: no file of LoRA_path or textual_inversion_path has the word; it is read as text"] if words else [])
