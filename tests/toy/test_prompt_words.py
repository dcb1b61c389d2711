# SPDX-License-Identifier: Apache-2.0
"""Prompts that a run's prior does not know: refused with the settings, by every program that reads a prompt."""

import json
from pathlib import Path

import pytest
import yaml

import train
from arguments.load import ConfigError, load_config
from tools import score_toy
from toy.captions import COLOURS
from toy.ideal import IdealPrior
from toy.objects import CLASSES
from toy.prompt_words import in_known_words, prompt_notices, prompt_problems, unknown_words

TOY = ("configs/quickstart.yaml", "configs/quickstart_trained.yaml")
UNKNOWN = {
    "a dragon": "donut",
    "a red mushrom": "mushroom",
    "three red mugs": "several objects",
    "ein rotes Haus": "house",
    "a giraffe": "nearest known word",
    "робот": "робот",
    "a mug and a house": "2 objects",
}


@pytest.mark.parametrize("opt", TOY)
@pytest.mark.parametrize(("text", "told"), UNKNOWN.items())
def test_an_unknown_prompt_is_refused_with_the_settings(opt, text, told, tmp_path, monkeypatch, capsys):
    opt = str(Path(opt).resolve())
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--dry-run"], ["--image_w", "0"]):
        assert train.main(["--opt", opt, "--text", text, *more]) == 2
        error = capsys.readouterr().err
        assert told in error and all(word in error for word in (*CLASSES, *COLOURS, "--allow_unknown_words"))
        assert ("image_w" in error) == bool(more and more[0] == "--image_w")  # all problems at once
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opt", TOY)
@pytest.mark.parametrize("text", ["a red mug", "red mugs", "The yellow house, side view", "a ball"])
def test_known_prompts_pass_without_a_word(opt, text, caplog):
    config = load_config(["--opt", opt, "--text", text], prompt_problems)
    assert prompt_notices(config) == []


def test_a_prompt_is_taken_all_the_same_when_asked_for(caplog, capsys, tmp_path):
    dry = ["--opt", TOY[0], "--model_path", str(tmp_path / "run"), "--dry-run"]
    assert train.main([*dry, "--text", "a dragon", "--allow_unknown_words"]) == 0
    assert [record.getMessage() for record in caplog.records if "mixture" in record.getMessage()] == [
        "the prompt 'a dragon' names no object of the toy world; unknown words: 'dragon' (nearest known word: donut): "
        "the prior shows a mixture of all objects"
    ]


def test_an_ignored_word_is_one_line(caplog, recwarn, capsys, tmp_path):
    dry = ["--opt", TOY[0], "--model_path", str(tmp_path / "run"), "--dry-run"]
    assert train.main([*dry, "--text", "a house with a red door"]) == 0
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "the toy world ignores 'door' in the prompt 'a house with a red door'; the part of a house is its roof"
    ]
    assert not list(recwarn)
    trained = load_config(["--opt", TOY[1], "--text", "a house with a red door", "--negative", "ugly"])
    assert [notice.rpartition(": ")[2] for notice in prompt_notices(trained)] == ["'door', 'ugly'"]


@pytest.mark.parametrize("words", [["--opt", "configs/prompt.yaml"], ["--textual_inversion_path", "x.safetensors"]])
def test_stable_diffusion_and_learned_words_take_any_text(words):
    config = load_config([*words, "--text", "a dragon"], prompt_problems)
    assert prompt_notices(config) == []


def test_texts_for_a_small_vocabulary():
    known = {"a", "red", "mug", "ball", "front", "view"}
    texts = ["A RED mug, front view", "red mugs", "the <cat-toy> mug", "ball"]
    assert in_known_words(texts, known, ["<cat-toy>"]) == ["a red mug, front view", "red mug", " <cat-toy> mug", "ball"]
    assert unknown_words(["the <cat-toy> zebra"], known, ["<cat-toy>"]) == ["the", "zebra"]
    with pytest.raises(ValueError, match="'zebra'"):
        in_known_words(["a zebra"], known)


def test_with_the_toy_worlds_vocabulary_unknown_words_are_left_out():
    known = {*CLASSES, "a", "red"}
    assert in_known_words(["a red shiny mug"], known) == ["a red  mug"]


def test_score_toy_refuses_a_run_of_an_unknown_prompt(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"GuidanceParams": {"text": "a giraffe", "guidance": "ideal"}}))
    assert score_toy.main([str(run)]) == 2
    assert "names no object" in capsys.readouterr().err


def test_a_mixture_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(IdealPrior.__init__.__kwdefaults__, "images", 120)
    small = {"iterations": 1, "image_w": 16, "image_h": 16, "view_px": 16, "init_num_pts": 40, "save_video": "false"}
    words = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    assert (
        train.main(
            [
                "--opt",
                TOY[0],
                *words,
                "--text",
                "a dragon",
                "--allow_unknown_words",
                "--model_path",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text())["fault"] is None


def test_problems_name_the_key_and_its_source():
    with pytest.raises(ConfigError, match=r"command line: GuidanceParams.text = 'a dragon': expected a prompt that"):
        load_config(["--opt", TOY[0], "--text", "a dragon"], prompt_problems)
