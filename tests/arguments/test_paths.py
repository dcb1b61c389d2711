# SPDX-License-Identifier: Apache-2.0
"""A path in the settings names the same file from every folder: in config.yaml, in a sweep's flags, in a checkpoint."""

import re
from pathlib import Path

import pytest

from arguments import GROUPS, Config
from arguments.declare import keys_of
from arguments.load import load_config, to_yaml
from arguments.paths import settled, settled_words
from evaluation.experiments.grid import config_of, table_run, toy_flags
from tests.checkout import ROOT
from trainer.resume_rules import flat_settings

KEYS = {f"{group}.{name}": spec for group, (_, kind) in GROUPS.items() for name, (_, spec, _) in keys_of(kind).items()}
KEYS |= {name: spec for name, (_, spec, _) in keys_of(Config).items()}
PATHS = {label: spec.path for label, spec in KEYS.items() if spec.path}
WRITTEN = {"ModelParams.model_path", "ModelParams.workspace", "resume", "overwrite", "ModelParams.batch"}
LAW = "from distillation import Law, linear\nLAW = Law(linear(lambda step: {'guided': 1, 'noise': -1}))\n"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder; it has a file and a folder."""
    (tmp_path / "here" / "my" / "prior").mkdir(parents=True)
    (tmp_path / "here" / "law.py").write_text(LAW)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def given(label: str) -> str:
    return "law.py:LAW" if PATHS[label] == "law" else "my/prior"


def test_every_setting_that_names_a_file_is_declared_as_a_path() -> None:
    named = {label for label, spec in KEYS.items() if re.search(r"\b(file|folder|checkpoint|FILE)\b", f"{spec.help} {spec.others}") and not spec.unread}
    named = {label for label in named if isinstance(_default(label), str | None)}
    assert named - WRITTEN == set(PATHS)


def _default(label: str) -> object:
    group, _, name = label.rpartition(".")
    return keys_of(GROUPS[group][1] if group else Config)[name][2]


@pytest.mark.parametrize("label", PATHS)
def test_what_is_here_is_absolute_and_all_else_stays(here, label, monkeypatch) -> None:
    word = given(label)
    assert settled(label, word) == str(here / word) == settled(label, str(here / word))
    others = ["stabilityai/no-such", "", "no\0path", "x" * 5000, "none.py:LAW", None, 3]
    assert [settled(label, value) for value in others] == others
    assert settled("GuidanceParams.text", word) == settled("No.key", word) == word
    monkeypatch.setenv("HOME", str(here))
    assert settled(label, f"~/{word}") == str(here / word)


def test_a_model_of_the_programs_folder_keeps_its_name(here, monkeypatch) -> None:
    """From the program's folder too: it may be moved. One that is here comes first."""
    key = "assets/toy-prior"
    assert settled("GuidanceParams.model_key", key) == key
    monkeypatch.chdir(ROOT)
    assert settled("GuidanceParams.model_key", key) == key
    assert settled("GuidanceParams.LoRA_path", key) == str(ROOT / key)
    (here / key).mkdir(parents=True)
    monkeypatch.chdir(here)
    assert settled("GuidanceParams.model_key", key) == str(here / key)


def test_the_settings_of_a_run_mean_the_same_from_another_folder(here, monkeypatch) -> None:
    words = ["--text", "x", *(word for label in PATHS if label != "opt" for word in (f"--{label}", given(label)))]
    words += ["--init_shape", "file", "--use_control_net_iter", "5"]
    config = load_config(words)
    (here / "config.yaml").write_text(to_yaml(config))
    monkeypatch.chdir(here.parent)
    law = ["--distillation", "here/law.py:LAW"]
    again = load_config(["--opt", str(here / "config.yaml"), *law])
    assert again == config and again.guidance.law is config.guidance.law
    paths = [flat_settings(again)[label] for label in PATHS if not KEYS[label].transient]
    assert [path for path in paths if not path.startswith(str(here))] == []


def test_words_of_a_command_line_are_settled_however_they_are_written(here) -> None:
    words = ["--opt", "law.py", "--model_key", "my/prior", "--LoRA_path=law.py", "--set", "GuidanceParams.tiny_vae=my/prior", "--text", "my/prior", "--quiet"]
    at = str(here)
    assert settled_words(words) == [
        "--opt", f"{at}/law.py", "--model_key", f"{at}/my/prior", f"--LoRA_path={at}/law.py",
        "--set", f"GuidanceParams.tiny_vae={at}/my/prior", "--text", "my/prior", "--quiet",
    ]  # fmt: skip
    assert settled_words(toy_flags("ideal", "full", "law.py", 0)) == toy_flags("ideal", "full", "law.py", 0)


@pytest.mark.parametrize("prior", ["toy", "sd"])
def test_a_sweeps_run_is_what_was_checked_wherever_it_is_made(here, monkeypatch, prior) -> None:
    """`python CLONE/tools/reproduce.py ... -- --distillation law.py:LAW`, called from any folder."""
    extra = ["--distillation", "law.py:LAW", *(["--model_key", "my/prior"] if prior == "sd" else [])]
    run = table_run(prior, "full", "a red mug", 0, extra)
    checked = config_of(run)
    for folder in (ROOT, here.parent):
        monkeypatch.chdir(folder)
        assert load_config([*run.flags]) == checked
    assert checked.guidance.law_name == f"{here}/law.py:LAW"
