# SPDX-License-Identifier: Apache-2.0
"""Textual inversion: every format, words of one and of several vectors, and what is refused or reported."""

import logging

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from arguments import GuidanceParams
from guidance.prompts import PromptEmbeddings
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from guidance.textual_inversion import read_words
from tests.hostile import Payload

WIDTH = 32


def vectors(count, seed=0, width=WIDTH):
    numbers = np.random.default_rng(seed)
    return torch.from_numpy(0.1 * numbers.standard_normal((count, width), dtype=np.float32))


def write(path, contents):
    if path.suffix == ".safetensors":
        save_file(contents, path)
    else:
        torch.save(contents, path)
    return str(path)


@pytest.fixture
def load(golden_dir):
    def load_prior(path=None, **changes):
        params = GuidanceParams(model_key=str(golden_dir / "tiny-sd"), textual_inversion_path=path, **changes)
        return StableDiffusion(params, "cpu")

    return load_prior


def in_order(prior, text):
    return prior.tokenizer.convert_ids_to_tokens(prior._texts.tokens(text))[1:-1]


def test_a_word_of_one_vector(load, tmp_path):
    taught, plain = load(write(tmp_path / "word.safetensors", {"<zork>": vectors(1)[0]})), load()
    assert len(taught.tokenizer) == len(plain.tokenizer) + 1
    difference = taught.get_text_embeds(["a <zork>"]) - plain.get_text_embeds(["a <zork>"])
    assert difference.abs().max() > 1e-3
    assert torch.equal(taught.get_text_embeds(["a cat"]), plain.get_text_embeds(["a cat"]))


@pytest.mark.parametrize("changed", range(4))
def test_every_vector_of_a_word_is_used(load, tmp_path, changed):
    first, second = vectors(4), vectors(4)
    second[changed] *= -1
    files = [write(tmp_path / f"{k}.safetensors", {"<zork>": v}) for k, v in enumerate((first, second))]
    one, other = (load(file).get_text_embeds(["a <zork> mug"]) for file in files)
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("text", ["a <zork> mug", "A <ZORK> mug", "<zork>", "a <zork>, a <zork>"])
def test_the_word_is_replaced_as_diffusers_replaces_it(load, tmp_path, text):
    """In every text of a run, whatever its case; words of one vector and other words stay."""
    from diffusers.loaders import TextualInversionLoaderMixin

    prior = load(write(tmp_path / "word.safetensors", {"<zork>": vectors(3)}))
    expected = TextualInversionLoaderMixin().maybe_convert_prompt(text.lower(), prior.tokenizer)
    assert "<zork> <zork>_1 <zork>_2" in expected
    assert prior._texts.tokens(text) == prior.tokenizer(expected).input_ids


def test_all_texts_of_a_run_have_all_vectors(load, golden_dir, tmp_path):
    files = [write(tmp_path / f"{k}.safetensors", {"<zork>": torch.cat([vectors(1), vectors(2, seed)])}) for k, seed in enumerate((1, 2))]
    texts = {"text": "a <zork>", "negative": "ugly <zork>", "inverse_text": "<zork>"}
    books = [PromptEmbeddings(load(file), GuidanceParams(**texts)) for file in files]
    for name, embedding in books[0].embeddings.items():
        assert (embedding - books[1].embeddings[name]).abs().max() > 1e-3, name


class AsWritten:
    """What programs write for a word 'zork' of these vectors: file name and contents."""

    diffusers = staticmethod(lambda v: ("learned.safetensors", {"zork": v}))
    diffusers_pickled = staticmethod(lambda v: ("learned_embeds.bin", {"zork": v}))
    automatic1111 = staticmethod(
        lambda v: (
            "file.pt",
            {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.nn.Parameter(v)}, "name": "zork", "step": 9, "sd_checkpoint": None},
        )
    )
    first_of_all = staticmethod(
        lambda v: ("zork.pt", {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(v)})})
    )
    kohya = staticmethod(lambda v: ("zork.safetensors", {"emb_params": v}))
    bare_tensor = staticmethod(lambda v: ("zork.pt", v))
    half = staticmethod(lambda v: ("learned.safetensors", {"zork": v.half()}))
    double = staticmethod(lambda v: ("learned.safetensors", {"zork": v.double()}))


