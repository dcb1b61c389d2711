# SPDX-License-Identifier: Apache-2.0
"""What the page says of a run that is refused, or fails: no flags, no settings file, no spelling of YAML."""

import re

import pytest
import torch

from apps.web.fields import Request, fields
from apps.web.messages import faults, in_page_words
from apps.web.presets import HEIGHT, STEPS, WIDTH, presets
from arguments.load import ConfigError
from guidance.model_files import model_file_checks
from trainer.faults import skipped_too_many
from trainer.memory_estimate import check_memory
from trainer.run_lock import RunLock
from trainer.startup import read_settings

OTHER_WORDS = re.compile(r"--\w|Errno|\byaml\b|\.yaml|command line|problems? (in|at) the|^ |\['|\b[a-z]+_\w+: \S|\bfp16: ", re.I | re.M)
QUICK = presets()["quickstart"]


def _refused(do) -> str:
    with pytest.raises((ValueError, ConfigError)) as caught:
        do()
    return str(caught.value)


def _settings(folder, *words: str) -> str:
    folder = folder / "my runs"
    folder.mkdir()
    (folder / "config.yaml").write_text("ModelParams: {workspace: x}\n")
    return _refused(lambda: read_settings(["--opt", str(folder / "config.yaml"), *words]))


def _in_use(folder) -> str:
    lock = RunLock(folder)
    said = _refused(lambda: RunLock(folder))
    lock.release()
    return said


def _too_large(folder) -> str:
    config = Request(QUICK, "a red mug", changed={WIDTH: "512", HEIGHT: "512"}).resolve()
    return _refused(lambda: check_memory(config, torch.device("cpu"), free=1))


def _no_model(folder) -> str:
    config = Request(QUICK, "a red mug", changed={"GuidanceParams.guidance": "SD"}).resolve()
    return _refused(lambda: [check() for check in model_file_checks(config)])


SAID = {
    "unknown words": (lambda at: _settings(at, "--text", "a dragon", "--guidance", "ideal"), "Prompt = 'a dragon': expected a prompt"),
    "several": (lambda at: _settings(at, "--text", "a red mug", "--iterations", "0", "--seed", "x"), "Steps = '0': expected"),
    "not square": (lambda at: _settings(at, "--text", "a red mug", "--guidance", "ideal", "--image_h", "64"), "expected a square image"),
    "too large": (_too_large, "set Size = 256 (saves about"),
    "no weights": (_no_model, 'use the preset "Quickstart: toy world'),
    "skipped steps": (lambda at: skipped_too_many(4, {"NaN": 3}, "NaN", {}), "or set fp16 = false, and start a new run"),
    "in use": (_in_use, "wait for it, stop it"),
    "broken GPU": (lambda at: "no memory; set image_w: 64, image_h: 64 (saves 1 GB). Resume with --resume /a/b", "set Size = 64 (saves 1 GB)."),
    "a full disk": (lambda at: str(OSError(28, "No space left on device")), "No space left on device"),
    "a flag": (lambda at: "lower --init_num_pts or --iterations", "lower the advanced setting init_num_pts or Steps"),
}  # fmt: skip
"""Name -> how the program is brought to say it, and a part of what the page makes of that."""


@pytest.mark.parametrize("name", SAID)
def test_a_message_speaks_of_the_page(tmp_path, name) -> None:
    provoke, part = SAID[name]
    said = in_page_words(provoke(tmp_path))
    assert part in said and not OTHER_WORDS.search(said), said


@pytest.mark.parametrize("text", ["abc", "", "-1", "9 8 7", "[", "{a: b}", "none", "1e999", "5 4"])
def test_so_does_every_message_on_a_field(text) -> None:
    found = 0
    for label in fields():
        try:
            Request(QUICK, "a red mug", changed={label: text}).resolve()
        except ConfigError as error:
            told = [sentence for _, sentence in faults(error)]
            found += len(told)
            assert not any(OTHER_WORDS.search(sentence.replace(repr(text), "")) for sentence in told), told
    assert found > 20


def test_what_is_no_setting_stays_as_it_is() -> None:
    for sentence in ("see --help", "the device: it is busy", "images: 5 GB", "weights of x/y are gone", STEPS[:12]):
        assert in_page_words(sentence) == sentence
