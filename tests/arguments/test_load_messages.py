# SPDX-License-Identifier: Apache-2.0
"""Every message of load_config that a user can meet: values, keys, groups, files, names."""

from pathlib import Path

import pytest

from arguments import Config
from arguments.declare import keys_of
from arguments.load import ConfigError, load_config
from tests.arguments.refusals import TEXT, only_problem, problems

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
        ("GenerateCamParams", "init_shape: spere", "expected one of sphere, box, rectangle_x, rectangle_z, scene, pointe, shap_e, file "),
        ("GenerateCamParams", "init_shape: spere", "(did you mean sphere?)"),
        ("GuidanceParams", "guidance: IF", "guidance = 'IF': expected one of SD, ideal"),
        ("GuidanceParams", "t_range: [0.3, 0.3]", "expected lo < hi"),
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


@pytest.mark.parametrize("densifier", ["inria", "absgrad", "mcmc", "cadam"])
def test_a_budget_below_the_first_number_of_gaussians_is_refused(densifier):
    """Which a file or a checkpoint says itself, once it is read."""
    words = [*TEXT, "--densifier", densifier, "--init_num_pts", "100", "--max_points"]
    assert only_problem([*words, "99"]).endswith(
        "OptimizationParams.max_points = 99: expected at least GenerateCamParams.init_num_pts, 100, with which the run begins"
    )
    load_config([*words, "100"])
    for more in (["--init_shape", "file", "--init_file", "x.ply"], ["--start_checkpoint", "x.pth"], ["--resume", "auto"]):
        load_config([*words, "99", *more])


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
        ("qqqqqqq: 5\n", "qqqqqqq = 5: expected a known key (--help-all lists them)"),
        ("5: 5\n", "5 = 5: expected a known key (--help-all lists them)"),
        ("overwrit: true\n", "overwrit = True: expected a known key (--help-all lists them)"),
        ("accum: false\n", "accum = False: expected a known key"),
        ("ModelParams: 5\n", "ModelParams = 5: expected keys with values below it"),
    ],
)  # fmt: skip
def test_unknown_keys_name_the_nearest(text, expected, write):
    path = write(text)
    found = only_problem(["--opt", path, *TEXT])
    assert found.startswith(f"{path}: ") and expected in found


@pytest.mark.parametrize("name", [name for name, (_, spec, _) in keys_of(Config).items() if spec.transient])
def test_what_is_about_one_call_is_no_key_of_a_file(name, write):
    """And the message does not send anybody back to the same key."""
    path = write(f"{name}: true\n")
    assert only_problem(["--opt", path, *TEXT]) == f"{path}: {name} = True: expected only as a flag of one call: --{name}"


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


@pytest.mark.parametrize("words", [["--opt"], ["--opt", "a.yaml", "b.yaml"], ["--resume", "a", "b"]])
def test_what_a_file_would_have_said_is_not_asked_for(words):
    """The prompt, for one."""
    assert "expected one value" in only_problem(words)


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
        f"command line: GuidanceParams.{name} = 'x': expected none: GuidanceParams.guidance ideal does not use it"
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
        ("- " * 1200 + "1", "broken YAML: nested too deeply"),
        ("- 1\n- 2\n", "holds a list: expected groups such as"),
        (b"text: \xff\xfe", "byte 6 is not UTF-8"),
        ("#" * 300_000, "longer than 262144 bytes"),
        ("seed: 1\nseed: 2\n", ":2: seed is given twice: expected once"),
        ("ModelParams:\n  batch: 1\n  batch: 2\n", ":3: batch is given twice: expected once"),
        ("ModelParams:\n  images: a\n  _images: b\n", "ModelParams.images is given twice, also as _images"),
        ("ModelParams:\n  _images: a\n  __images: b\n", "ModelParams.images is given twice, also as _images"),
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
