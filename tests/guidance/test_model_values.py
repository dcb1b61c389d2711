# SPDX-License-Identifier: Apache-2.0
"""Odd values in a model's JSON files: refused with the settings in one line, whatever reads them first."""

import json
import shutil
from pathlib import Path

import pytest

import train
from arguments import GuidanceParams
from arguments.load import ConfigError
from guidance.model_files import model_file_checks
from guidance.model_values import TINY_VAE, VALUES
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from tests.tiny_vae import tiny_vae
from trainer.memory_estimate import ModelSize
from trainer.startup import read_settings

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER_FILE, TINY_FILE = "tokenizer/tokenizer_config.json", "tiny/config.json"
ROWS = [(file, key, kind.takes) for file, kinds in (VALUES | {TINY_FILE: TINY_VAE}).items() for key, kind in kinds.items()] + [
    (TOKENIZER_FILE, "pad_token", lambda x: isinstance(x, str) and x == "<|endoftext|>"),
    (TOKENIZER_FILE, "model_max_length", lambda x: x is None),  # without a limit
    # Values that are compared, or refused by a library's constructor.
    ("scheduler/scheduler_config.json", "prediction_type", lambda x: False),
    ("scheduler/scheduler_config.json", "steps_offset", lambda x: x in (0, 1)),
    ("scheduler/scheduler_config.json", "beta_end", lambda x: x in (True, 0.5)),
    ("unet/config.json", "_class_name", lambda x: False),
    ("vae/config.json", "_class_name", lambda x: False),
]  # fmt: skip
ODD = (None, "77", [], 0, -1, float("nan"), True, 0.5)


@pytest.fixture
def folder(golden_dir, tmp_path):
    """A model with a tiny autoencoder beside its parts."""
    model = Path(shutil.copytree(golden_dir / "tiny-sd", tmp_path / "model"))
    tiny_vae().save_pretrained(model / "tiny")
    return model


def edit(path: Path, key: str, value: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def argv(folder: Path) -> list[str]:
    settings = {"opt": ROOT / "configs/prompt.yaml", "model_key": folder, "tiny_vae": folder / "tiny", "text": "a mug",
                "num_train_timesteps": 500, "image_w": 64, "image_h": 64, "device": "cpu"}  # fmt: skip
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def refusals(folder: Path) -> list[str]:
    """What every check with the settings says; any other exception is the fault that is looked for."""
    try:
        config = read_settings(argv(folder))
        ModelSize.of(config)
    except (ConfigError, ModelUnavailable) as error:
        return [str(error)]
    found = []
    for check in model_file_checks(config):
        try:
            check()
        except ModelUnavailable as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(("file", "key", "takes"), ROWS, ids=lambda x: x if isinstance(x, str) else "")
def test_an_odd_value_is_refused_with_the_settings(folder, file, key, takes):
    before = (folder / file).read_text()
    for value in ODD:
        if takes(value):
            continue
        edit(folder / file, key, value)
        found = refusals(folder)
        assert found and not any("\n" in sentence for sentence in found), value
        (folder / file).write_text(before)
    assert not refusals(folder)


@pytest.mark.parametrize(("file", "key", "value", "expected"), [
    ("model_index.json", "_class_name", None, "has _class_name null, expected text"),
    ("scheduler/scheduler_config.json", "num_train_timesteps", "1000", 'has num_train_timesteps "1000", expected a whole number, at least 1 and at most 1,000,000'),
    ("vae/config.json", "scaling_factor", 0, "has scaling_factor 0, expected a number above 0 and at most 1,000"),
    (TINY_FILE, "scaling_factor", None, "has scaling_factor null, expected a number above 0"),
    (TOKENIZER_FILE, "pad_token", None, "tokenizer has pad_token_id null, expected a whole number, at least 0"),
    (TOKENIZER_FILE, "model_max_length", "77", 'tokenizer has model_max_length "77", expected a whole number, at least 3'),
])  # fmt: skip
def test_the_sentence_names_file_key_and_value(folder, file, key, value, expected, capsys, tmp_path, monkeypatch):
    edit(folder / file, key, value)
    monkeypatch.chdir(tmp_path)
    assert train.main([*argv(folder), "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert expected in told and "fetch it again" in told and "Traceback" not in told
    with pytest.raises(ModelUnavailable, match="expected"):
        StableDiffusion(GuidanceParams(model_key=str(folder), tiny_vae=str(folder / "tiny")), "cpu")
