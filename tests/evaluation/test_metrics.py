# SPDX-License-Identifier: Apache-2.0
"""The learned metrics on tiny models equal recorded values, and each trap of today's libraries would show."""

import json
import shutil
import sys

import numpy as np
import pytest
import references
import tiny_models as tiny
import torch

from evaluation import METRICS, PAPER_METRICS, MetricUnavailable, load_metric, over_views, vqascore

RECORDED = json.loads(references.RECORDED.read_text())
SQUARE = tiny.images(4, 40, 40)
# float32 against the reference's float64, over 25 sets of images and the vector widths default and AVX2: CLIP 5.4e-7,
# VQAScore 1.3e-6; margin 4.
RTOL = 5e-6


@pytest.fixture(scope="module")
def t5(weights):
    return load_metric("vqascore", "cpu", weights)


@pytest.fixture
def reward(weights):
    return load_metric("image_reward", "cpu", weights)


@pytest.mark.parametrize(
    ("metric", "name", "rtol", "atol"),
    [
        ("clip_b32", "clip", RTOL, 0),
        ("vqascore", "vqascore", RTOL, 0),
        ("image_reward", "image_reward", 0, 1e-6),
        ("pick_score", "pick_score", RTOL, 0),
        ("hps_v2", "hps_v2", 0, 1e-4),
    ],
)
def test_a_metric_is_what_the_plain_reference_recorded(weights, metric, name, rtol, atol) -> None:
    """ImageReward has no scale to be relative to: it crosses zero. Measured with RTOL: 1.9e-7; margin 5."""
    scores = load_metric(metric, "cpu", weights)(SQUARE, tiny.PROMPT)
    assert scores.shape == (4,) and scores.dtype == np.float64
    np.testing.assert_allclose(scores, RECORDED[name], rtol, atol)


def test_the_reference_still_gives_what_was_recorded() -> None:
    for name, values in references.record().items():
        np.testing.assert_allclose(values, RECORDED[name], rtol=1e-9)


def test_a_score_depends_on_its_own_image_alone(weights, monkeypatch) -> None:
    from evaluation import preprocess

    clip = load_metric("clip_b32", "cpu", weights)
    monkeypatch.setattr(preprocess, "BATCH", 3)
    np.testing.assert_allclose(clip(SQUARE[::-1], tiny.PROMPT)[::-1], RECORDED["clip"], RTOL)


def test_hps_has_two_versions_in_two_files(weights) -> None:
    """The tiny one's version 2.1 looks at images the other way round."""
    first, second = (load_metric(name, "cpu", weights)(SQUARE, tiny.PROMPT) for name in ("hps_v2", "hps_v21"))
    np.testing.assert_allclose(second, -first, atol=1e-5)


def test_clips_beside_all_prompts_at_once_are_those_of_each(weights) -> None:
    clip, prompts = load_metric("clip_b32", "cpu", weights), ["a dog", tiny.PROMPT, "dog " * 90]
    found = clip.similarities(SQUARE, prompts)
    np.testing.assert_allclose(found, np.stack([clip(SQUARE, prompt) for prompt in prompts], axis=1), RTOL)


def test_no_torchvision(weights, t5) -> None:
    assert "torchvision" not in sys.modules


# --- VQAScore ---------------------------------------------------------------------------------------------------------


def test_t5s_output_layer_is_its_own(t5) -> None:
    """transformers 5 ties it to the table of words."""
    table = t5.t5.get_input_embeddings().weight
    assert not torch.equal(t5.t5.lm_head.weight, table)
    torch.testing.assert_close(t5.t5.lm_head.weight, tiny.flan_t5()["lm_head.weight"][: tiny.T5_WORDS])
    assert torch.equal(t5.t5.encoder.embed_tokens.weight, table) and torch.equal(
        t5.t5.decoder.embed_tokens.weight, table
    )
    assert not t5.t5.config.scale_decoder_outputs  # as T5 1.1


def test_rows_beyond_the_tokenizers_words_are_no_answers(t5) -> None:
    assert len(t5.t5.lm_head.weight) == tiny.T5_WORDS < tiny.T5_ROWS == len(tiny.flan_t5()["lm_head.weight"])


def test_the_tower_may_lie_in_the_checkpoint_or_in_its_own_repository(weights, t5, tmp_path) -> None:
    tiny.write_vqascore(tmp_path, tower_inside=False)
    apart = load_metric("vqascore", "cpu", tmp_path)
    np.testing.assert_array_equal(apart(SQUARE, tiny.PROMPT), t5(SQUARE, tiny.PROMPT))


def test_the_question_is_the_published_one(t5) -> None:
    asked = []
    t5_call = t5.tokenizer
    t5.tokenizer = lambda text: asked.append(text) or t5_call(text)
    t5.tokenizer.pad_token_id = 0
    try:
        t5(SQUARE[:1], "a {dog}")
    finally:
        t5.tokenizer = t5_call
    assert asked == [
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. USER: ",
        '\nDoes this figure show "a {dog}"? Please answer yes or no. ASSISTANT: ',
        "Yes",
    ]
    assert [t5_call(text).input_ids[-1] for text in asked] == [1, 1, 1]  # each piece ends with end-of-sequence


def test_a_picture_is_padded_with_clips_mean_colour_not_cut(t5) -> None:
    wide = tiny.images(1, 20, 40)
    square = np.full((1, 40, 40, 3), [122, 116, 104], np.uint8)
    square[:, 10:30] = wide
    np.testing.assert_array_equal(t5(wide, tiny.PROMPT), t5(square, tiny.PROMPT))


