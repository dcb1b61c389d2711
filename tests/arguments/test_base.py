# SPDX-License-Identifier: Apache-2.0
"""`base: other.yaml`: what is loaded first, what overrides, and what is told of a base that cannot be."""

import os

import pytest

from arguments.load import ConfigError, load_config, to_yaml

BOTTOM = "seed: 3\nOptimizationParams: {iterations: 100, geo_iter: 7}\nGuidanceParams: {text: a mug}\n"


@pytest.fixture
def files(tmp_path):
    """Writes files by name; returns the path of the last one."""

    def _files(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return str(path)

    return _files


def only_problem(*argv):
    with pytest.raises(ConfigError) as caught:
        load_config(["--opt", *argv])
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0]


def test_base_is_loaded_first_then_the_file_then_the_command_line(files):
    path = files(bottom=BOTTOM, top="base: bottom.yaml\nOptimizationParams: {iterations: 200}\n")
    config = load_config(["--opt", path])
    assert (config.seed, config.optimization.iterations, config.optimization.geo_iter) == (3, 200, 7)
    assert load_config(["--opt", path, "--geo_iter", "9"]).optimization.geo_iter == 9


def test_bases_chain_and_are_relative_to_the_file_that_names_them(files, monkeypatch, tmp_path):
    path = files(deep__bottom=BOTTOM, deep__middle="base: bottom.yaml\nseed: 4\n", top="base: deep/middle.yaml\n")
    monkeypatch.chdir(tmp_path.parent)
    config = load_config(["--opt", path])
    assert (config.seed, config.optimization.geo_iter, config.guidance.text) == (4, 7, "a mug")


def test_a_resolved_config_has_no_base(files):
    text = to_yaml(load_config(["--opt", files(bottom=BOTTOM, top="base: bottom.yaml\nseed: 5\n")]))
    assert "base:" not in text.replace("_base", "")
    assert load_config(["--opt", files(resolved=text)]).seed == 5


def test_an_underscored_key_overrides_the_plain_one_of_the_base(files):
    path = files(
        bottom=BOTTOM + "ModelParams: {resolution: 2}\n", top="base: bottom.yaml\nModelParams: {_resolution: 4}\n"
    )
    assert load_config(["--opt", path]).model.resolution == 4


def test_a_missing_base_names_both_files(files, tmp_path):
    path = files(top="base: gone.yaml\nseed: 1\n")
    gone = tmp_path / "gone.yaml"
    told = f"{path}: base: {gone}: cannot be read (no such file or directory): expected a YAML file, such as configs/quickstart.yaml"
    assert only_problem(path) == told  # and no word of the prompt that the base would have given


@pytest.mark.parametrize(
    ("texts", "trail"),
    [
        ({"top": "base: top.yaml\n"}, "top.yaml -> top.yaml"),
        ({"a": "base: top.yaml\n", "top": "base: a.yaml\n"}, "top.yaml -> a.yaml -> top.yaml"),
        (
            {"a": "base: b.yaml\n", "b": "base: ./a.yaml\n", "top": "base: a.yaml\n"},
            "top.yaml -> a.yaml -> b.yaml -> a.yaml",
        ),
    ],
)
def test_files_based_on_each_other(files, texts, trail):
    assert only_problem(files(**texts)).endswith(f"expected a file that is not based on this one: {trail}")


@pytest.mark.parametrize("value", ["3", "[a.yaml]", "''", "{a: 1}", "true"])
def test_a_base_that_is_no_path(files, value):
    told = only_problem(files(top=f"base: {value}\nGuidanceParams: {{text: a mug}}\n"))
    assert "top.yaml: base = " in told and "expected the path of another YAML file" in told


@pytest.mark.parametrize("value", [".", "/dev/null", "pipe"])
def test_a_base_that_is_no_file_is_not_opened(files, tmp_path, value):
    """Whoever opens the pipe waits for ever."""
    os.mkfifo(tmp_path / "pipe")
    assert f"base = '{value}': expected the path of another YAML file, this is not a file" in only_problem(
        files(top=f"base: {value}\n")
    )


def test_a_problem_of_the_base_is_told_with_the_base(files):
    told = only_problem(files(bottom=BOTTOM + "sede: 3\n", top="base: bottom.yaml\n"))
    assert "bottom.yaml: sede = 3: expected a known key (did you mean seed?)" in told


def test_no_base_is_no_base(files):
    assert load_config(["--opt", files(top="base:\n" + BOTTOM)]).seed == 3


def test_base_stands_in_a_file_at_the_top_level_only(files, capsys):
    assert "expected a known" in only_problem(files(top=BOTTOM + "CoGradParams: {base: x.yaml}\n"))
    assert "--base" in only_problem(files(top=BOTTOM), "--base", "x.yaml")
