# SPDX-License-Identifier: Apache-2.0
"""Image sizes that a prior cannot take: met with the settings, for every prior by its own rule."""

import json
from pathlib import Path

import pytest

import train
from arguments.load import ConfigError
from guidance.image_size import size_notices, size_rule
from trainer.startup import read_settings

ROOT = Path(__file__).resolve().parents[2]
IDEAL, TRAINED = (str(ROOT / "configs" / name) for name in ("quickstart.yaml", "quickstart_trained.yaml"))
SD = str(ROOT / "tests" / "data" / "golden" / "tiny-sd")


@pytest.mark.parametrize(
    ("opt", "words", "expected"),
    [
        (IDEAL, "--image_w 96", "96 x 128: expected a square image"),
        (IDEAL, "--image_h 64", "128 x 64: expected a square image"),
        (IDEAL, "--image_w 96 --image_h 24", "96 x 24: expected a square image"),
        (IDEAL, "--image_w 37 --image_h 61", "37 x 61: expected a square image"),
        (IDEAL, "--SSAA 2 --image_w 32 --image_h 48", r"32 x 48 \(times SSAA 2\): expected a square image"),
        (TRAINED, "--image_w 37 --image_h 61", "37 x 61: expected multiples of 4 px"),
        (TRAINED, "--image_w 66", "66 x 64: expected multiples of 4 px"),
        (TRAINED, "--image_w 9 --SSAA 3", r"9 x 64 \(times SSAA 3\): expected multiples of 4 px"),
        (TRAINED, f"--model_key {SD} --controlnet_model_key x --use_control_net_iter 1 --image_w 12", "multiples of 8 px"),
    ],
)
def test_a_size_that_the_prior_cannot_take_is_refused_with_the_settings(
    opt, words, expected, tmp_path, monkeypatch, capsys
):
    with pytest.raises(ConfigError, match=expected):
        read_settings(["--opt", opt, *words.split()])
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--dry-run"]):
        assert train.main(["--opt", opt, *words.split(), *more]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told and told.count("GenerateCamParams.image_w") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["--SSAA 2 --image_w 16 --image_h 16", "--image_w 37 --image_h 37"])
def test_sizes_that_the_ideal_prior_takes_are_trained(words, tmp_path):
    small = "--iterations 1 --init_num_pts 30 --view_px 16 --save_video false --save_process false"
    argv = ["--opt", IDEAL, *words.split(), *small.split(), "--model_path", str(tmp_path / "run")]
    assert train.main(argv) == 0
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text())["fault"] is None


def test_each_prior_has_its_rule():
    assert size_rule(read_settings(["--opt", TRAINED]).guidance).multiple == 4
    assert size_rule(read_settings(["--opt", IDEAL]).guidance).square
    hub = size_rule(read_settings(["--text", "a cat", "--model_key", "someone/something"]).guidance)
    assert (hub.least, hub.multiple, hub.square) == (8, 1, False)


def test_pixels_that_make_no_latent_are_reported():
    words = ["--text", "a cat", "--model_key", SD, "--image_w", "37", "--image_h", "48"]
    assert size_notices(read_settings(words)) == [
        "image_w, image_h: the prior does not see the last 5 columns and 0 rows of pixels; "
        "with multiples of 8 px it sees all"
    ]
    assert not size_notices(read_settings(["--opt", IDEAL]))
