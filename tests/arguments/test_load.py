# SPDX-License-Identifier: Apache-2.0
"""load_config: precedence, spellings, types, names of configs."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from arguments import GROUPS, Config, command_line
from arguments.load import ConfigError, load_config, to_yaml
from arguments.yaml_file import read_yaml
from tests.arguments.refusals import TEXT, only_problem

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests/data/golden/arguments.json").read_text())


# --- upstream's files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(GOLDEN["configs"]))
def test_upstream_files_give_upstreams_effective_values(name):
    config = load_config(["--opt", str(ROOT / "configs" / name)])
    golden = GOLDEN["configs"][name]
    assert {key: getattr(config, key) for key in golden["top"]} == golden["top"]
    for group, keys in golden["effective"].items():
        params = getattr(config, GROUPS[group][0])
        for key, value in keys.items():
            ours = getattr(params, key.lstrip("_"))
            if key in ("data_device", "g_device", "device"):
                assert (ours, value) == ("auto", "cuda")  # the listed exception
            else:
                assert (list(ours) if isinstance(ours, tuple) else ours) == value, (group, key)


# --- precedence and spellings -----------------------------------------------------------------------------------------


def test_defaults_then_yaml_then_command_line(write):
    path = write("seed: 3\nOptimizationParams:\n  iterations: 100\n  geo_iter: 7\nGuidanceParams: {text: a mug}\n")
    assert load_config(["--opt", path]).optimization.iterations == 100
    config = load_config(["--opt", path, "--iterations", "600", "--seed=5", "--text", "a red mug"])
    params = config.optimization
    assert (params.iterations, params.geo_iter, params.warmup_iter) == (600, 7, 1500)
    assert (config.seed, config.guidance.text) == (5, "a red mug")
    assert config.opt == path


@pytest.mark.parametrize(
    "words",
    [
        ["--iterations", "600"],
        ["--iterations=600"],
        ["--OptimizationParams.iterations", "600"],
        ["--set", "OptimizationParams.iterations=600"],
        ["--set", "iterations=600"],
        ["--set", "ModelParams.batch=2", "OptimizationParams.iterations=600"],
        ["--set", "ModelParams.batch=2", "--set", "OptimizationParams.iterations=600"],
    ],
)
def test_every_spelling_of_a_key_on_the_command_line(words):
    assert load_config([*TEXT, *words]).optimization.iterations == 600


def test_ranges_on_the_command_line_and_negative_numbers():
    config = load_config([*TEXT, "--phi_range", "-80", "80", "--theta_range", "[60, 90]", "--negative_w", "-1.5"])
    assert config.cameras.phi_range == (-80.0, 80.0) and config.cameras.theta_range == (60.0, 90.0)
    assert config.guidance.negative_w == -1.5
    assert load_config([*TEXT, "--set", "GenerateCamParams.fovy_range=0.2,0.4"]).cameras.fovy_range == (0.2, 0.4)
    assert load_config([*TEXT, "--checkpoint_iterations", "5", "10"]).checkpoint_iterations == (5, 10)


@pytest.mark.parametrize("word, value", [("false", False), ("0", False), ("No", False), ("True", True), ("yes", True)])
def test_booleans_mean_what_they_say(word, value, write):
    assert load_config([*TEXT, "--save_video", word]).save_video is value
    path = write(f"GuidanceParams:\n  perpneg: {word}\n")
    assert load_config([*TEXT, "--opt", path]).guidance.perpneg is value


def test_a_bare_boolean_flag_is_true_and_dry_run_has_two_spellings():
    config = load_config([*TEXT, "--quiet", "--detect_anomaly", "--dry-run", "--eval"])
    assert config.quiet and config.detect_anomaly and config.dry_run and config.model.eval
    assert load_config([*TEXT, "--dry_run"]).dry_run and not load_config(TEXT).dry_run


@pytest.mark.parametrize("key", ["_white_background", "white_background"])
def test_both_spellings_of_underscore_keys(key, write):
    path = write(f"ModelParams:\n  {key}: false\n")
    assert load_config(["--opt", path, *TEXT]).model.white_background is False


def test_numbers_that_yaml_reads_as_text_and_whole_numbers_for_reals(write):
    path = write("OptimizationParams:\n  feature_lr: 1e-4\n  lambda_tv: 2\n  use_control_net_iter: 1.0e+7\n")
    params = load_config(["--opt", path, *TEXT]).optimization
    assert params.feature_lr == 1e-4
    assert params.lambda_tv == 2.0 and isinstance(params.lambda_tv, float)
    assert params.use_control_net_iter == 10_000_000 and isinstance(params.use_control_net_iter, int)


def test_none_for_optional_keys(write):
    path = write("GuidanceParams: {model_key: folder, num_train_timesteps: 500}\n")
    config = load_config(["--opt", path, *TEXT, "--model_key", "none"])
    assert config.guidance.model_key is None and config.guidance.num_train_timesteps == 500


@pytest.mark.parametrize("text", ["010", "1_0", "+7", "-0", "1:30", "0x10", "0b11", "0o10", "1e1", "1_0.5", "1:30.5", ".5", "-.5", ".inf"])
@pytest.mark.parametrize("key", ["OptimizationParams.iterations", "OptimizationParams.lambda_tv", "GenerateCamParams.jitter_up"])
def test_a_number_in_a_file_is_what_it_is_on_the_command_line(write, text, key):
    """Also where YAML 1.1 reads an octal number or one on base 60: 010 as 8, 1:30 as 90."""
    group, name = key.split(".")

    def read(*words):
        try:
            config = load_config([*TEXT, *words])
        except ConfigError as error:
            assert len(error.problems) == 1 and f"{key} = " in error.problems[0]
            return None
        return getattr(getattr(config, GROUPS[group][0]), name)

    in_file = read("--opt", write(f"{group}:\n  {name}: {text}\n"))
    assert in_file == read(f"--{key}={text}") and in_file not in (8, 90, 16, 3)


def test_a_workspace_given_later_than_a_model_path_names_the_folder(write):
    """As the documented --opt CONFIG --workspace again has it, for the config.yaml of whatever run."""
    path = write("ModelParams: {model_path: output/mug, workspace: mug}\n")
    assert load_config([*TEXT, "--opt", path]).output_dir == Path("output/mug")
    for words in (["--workspace", "again"], ["--ModelParams.workspace", "again"], ["--set", "workspace=again"]):
        assert load_config([*TEXT, "--opt", path, *words]).output_dir == Path("output/again")
    assert load_config([*TEXT, "--opt", path, "--workspace", "again", "--model_path", "x"]).output_dir == Path("x")


def test_asking_for_an_address_opens_the_viewer_but_yaml_ports_do_not(write):
    path = write("port: 2355\n")
    assert not load_config(["--opt", path, *TEXT]).gui
    assert load_config(["--opt", path, *TEXT, "--port", "0"]).gui
    assert not load_config([*TEXT, "--ip", "127.0.0.1", "--gui", "false"]).gui
    for flags in (["--viewer_port", "0"], ["--viewer-host", "127.0.0.1"], ["--viewer"]):
        assert load_config([*TEXT, *flags]).viewer and not load_config([*TEXT, *flags]).gui


def test_one_named_device_is_the_device_of_everything(write):
    assert load_config([*TEXT, "--g_device", "cuda:1"]).device == "cuda:1"
    assert load_config([*TEXT, "--device", "cpu"]).device == "cpu"
    assert load_config(TEXT).device == "auto"
    found = only_problem([*TEXT, "--device", "cpu", "--opt", write("GuidanceParams:\n  g_device: cuda\n")])
    assert found == (
        "command line: device = cpu: expected one device for everything, but device is cpu, GuidanceParams.g_device is cuda"
    )


def test_an_empty_file_and_an_empty_group_are_no_settings(write):
    assert load_config(["--opt", write(""), *TEXT]).optimization == Config().optimization
    assert load_config(["--opt", write("ModelParams:\n"), *TEXT]).model == Config().model


def test_what_a_reader_does_to_a_files_mapping_is_not_there_for_the_next(write):
    path = write("ModelParams: {sh_degree: 1}\nseed: 1\nseed: 2\n")
    first, problems = read_yaml(path)
    first["ModelParams"]["sh_degree"] = 9
    problems.append("x")
    again = read_yaml(path)
    assert again[0] == {"ModelParams": {"sh_degree": 1}, "seed": 2} and len(again[1]) == 1
    assert read_yaml(write("seed: 3\n"))[0] == {"seed": 3}  # the same path, written once more


# --- round trip and help ----------------------------------------------------------------------------------------------


def test_the_resolved_config_fed_back_is_equal(write):
    config = load_config(
        ["--text", "ein grüner Würfel: \"x\" # 'y'\n", "--phi_range", "-80", "80", "--model_key", "null", "--feature_lr",
         "1e-7", "--checkpoint_iterations", "3", "4", "--dry-run", "--negative", "no", "--workspace", "1e3"]
    )  # fmt: skip
    text = to_yaml(config)
    again = load_config(["--opt", write(text)])
    assert again == config and to_yaml(again) == text
    assert "dry_run" not in text and "opt:" not in text
    assert dataclasses.asdict(again)["checkpoint_iterations"] == (3, 4)


@pytest.mark.parametrize("text", ["a\x85b", "a\u2028b", "a\ufeffb", "\x07 bell", "\r\n", "emoji \U0001f600", "- x: [", "null"])
def test_odd_characters_survive(text, tmp_path):
    config = load_config(["--text", f"mug{text}", "--negative", text])
    (tmp_path / "run.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(["--opt", str(tmp_path / "run.yaml")]) == config


def test_help_lists_every_key_with_unit_bounds_and_default(capsys):
    with pytest.raises(SystemExit) as caught:
        load_config(["--help-all"])
    assert caught.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "polar angle from +z [two numbers [lo, hi] with lo <= hi each >= 0 and <= 180 (deg); default 45 105]" in words
    assert "--GenerateCamParams.device VALUE" in words and "--phi_range LO HI" in words
    for attribute, declared in GROUPS.values():
        assert attribute and all(f"--{field.name}" in words or f".{field.name}" in words for field in dataclasses.fields(declared))


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_short_help_begins_with_the_prompt_and_fits_on_a_page(flag, capsys):
    with pytest.raises(SystemExit) as caught:
        load_config([flag])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    flags = re.findall(r"^  (--[\w.-]+)", text, re.MULTILINE)
    assert flags[:3] == ["--text", "--opt", "--workspace"] and flags[-2:] == ["--help-all", "--version"]
    assert 20 <= len(flags) <= 30 and len(text.splitlines()) <= 80
    assert set(flags) <= set(command_line.build_parser()._option_string_actions)


# --- when the run reports and saves -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "iterations, tests, saves",
    [(5000, {1, 1000, 2000, 3000, 4000, 5000}, {2500, 5000}), (3, {1, 2, 3}, {1, 3}), (1, {1}, {1})],
)
def test_iterations_of_reports_and_saves(iterations, tests, saves):
    config = load_config([*TEXT, "--iterations", str(iterations)])
    assert (config.test_iterations, config.save_iterations) == (tests, saves)


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml", "prompt", "wo_region"])
def test_a_name_below_configs_is_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(["--opt", name, "--text", "a mug"])
    assert config.model.workspace == Path(name).stem


def test_a_file_here_goes_before_a_name_below_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("GuidanceParams: {text: a house}\n")
    assert load_config(["--opt", "quickstart"]).guidance.text == "a house"


@pytest.mark.parametrize("value", ["-robot", "-robot cat", "-s", "-é", "-5x"])
def test_a_value_with_a_dash_needs_an_equals_sign(value):
    told = "given" if value == "-s" else rf"--text '{re.escape(value)}': .*equals sign: --text='?{re.escape(value)}"
    with pytest.raises(ConfigError, match=told):  # -s is a flag
        load_config(["--text", value])
    assert load_config([f"--text={value}"]).guidance.text == value


@pytest.mark.parametrize("number", ["-1", "-2.5", "-1e-3", "-.5", "-1E+1"])
def test_negative_numbers_are_values(number):
    assert load_config(["--text", "x", "--negative_w", number]).guidance.negative_w == float(number)
    assert load_config(["--text", "x", "--phi_range", number, "30"]).cameras.phi_range == (float(number), 30.0)


@pytest.mark.parametrize("name", ["mug", "a/b", "кружка", "a mug 2", "x" * 255, "v1.5", "a_b-c", "[*?]"])
def test_other_names_are_taken(name):
    assert load_config(["--text", "x", "--workspace", name]).output_dir == Path("output") / name