@pytest.mark.parametrize("kind", [name for name in vars(AsWritten) if not name.startswith("__")])
def test_every_format(load, tmp_path, kind):
    learned = vectors(3)
    name, contents = getattr(AsWritten, kind)(learned)
    prior = load(write(tmp_path / name, contents))
    assert in_order(prior, "a zork mug")[1:4] == ["zork", "zork_1", "zork_2"]
    rows = prior.text_encoder.get_input_embeddings().weight[prior.tokenizer.convert_tokens_to_ids(["zork", "zork_1", "zork_2"])]
    torch.testing.assert_close(rows.detach(), learned, rtol=1e-3, atol=1e-4)


def test_several_words_of_a_file_and_of_a_folder(load, tmp_path):
    write(tmp_path / "one.safetensors", {"<a>": vectors(2), "<b>": vectors(1)})
    write(tmp_path / "two.pt", {"string_to_param": {"*": vectors(3)}, "name": "<c>"})
    (tmp_path / "readme.md").write_text("not an embedding")
    prior = load(str(tmp_path))
    assert in_order(prior, "<a> <b> <c>") == ["<a>", "<a>_1", "<b>", "<c>", "<c>_1", "<c>_2"]
    write(tmp_path / "learned_embeds.safetensors", {"<d>": vectors(1)})
    assert list(read_words(str(tmp_path))) == ["<d>"]  # the published layout: one file of this name


def test_the_scheduler_stays_as_it_is(golden_dir, tmp_path):
    """diffusers' pipeline, which adds words, would set steps_offset to 1."""
    import json
    import shutil

    folder = shutil.copytree(golden_dir / "tiny-sd", tmp_path / "model")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps_offset": 7}))
    words = write(tmp_path / "word.safetensors", {"<zork>": vectors(1)})
    for file in (None, words):
        assert StableDiffusion(GuidanceParams(model_key=str(folder), textual_inversion_path=file), "cpu").steps_offset == 7


def test_a_word_that_no_text_contains_is_reported_once(load, tmp_path, caplog):
    prior = load(write(tmp_path / "words.safetensors", {"<zork>": vectors(2), "<used>": vectors(1)}))
    with caplog.at_level(logging.WARNING):
        PromptEmbeddings(prior, GuidanceParams(text="a zork", negative="<used>"))
        prior.get_text_embeds(["a cat"])
    [record] = caplog.records
    assert record.getMessage().startswith("learned word '<zork>': it is in none of the run's texts, so it changes nothing;")
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("text", ["a <zork>", "A <ZORK>, front view"])
def test_a_word_that_is_used_is_not_reported(load, tmp_path, caplog, text):
    PromptEmbeddings(load(write(tmp_path / "w.safetensors", {"<zork>": vectors(2)})), GuidanceParams(text=text))
    assert not caplog.records


def test_vectors_count_as_tokens(load, tmp_path):
    prior = load(write(tmp_path / "w.safetensors", {"<zork>": vectors(30)}))
    assert prior._texts.fits("<zork> <zork>") and not prior._texts.fits("<zork> <zork> <zork>")
    assert prior.shorten("a <zork> b <zork> c <zork> d", (", back view",)) == "a <zork> b <zork> c"


@pytest.mark.parametrize("hide", [lambda x: {"<zork>": x}, lambda x: {"string_to_param": {"*": torch.zeros(1, 32)}, "name": x}])
def test_code_in_a_textual_inversion_is_not_run(load, tmp_path, hide):
    path, trace = tmp_path / "word.bin", tmp_path / "was_run"
    torch.save(hide(Payload(trace)), path)
    with pytest.raises(ModelUnavailable, match=r"textual inversion .* holds Python objects that are not loaded \(io.open\)"):
        load(str(path))
    assert not trace.exists()


def with_value(value, dtype=torch.float32):
    changed = vectors(2).to(dtype)
    changed[1, 3] = value
    return changed