def test_never_float16(weights) -> None:
    assert {p.dtype for p in load_metric("vqascore", "cpu", weights).parameters()} == {torch.float32}
    assert vqascore.precision(torch.device("cuda")) == torch.bfloat16


# --- ImageReward ------------------------------------------------------------------------------------------------------


def test_words_see_the_words_after_them(reward) -> None:
    """BLIP's text encoder is built as a decoder for its cross-attention, and is not called as one."""
    causal = reward.text.forward
    reward.text.forward = lambda **words: causal(**{**words, "is_decoder": True})
    assert np.abs(reward(SQUARE, tiny.PROMPT) - RECORDED["image_reward"]).max() > 1e-3


def test_the_rewards_head_has_no_activations(reward) -> None:
    assert len(reward.head) == 5 and all(isinstance(layer, torch.nn.Linear) for layer in reward.head)


def test_a_long_prompt_is_cut_at_35_tokens(reward) -> None:
    long = " ".join(["dog"] * 60)
    np.testing.assert_array_equal(reward(SQUARE, long), reward(SQUARE, long + " photo"))
    assert np.abs(reward(SQUARE, "dog " * 32) - reward(SQUARE, "dog " * 33)).max() > 0


def test_layer_norms_have_the_published_eps(reward) -> None:
    eps = {
        type(m).__name__ + str(m.eps)
        for half in (reward.vision, reward.text)
        for m in half.modules()
        if isinstance(m, torch.nn.LayerNorm)
    }
    assert eps == {"LayerNorm1e-06", "LayerNorm1e-12"}


# --- weights that cannot be had ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_weights_that_are_not_there_are_told(tmp_path, metric) -> None:
    with pytest.raises(
        MetricUnavailable, match=r"does not exist; expected the files of the hub repository [\w/.-]+ there"
    ):
        load_metric(metric, "cpu", tmp_path)


def test_a_hub_that_cannot_be_reached_is_told(tmp_path, monkeypatch) -> None:
    import huggingface_hub

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        MetricUnavailable,
        match=r"openai/clip-vit-base-patch32 is not in the local cache .*no route to host.*connect to the network once",
    ):
        load_metric("clip_b32")


def test_a_checkpoint_that_lacks_a_weight_is_told(weights, tmp_path) -> None:
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    (tmp_path / "clip-flant5-xl" / "pytorch_model-00001-of-00002.bin").unlink()
    with pytest.raises(MetricUnavailable, match=r"lacks \d+ weights of the metric, e\.g\. .*; fetch it again"):
        load_metric("vqascore", "cpu", tmp_path)
    for path in (tmp_path / "clip-flant5-xl").glob("*.bin"):
        path.unlink()
    with pytest.raises(MetricUnavailable, match=r"holds no weights; expected \.safetensors, \.bin or \.pt files"):
        load_metric("vqascore", "cpu", tmp_path)


def test_a_checkpoint_of_something_else_is_told(weights, tmp_path) -> None:
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    torch.save({"a": torch.zeros(1)}, tmp_path / "ImageReward" / "ImageReward.pt")
    with pytest.raises(MetricUnavailable, match=r"lack blip\.\* or mlp\.\*; expected its ImageReward\.pt"):
        load_metric("image_reward", "cpu", tmp_path)
    for path in (tmp_path / "clip-flant5-xl").glob("*.bin"):
        torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(
        MetricUnavailable, match=r"lacks shared\.weight; expected the weights of zhiqiulin/clip-flant5-xl"
    ):
        load_metric("vqascore", "cpu", tmp_path)
    (tmp_path / "clip-vit-base-patch32" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(MetricUnavailable, match=r"cannot be loaded .*damaged or incomplete, fetch them again"):
        load_metric("clip_b32", "cpu", tmp_path)


def test_a_file_of_hps_that_is_not_there_or_something_else_is_told(weights, tmp_path) -> None:
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "HPSv2" / "HPS_v2_compressed.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(MetricUnavailable, match=r"lack 'vision_model\.embeddings.*'; expected an open_clip checkpoint"):
        load_metric("hps_v2", "cpu", tmp_path)
    path.unlink()
    with pytest.raises(MetricUnavailable, match=r"HPS_v2_compressed\.pt does not exist; expected the file .* of the hub"):
        load_metric("hps_v2", "cpu", tmp_path)


class _Harmful:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_checkpoint_executes_nothing(weights, tmp_path, capsys) -> None:
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    torch.save({"blip": _Harmful()}, tmp_path / "ImageReward" / "ImageReward.pt")
    with pytest.raises(MetricUnavailable, match=r"ImageReward\.pt cannot be read"):
        load_metric("image_reward", "cpu", tmp_path)
    assert "executed" not in capsys.readouterr().out


# --- the paper's two numbers ------------------------------------------------------------------------------------------


def test_mean_and_deviation_over_views() -> None:
    scenes = [over_views(np.array([1.0, 3.0])), over_views(np.array([10.0, 10.0, 10.0]))]
    assert scenes[0] == {"mean": 2.0, "std": pytest.approx(2**0.5)} and scenes[1] == {"mean": 10.0, "std": 0.0}
    assert over_views(np.array([4.0])) == {"mean": 4.0, "std": 0.0}


def test_the_papers_views() -> None:
    assert {name: kind.views for name, kind in METRICS.items()} == {
        "clip_b32": 120,
        "clip_l14": 120,
        "vqascore": 6,
        "image_reward": 6,
        "pick_score": 6,
        "hps_v2": 6,
        "hps_v21": 6,
    }
    assert PAPER_METRICS == ["clip_b32", "clip_l14", "vqascore", "image_reward"]
