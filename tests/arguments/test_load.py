# SPDX-License-Identifier: Apache-2.0
"""load_config: precedence, spellings, types, and every message a user can meet."""

import dataclasses
import json
import re
import warnings
from pathlib import Path

import pytest

from arguments import GROUPS, Config
from arguments.load import ConfigError, ConfigWarning, load_config, to_yaml

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests/data/golden/arguments.json").read_text())
TEXT = ["--text", "a red mug"]


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file and returns its path."""

    def _write(text):
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return _write


def problems(argv):
    """The sentences of the ConfigError that `argv` must raise."""
    with pytest.raises(ConfigError) as caught:
        load_config(argv)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def only_problem(argv):
    found = problems(argv)
    assert len(found) == 1, found
    return found[0]


# --- upstream's files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(GOLDEN["configs"]))
def test_upstream_files_give_upstreams_effective_values(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = load_config(["--opt", str(ROOT / "configs" / name)])
    golden = GOLDEN["configs"][name]
    ignored = {(group, key) for group, keys in golden["effective"].items() for key in keys if key == "accum"}
    assert [str(w.message).split(": ", 1)[1] for w in caught if w.category is ConfigWarning] == [
        f"{group}.{key} is ignored: nothing reads it" for group, key in ignored
    ]
    assert {key: getattr(config, key) for key in golden["top"]} == golden["top"]
    for group, keys in golden["effective"].items():
        params = getattr(config, GROUPS[group][0])
        for key, value in keys.items():
            if (group, key) in ignored:
                continue
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


# --- messages: values -------------------------------------------------------------------------------------------------


def test_wrong_type_names_file_key_value_and_expectation(write):
    path = write("OptimizationParams:\n  iterations: 'many'\n")
    assert only_problem(["--opt", path, *TEXT]) == (
        f"{path}: OptimizationParams.iterations = 'many': expected a whole number >= 1 and <= 10000000 (iterations)"
    )


@pytest.mark.parametrize(
    "group, line, expected",
    [
        ("OptimizationParams", "iterations: 1.5", "iterations = 1.5: expected a whole number"),
        ("OptimizationParams", "iterations: true", "iterations = True: expected a whole number"),
        ("OptimizationParams", "iterations: 0", "iterations = 0: expected a whole number >= 1"),
        ("OptimizationParams", "iterations: null", "iterations = None: expected a whole number"),
        ("OptimizationParams", "feature_lr: true", "feature_lr = True: expected a number >= 0"),
        ("OptimizationParams", "feature_lr: .nan", "feature_lr = nan: expected a number >= 0"),
        ("OptimizationParams", "feature_lr: .inf", "feature_lr = inf: expected a number >= 0"),
        ("OptimizationParams", "feature_lr: [1]", "feature_lr = [1]: expected a number >= 0"),
        ("OptimizationParams", "scale_up_factor: 0", "scale_up_factor = 0: expected a number > 0"),
        ("OptimizationParams", "save_process: 2", "save_process = 2: expected true or false"),
        ("OptimizationParams", "save_process: maybe", "save_process = 'maybe': expected true or false"),
        ("ModelParams", "sh_degree: 4", "sh_degree = 4: expected a whole number >= 0 and <= 3"),
        ("ModelParams", "bg_aug_ratio: 1.2", "bg_aug_ratio = 1.2: expected a number >= 0 and <= 1"),
        ("ModelParams", "workspace: 2024", "workspace = 2024: expected text; put it in quotes"),
        ("ModelParams", "workspace: 2024-01-01", "expected text; put it in quotes"),
        ("ModelParams", "workspace: ../../etc", "expected the name of a folder below output/"),
        ("ModelParams", "workspace: ''", "expected the name of a folder below output/"),
        ("ModelParams", "workspace: /tmp", "expected the name of a folder below output/"),
        ("ModelParams", 'model_path: "a\\0b"', "expected a path of a folder"),
        ("ModelParams", "data_device: tpu", "data_device = 'tpu': expected auto, cpu, cuda or cuda:N"),
        ("GenerateCamParams", "theta_range: [90, 60]", "this range is impossible, are the two exchanged?"),
        ("GenerateCamParams", "theta_range: [60, 190]", "expected two numbers [lo, hi] with lo <= hi each >= 0 and <= 180"),
        ("GenerateCamParams", "theta_range: 60", "theta_range = 60: expected two numbers"),
        ("GenerateCamParams", "theta_range: [60]", "theta_range = [60]: expected two numbers"),
        ("GenerateCamParams", "theta_range: [60, x]", "theta_range = [60, 'x']: expected two numbers"),
        ("GenerateCamParams", "fovy_range: [0.1, 3.2]", "each >= 0.01 and <= 3.1 (rad)"),
        ("GenerateCamParams", "init_shape: spere", "expected one of sphere, box, rectangle_x, rectangle_z, scene, pointe, shap_e "),
        ("GenerateCamParams", "init_shape: spere", "(did you mean sphere?)"),
        ("GuidanceParams", "guidance: IF", "guidance = 'IF': expected one of SD, ideal"),
        ("GuidanceParams", "t_range: [0.3, 0.3]", "expected lo < hi, there is no timestep between them"),
        ("GuidanceParams", "max_t_range: 0.4", "expected at least the upper end of GuidanceParams.t_range, which is 0.5"),
        ("GuidanceParams", "xs_delta_t: 0", "xs_delta_t = 0: expected a whole number >= 1 and <= 1000 (timesteps)"),
    ],
)
def test_values_that_a_key_does_not_take(group, line, expected, write):
    path = write(f"{group}:\n  {line}\n")
    found = only_problem(["--opt", path, *TEXT])
    assert found.startswith(f"{path}: {group}.")
    assert expected in found


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_prompt_is_met_at_the_door(text):
    assert only_problem(["--text", text]) == (
        f"command line: GuidanceParams.text = {text!r}: expected a prompt: "
        'pass --text "a red mug" or set GuidanceParams.text in the YAML file; '
        "for a first try use --opt configs/quickstart.yaml"
    )
    assert only_problem([]).startswith("defaults: GuidanceParams.text = ''")


def test_text_that_is_not_utf8_is_refused():
    assert "expected text; put it in quotes" not in only_problem(["--text", "a \udcff mug"])
    assert "in UTF-8" in only_problem(["--text", "a \udcff mug"])


# --- messages: keys and groups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("OptimizationParams:\n  iteratons: 5\n", "OptimizationParams.iteratons = 5: expected a known key (did you mean OptimizationParams.iterations?)"),
        ("ModelParams:\n  iterations: 5\n", "(did you mean OptimizationParams.iterations?)"),
        ("iterations: 5\n", "iterations = 5: expected a known key (did you mean OptimizationParams.iterations?)"),
        ("OptimisationParams:\n  iterations: 5\n", "expected a known group (did you mean OptimizationParams?)"),
        ("sead: 5\n", "sead = 5: expected a known key (did you mean seed?)"),
        ("_seed: 5\n", "_seed = 5: expected a known key (did you mean seed?)"),
        ("qqqqqqq: 5\n", "qqqqqqq = 5: expected a known key (--help lists them)"),
        ("5: 5\n", "5 = 5: expected a known key (--help lists them)"),
        ("dry_run: true\n", "dry_run = True: expected a known key"),
        ("accum: false\n", "accum = False: expected a known key"),
        ("ModelParams: 5\n", "ModelParams = 5: expected keys with values below it"),
    ],
)  # fmt: skip
def test_unknown_keys_name_the_nearest(text, expected, write):
    path = write(text)
    found = only_problem(["--opt", path, *TEXT])
    assert found.startswith(f"{path}: ") and expected in found


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--iteratons", "600"], "command line: --iteratons: expected a known flag (did you mean --iterations?)"),
        (["--iteratons=600"], "command line: --iteratons = '600': expected a known flag (did you mean --iterations?)"),
        (["--ModelParams.devise", "cpu"], "(did you mean --device?)"),
        (["--set", "Model.batch=3"], "command line: Model.batch = '3': expected a known group (did you mean ModelParams.batch?)"),
        (["--set", "ModelParams.bach=3"], "expected a known key (did you mean ModelParams.batch?)"),
        (["--set", "ModelParams.batch"], "--set = 'ModelParams.batch': expected Group.key=value"),
        (["--iterations"], "OptimizationParams.iterations: expected one value, 0 given"),
        (["--negative", "ugly", "dark"], "GuidanceParams.negative = ugly dark: expected one value, 2 given; put text in quotes"),
        (["--opt"], "opt: expected one value, 0 given"),
        (["--port", "70000"], "port = '70000': expected a whole number >= 0 and <= 65535"),
        (["--device", "gpu"], "device = 'gpu': expected auto, cpu, cuda or cuda:N"),
        (["--quiet", "perhaps"], "quiet = 'perhaps': expected true or false"),
    ],
)  # fmt: skip
def test_command_line_mistakes(words, expected):
    assert expected in only_problem([*TEXT, *words])


def test_words_without_a_flag():
    assert only_problem(["stray", *TEXT]) == "command line: 'stray': expected a flag such as --opt FILE"


@pytest.mark.parametrize(("shape", "model"), [("pointe", "Point-E"), ("shap_e", "Shap-E")])
def test_a_cloud_from_a_text_needs_a_prompt_of_its_own(shape, model):
    found = only_problem([*TEXT, "--init_shape", shape])
    assert f"GenerateCamParams.init_prompt = '': expected a prompt for {model}" in found
    assert load_config([*TEXT, "--init_shape", shape, "--init_prompt", "a mug"]).cameras.init_shape == shape


@pytest.mark.parametrize("name", ["LoRA_path", "textual_inversion_path", "controlnet_model_key"])
def test_add_ons_need_a_diffusion_model(name):
    words = [*TEXT, "--guidance", "ideal", f"--{name}", "x", "--use_control_net_iter", "0"]
    assert only_problem(words) == (
        f"command line: GuidanceParams.{name} = 'x': expected none, GuidanceParams.guidance ideal has no use"
    )


def test_a_controlnet_that_would_never_be_used():
    found = only_problem([*TEXT, "--controlnet_model_key", "a/b", "--iterations", "300"])
    assert "OptimizationParams.use_control_net_iter = 10000000: expected less than OptimizationParams.iterations, 300, or" in found
    assert load_config([*TEXT, "--controlnet_model_key", "a/b", "--use_control_net_iter", "100"]).guidance.controlnet_model_key


def test_a_key_that_two_groups_share_needs_its_group(monkeypatch):
    from arguments import command_line, load

    owned = {**command_line.owners(), "sigma": ["ModelParams", "GuidanceParams"]}
    monkeypatch.setattr(load, "owners", lambda: owned)
    found = only_problem([*TEXT, "--sigma", "3"])
    assert found == "command line: --sigma: ambiguous, expected one of --ModelParams.sigma, --GuidanceParams.sigma"


# --- messages: files --------------------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path):
    path = str(tmp_path / "none.yaml")
    expected = f"{path}: cannot be read (no such file or directory): expected a YAML file, such as configs/quickstart.yaml, or"
    assert only_problem(["--opt", path]).startswith(expected)
    assert "is a directory" in only_problem(["--opt", str(tmp_path)])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("ModelParams:\n  batch: 3\n bad: [\n", ":3: broken YAML: "),
        ("a: &a [*b]\n", ":1: broken YAML: found undefined alias"),
        ("a: !!python/object/apply:os.system [ls]\n", ":1: broken YAML: could not determine a constructor"),
        ("a: 2024-99-99\n", "broken YAML: a value cannot be read"),
        ("? [1]\n: 2\n", ":1: broken YAML: found unhashable key"),
        ("a: \0\n", "broken YAML: unacceptable character"),
        ("[" * 1200, "broken YAML: nested too deeply"),
        ("- 1\n- 2\n", "holds a list: expected groups such as"),
        (b"text: \xff\xfe", "byte 6 is not UTF-8"),
        ("#" * 300_000, "longer than 262144 bytes"),
        ("seed: 1\nseed: 2\n", ":2: seed is given twice: expected once"),
        ("ModelParams:\n  batch: 1\n  batch: 2\n", ":3: batch is given twice: expected once"),
        ("ModelParams:\n  images: a\n  _images: b\n", "ModelParams.images is given twice, also as _images"),
    ],
)
def test_files_that_are_not_settings(text, expected, write):
    path = write(text)
    found = only_problem(["--opt", path, *TEXT])
    assert found.startswith(path) and expected in found, found


def test_all_problems_are_reported_together(write):
    path = write("OptimizationParams:\n  iterations: 'many'\n  iteratons: 5\nseed: -1\nGenerateCamParams: {init_shape: x}\n")
    found = problems(["--opt", path, "--sh_degree", "9", "--colour", "red", "--set", "ModelParams.bach=3"])
    sources = [problem.split(": ")[0] for problem in found]
    assert len(found) == 8 and sources == [path] * 4 + ["command line"] * 3 + ["defaults"]


def test_accum_is_ignored_with_a_warning(write):
    with pytest.warns(ConfigWarning, match=r"GuidanceParams\.accum is ignored: nothing reads it"):
        load_config(["--opt", write("GuidanceParams:\n  accum: false\n"), *TEXT])


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
        load_config(["--help"])
    assert caught.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "polar angle from +z [two numbers [lo, hi] with lo <= hi each >= 0 and <= 180 (deg); default 45 105]" in words
    assert "--GenerateCamParams.device VALUE" in words and "--phi_range LO HI" in words
    for attribute, declared in GROUPS.values():
        assert attribute and all(f"--{field.name}" in words or f".{field.name}" in words for field in dataclasses.fields(declared))


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


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quikstart", "did you mean quickstart or"),
        ("configs/promt.yaml", "did you mean prompt"),
        ("zzz", "configs/ has axe, .*zombie_joker"),
        ("", "expected a YAML file, or a name below configs/"),
        ("a\0b", "expected a YAML file, or a name below configs/"),
    ],
)
def test_a_wrong_name_of_a_config_lists_near_ones(name, hint):
    with pytest.raises(ConfigError, match=hint) as refused:
        load_config(["--opt", name, "--text", "a mug"])
    assert len(refused.value.problems) == 1


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


def test_a_misspelt_flag_is_still_named():
    with pytest.raises(ConfigError, match=r"--iteratoins: expected a known flag \(did you mean --iterations"):
        load_config(["--text", "--iteratoins", "4"])


NAMES = ["a\nb", "a\tb", "a\x1b[31m", "a\u202eb", "\0", " a", "a ", "-a", "~", "a/", "a/../b", "a/-b", "..", ".", "a.", "x" * 256]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_folder_should_have_are_refused(name):
    if name == "a/":
        assert load_config(["--text", "x", "--workspace", name]).output_dir == Path("output/a")
        return
    with pytest.raises(ConfigError, match=r"ModelParams.workspace = .*expected the name of a folder below output/"):
        load_config(["--text", "x", f"--workspace={name}"])
    if not name.isprintable():
        with pytest.raises(ConfigError, match=r"ModelParams.model_path = .*expected a path of a folder"):
            load_config(["--text", "x", f"--model_path=/tmp/{name}"])


@pytest.mark.parametrize("name", ["mug", "a/b", "кружка", "a mug 2", "x" * 255, "v1.5", "a_b-c", "[*?]"])
def test_other_names_are_taken(name):
    assert load_config(["--text", "x", "--workspace", name]).output_dir == Path("output") / name
