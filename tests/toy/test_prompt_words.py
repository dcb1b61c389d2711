# SPDX-License-Identifier: Apache-2.0
"""Prompts that a run's prior does not know: refused with the settings, by every program that reads a prompt."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import train
from arguments.load import ConfigError, load_config
from arguments.no_effect import no_effect_notices
from guidance.image_size import size_rule
from guidance.model_files import model_file_checks
from guidance.sources import ModelUnavailable
from tools import score_toy
from toy.captions import COLOURS
from toy.ideal import IdealPrior
from toy.objects import CLASSES
from toy.prompt_words import in_known_words, prompt_notices, prompt_problems, unknown_words
from toy.reading import UnknownPrompt
from trainer.priors import load_prior_and_prompts
from trainer.startup import read_settings

TOY = ("configs/quickstart.yaml", "configs/quickstart_trained.yaml")
PRIOR, OPT = Path("assets/toy-prior").resolve(), str(Path(TOY[1]).resolve())
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


def test_stable_diffusion_takes_any_text():
    config = load_config(["--opt", "configs/prompt.yaml", "--text", "a dragon"], prompt_problems)
    assert prompt_notices(config) == []


def learned(folder: Path, *words: str) -> list[str]:
    """Settings of the trained prior with a textual inversion of these words."""
    file = folder / "learned.safetensors"
    save_file({word: torch.full((1, 96), 0.1) for word in words}, file)
    return ["--opt", TOY[1], "--textual_inversion_path", str(file)]


def test_a_learned_word_may_be_the_object_and_no_other_unknown_word(tmp_path):
    words = learned(tmp_path, "<dragon>")
    config = load_config([*words, "--text", "a <dragon> in red"], prompt_problems)
    assert prompt_notices(config) == []
    load_prior_and_prompts(config, torch.device("cpu"))
    with pytest.raises(ConfigError, match="names no object of the toy world; unknown words: 'spaceship'"):
        load_config([*words, "--text", "a red spaceship"], prompt_problems)
    door = load_config([*words, "--text", "a house with a red door"], prompt_problems)
    assert [notice.rpartition(": ")[2] for notice in prompt_notices(door)] == ["'door'"]


def test_an_unreadable_file_of_learned_words_is_left_to_its_own_check():
    config = load_config(["--opt", TOY[1], "--textual_inversion_path", "x.bin", "--text", "a dragon"], prompt_problems)
    assert prompt_notices(config) == []
    assert sum("x.bin" in str(error) for error in errors_of(config)) == 1


def errors_of(config) -> list[Exception]:
    """What the checks of the model's files raise."""
    found = []
    for check in model_file_checks(config):
        try:
            check()
        except ModelUnavailable as error:
            found.append(error)
    return found


@pytest.mark.parametrize("text", ["a dragon", "three red mugs"])
def test_a_prompt_that_no_check_has_seen_is_refused_by_the_loaded_prior(text, tmp_path):
    """As of a hub id, whose words are known only then."""
    more = learned(tmp_path, "<dragon>") if text == "a dragon" else ["--opt", TOY[1]]
    with pytest.raises(UnknownPrompt, match="--allow_unknown_words"):
        load_prior_and_prompts(load_config([*more, "--text", text]), torch.device("cpu"))


PLACES = {"relative": "prior", "home": "~/prior", "repository": "assets/toy-prior", "absolute": str(PRIOR)}


@pytest.mark.parametrize("key", PLACES.values(), ids=PLACES)
def test_every_check_looks_where_the_loader_looks(key, tmp_path, monkeypatch):
    (tmp_path / "prior").symlink_to(PRIOR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["--opt", OPT, "--model_key", key]
    read_settings([*given, "--text", "a red mug"])
    for words, problem in {
        "--text a_dragon": "names no object",
        "--image_w 66 --image_h 66": "multiples of 4 px",
        "--num_train_timesteps 2000": "at most 1000, which this model has",
    }.items():
        with pytest.raises(ConfigError, match=problem):
            read_settings([*given, *(word.replace("_dragon", " dragon") for word in words.split())])
    config = load_config([*given, "--model_revision", "main"])
    assert any("model_revision (GuidanceParams.model_key is a folder or file)" in x for x in no_effect_notices(config))
    assert errors_of(config) == []


FOLDER_KEYS = ("model_key", "LoRA_path", "textual_inversion_path", "controlnet_model_key", "tiny_vae")


@pytest.mark.parametrize("key", FOLDER_KEYS)
def test_the_home_of_nobody_is_a_folder_that_is_not_there(key):
    more = ["--use_control_net_iter", "1"] if key == "controlnet_model_key" else []
    config = load_config(["--opt", OPT, "--text", "a red mug", f"--{key}", "~nobody-of-this-name/model", *more])
    assert size_rule(config.guidance).least in (4, 8)
    assert any("~nobody-of-this-name/model" in str(error) for error in errors_of(config))


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
    assert in_known_words(["a red shiny mug", "ugly"], known, prompt="a red shiny mug") == ["a red  mug", ""]
    with pytest.raises(UnknownPrompt, match="'spaceship'"):
        in_known_words(["", "ugly"], known, ["<cat-toy>"], prompt="a red spaceship")


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