REFUSED = {
    "SDXL": ({"clip_l": vectors(2, width=768), "clip_g": vectors(2, width=1280)}, r"is for Stable Diffusion XL \(it holds 'clip_g'\); give"),
    "SD3": ({"clip_l": vectors(1, width=768), "t5xxl": vectors(1, width=4096)}, r"is for Stable Diffusion 3 \(it holds 't5xxl'\)"),
    "SD 1": ({"<zork>": vectors(1, width=768)}, r"'<zork>' has width 768 \(Stable Diffusion 1.x\), the text encoder has 32; use one made for this model"),
    "width": ({"<zork>": vectors(3, width=33)}, r"'<zork>' has width 33, the text encoder has 32; use"),
    "NaN": ({"<zork>": with_value(float("nan"))}, r"tensor '<zork>' is not finite in 1 of its 64 values; fetch or train it again"),
    "Inf": ({"<zork>": with_value(-float("inf"))}, r"tensor '<zork>' is not finite in 1 of"),
    "NaN in half": ({"<zork>": with_value(float("nan"), torch.float16)}, r"tensor '<zork>' is not finite"),
    "beyond float32": ({"<zork>": with_value(1e300, torch.float64)}, r"tensor '<zork>' has a value of 1e\+300, beyond the range of float32; fetch"),
    "whole numbers": ({"<zork>": torch.ones(1, 32, dtype=torch.int64)}, r"tensor '<zork>' is of type int64; expected floating-point values"),
    "shape": ({"<zork>": torch.zeros(1, 2, 32)}, r"'<zork>' is \[1, 2, 32\]; expected one vector or a list of vectors"),
    "empty": ({"<zork>": torch.zeros(0, 32)}, r"'<zork>' is \[0, 32\]; expected one vector"),
    "known word": ({"cat</w>": vectors(1)}, r"the tokenizer has .* already; give the learned word another name"),
    "LoRA": ({"lora_unet_x.lora_up.weight": vectors(4)}, r"is a LoRA; name it in LoRA_path"),
    "whole model": ({"model.diffusion_model.x.weight": vectors(4)}, r"is a whole checkpoint; name it in model_key"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(load, tmp_path, kind):
    contents, sentence = REFUSED[kind]
    if kind == "known word":
        word = max(load().tokenizer.get_vocab(), key=len)
        contents = {word: vectors(1)}
    with pytest.raises(ModelUnavailable, match=sentence) as refused:
        load(write(tmp_path / "word.safetensors", contents))
    assert "\n" not in str(refused.value) and "textual inversion" in str(refused.value) and "{" not in str(refused.value)


def test_a_value_beyond_half_precision_is_refused_where_it_is_computed_in(load, tmp_path):
    path = write(tmp_path / "word.safetensors", {"<zork>": with_value(1e5)})
    assert load(path).text_encoder.get_input_embeddings().weight.max() == 1e5
    with pytest.raises(ModelUnavailable, match=r"tensor '<zork>' has a value of 1e\+05, beyond the range of float16; set GuidanceParams.precision to float32"):
        load(path, precision="float16")


def test_files_that_cannot_be_read(load, tmp_path):
    with pytest.raises(ModelUnavailable, match=r"textual_inversion_path 'gone.bin' does not exist; give the embedding's"):
        load("gone.bin")
    with pytest.raises(ModelUnavailable, match=r"folder .* holds no embedding; give"):
        load(str(tmp_path))
    (tmp_path / "w.png").write_bytes(b"x")
    with pytest.raises(ModelUnavailable, match=r"has suffix '.png'; expected .safetensors"):
        load(str(tmp_path / "w.png"))
    (tmp_path / "w.safetensors").write_bytes(b"short")
    with pytest.raises(ModelUnavailable, match=r"w.safetensors cannot be read \(.*\); fetch it again"):
        load(str(tmp_path / "w.safetensors"))
    with pytest.raises(ModelUnavailable, match=r"holds list, no vectors by name"):
        load(write(tmp_path / "w.pt", [1, 2]))


def test_a_bad_file_is_refused_before_the_model_is_looked_for(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"textual_inversion_path 'gone.bin' does not exist"):
        StableDiffusion(GuidanceParams(model_key="no/such-model", textual_inversion_path="gone.bin"), "cpu")
