# SPDX-License-Identifier: Apache-2.0
"""A law's numbers come from where the law is named: over what came before, under keys of the same place and later."""

import pytest

from arguments.load import load_config, to_yaml
from distillation import LAWS

TEXT = ["--text", "x"]
SDS = {"guidance_scale": 101.0, "weighting": "sigma_squared", "t_schedule": "uniform", "t_range": (0.02, 0.98)}
LUCID = {"guidance_scale": 7.5, "weighting": "interval", "t_schedule": "warm_up", "t_range": (0.02, 0.5)}


def numbers(*argv):
    params = load_config([*TEXT, *argv]).guidance
    return {name: getattr(params, name) for name in SDS}


@pytest.fixture
def write(tmp_path):
    def written(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


def test_without_a_law_the_numbers_are_lucid_dreamers():
    assert numbers() == numbers("--sds") == numbers("--distillation", "auto") == LUCID
    assert load_config([*TEXT, "--sds"]).guidance.law_name == "sds"
    assert load_config(TEXT).guidance.law_name == "ism"


def test_a_flag_brings_its_numbers_over_a_files(write):
    own = write("own.yaml", "GuidanceParams: {guidance_scale: 3, weighting: uniform}\n")
    assert numbers("--opt", own) == {**LUCID, "guidance_scale": 3.0, "weighting": "uniform"}
    assert numbers("--opt", own, "--distillation", "sds") == SDS
    assert numbers("--opt", own, "--guidance_scale", "5", "--distillation", "sds") == {**SDS, "guidance_scale": 5.0}
    assert numbers("--opt", own, "--distillation", "ism") == LUCID


def test_a_file_brings_them_over_its_bases_and_under_its_own_keys_and_flags(write):
    write("lower.yaml", "GuidanceParams: {guidance_scale: 3, t_range: [0.1, 0.2]}\n")
    upper = write("upper.yaml", "base: lower.yaml\nGuidanceParams: {distillation: sds, weighting: uniform}\n")
    assert numbers("--opt", upper) == {**SDS, "weighting": "uniform"}
    assert numbers("--opt", upper, "--t_range", "0.3", "0.4")["t_range"] == (0.3, 0.4)


def test_the_law_that_counts_is_the_last_one_named(write):
    """The numbers of the law that was overridden are not mixed in."""
    own = write("own.yaml", "GuidanceParams: {distillation: cds}\n")
    params = load_config([*TEXT, "--opt", own, "--distillation", "sds"]).guidance
    assert params.noise_source == "fresh" and params.grad_clamp == (0.0, 0.0) and params.guidance_end_share == 1


@pytest.mark.parametrize("law", LAWS)
def test_resolved_settings_say_all_and_mean_the_same(law, write):
    config = load_config([*TEXT, "--guidance", "ideal", "--allow_unknown_words", "--distillation", law, "--guidance_scale", "5"])
    assert load_config(["--opt", write("config.yaml", to_yaml(config))]) == config


def test_a_misspelt_law_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"distillation = 'vds': expected one of auto, asd, .*did you mean (vsd|sds|cds)\?"):
        load_config([*TEXT, "--distillation", "vds"])
