# SPDX-License-Identifier: Apache-2.0
"""A law from a user's file: what is refused before anything is written, what a run keeps of it, and the example."""

import hashlib
import json
import shutil

import pytest

import train
from arguments.exit_codes import FINISHED, REFUSED
from arguments.load import ConfigError, load_config
from distillation import find_law
from evaluation.run_folder import config_of_run, last_point_cloud
from toy.ideal import IdealPrior
from utils.tree_file import load_tree

EXAMPLE = "examples/cosine_law.py"
SMALL = {
    "opt": "configs/quickstart.yaml", "iterations": 4, "init_num_pts": 40, "image_w": 16, "image_h": 16, "view_px": 16,
    "C_batch_size": 2, "device": "cpu", "save_video": False, "save_process": False, "quiet": True, "checkpoint_every": 2, "test_ratio": 1, "keep_last_checkpoint": True,
}  # fmt: skip


def words(**settings):
    return [word for name, value in {**SMALL, **settings}.items() for word in (f"--{name}", str(value))]


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    monkeypatch.setitem(IdealPrior.__init__.__kwdefaults__, "images", 12)


def law_file(tmp_path, text, name="my_law.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


PLAIN = "from distillation import Law, linear\nmine = Law(linear(lambda step: {'guided': 1, 'noise': -1}), {%s})\n"
MADE = "from distillation import Law\nmine = Law(%s)\n"


def problems(*argv):
    with pytest.raises(ConfigError) as caught:
        load_config(["--text", "x", *argv])
    return caught.value.problems


def test_its_preset_is_the_settings_and_flags_come_before_it(tmp_path):
    path = law_file(tmp_path, PLAIN % "'guidance_scale': 12, 't_range': [0.1, 0.3]")
    params = load_config(["--text", "x", "--distillation", f"{path}:mine", "--t_range", "0.2", "0.4"]).guidance
    assert (params.guidance_scale, params.t_range) == (12.0, (0.2, 0.4)) and params.law is find_law(f"{path}:mine")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "mine", "expected a file that exists: there is no "),
        ("def broken(:", "mine", "that Python can run; "),
        ("raise RuntimeError('no luck')", "mine", "raises RuntimeError: no luck"),
        ("other = 1", "mine", "a distillation.Law called mine in "),
        ("mine = 1", "mine", "which has a int"),
        (PLAIN % "'guidance_scale': 'much'", "mine", "expected a number >= 0"),
        (PLAIN % "'guidanse_scale': 3", "mine", "did you mean GuidanceParams.guidance_scale?"),
        ("import sys\nsys.exit(0)", "mine", "that Python can run; "),
        (PLAIN % "'distillation': 'sds'", "mine", "Law.preset has 'distillation', which chooses the law itself; leave it out"),
        (PLAIN % "'_sds': True", "mine", "Law.preset has '_sds'"),
        (MADE % "lambda step: step.x, None", "mine", "Law.preset is None; expected a dictionary of settings"),
        (MADE % "lambda step: step.x, ['sds']", "mine", "Law.preset is ['sds']; expected a dictionary of settings"),
        (MADE % "lambda step: step.x, {3: 4}", "mine", "Law.preset is {3: 4}; expected a dictionary of settings"),
        (MADE % "3", "mine", "Law.residual is 3; expected a function that takes a Step"),
        (MADE % "lambda step: step.x, reads=None", "mine", "Law.reads is None; expected a set of names"),
        (MADE % "lambda step: step.x, reads='guidance_scale'", "mine", "Law.reads is 'guidance_scale'; expected a set of names"),
        (MADE % "lambda step: step.x, reads={'foo'}", "mine", "Law.reads has 'foo', which is no setting that only some laws read; those are"),
        (MADE % "lambda step: step.x, reads={'delta_tt'}", "mine", "did you mean 'delta_t'?"),
        (MADE % "lambda step: step.x, needs_predictor='no'", "mine", "Law.needs_predictor is 'no'; expected True or False"),
        (MADE % "lambda step: step.x, perpneg_factor='x'", "mine", "Law.perpneg_factor is 'x'; expected a finite number"),
        (MADE % "lambda step: step.x, perpneg_factor=float('nan')", "mine", "Law.perpneg_factor is nan; expected a finite number"),
    ],
)
def test_a_file_that_is_no_law_is_refused_in_a_sentence(tmp_path, text, name, message):
    path = tmp_path / "my_law.py" if text is None else law_file(tmp_path, text)
    (found,) = problems("--distillation", f"{path}:{name}")
    assert message in found and "\n" not in found


@pytest.mark.parametrize("way", ["yaml", "set", "base"])
def test_a_file_is_run_only_where_the_flag_names_it(tmp_path, way):
    """Neither a settings file nor --set, which a web page fills in, may start a program."""
    path = law_file(tmp_path, f"open({str(tmp_path / 'was_run')!r}, 'w')\n" + PLAIN % "")
    name = f"{path}:mine"
    settings = tmp_path / "own.yaml"
    settings.write_text(f"GuidanceParams: {{distillation: '{name}'}}\n")
    upper = tmp_path / "upper.yaml"
    upper.write_text("base: own.yaml\n")
    argv = {"yaml": ["--opt", str(settings)], "base": ["--opt", str(upper)], "set": ["--set", f"GuidanceParams.distillation={name}"]}[way]
    (found,) = problems(*argv)
    assert "named by a flag alone: pass --distillation" in found and not (tmp_path / "was_run").exists()
    assert load_config(["--text", "x", *argv[: 2 * (way != "set")], "--distillation", name]).guidance.law_name == name
    assert (tmp_path / "was_run").exists()


def test_nothing_is_written_for_a_law_that_is_refused(tmp_path, capsys):
    assert train.main(words(distillation=f"{tmp_path}/gone.py:mine", model_path=tmp_path / "run")) == REFUSED
    assert "there is no" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_example_trains_is_kept_and_resumes_bit_for_bit(tmp_path, capsys):
    """The run folder has the file and its hash; resuming needs the flag again, and a changed file is reported."""
    own = tmp_path / "cosine_law.py"
    shutil.copy(EXAMPLE, own)
    name, whole, broken = f"{own}:LAW", tmp_path / "whole", tmp_path / "broken"
    assert train.main(words(distillation=name, model_path=whole)) == FINISHED
    record = json.loads((whole / "run.json").read_text())["law"]
    assert record == {"name": name, "file": "law.py", "sha256": hashlib.sha256(own.read_bytes()).hexdigest()}
    assert (whole / "law.py").read_bytes() == own.read_bytes()
    measured = config_of_run(whole)  # what is measured of a run does not need its law
    assert (measured.optimization.iterations, measured.guidance.t_schedule) == (4, "sqrt") and last_point_cloud(whole)
    shutil.copytree(whole, broken)
    (broken / "chkpnt4.safetensors").unlink()
    (broken / "run.json").write_text(json.dumps({k: v for k, v in json.loads((broken / "run.json").read_text()).items() if k not in ("finished_utc", "steps")}))
    capsys.readouterr()
    assert train.main(["--resume", str(broken)]) == REFUSED
    assert f"pass --distillation {name}" in capsys.readouterr().err
    own.write_text(own.read_text() + "\n")
    assert train.main(["--resume", str(broken), "--distillation", name]) == FINISHED
    assert f"{own} differs from {broken / 'law.py'}" in capsys.readouterr().out
    trees = [load_tree(folder / "chkpnt4.safetensors")["train"] for folder in (whole, broken)]
    assert (trees[0]["loss"]["memory"]["mean"] == trees[1]["loss"]["memory"]["mean"]).all()
    assert (trees[0]["gaussians"]["parameters"]["xyz"] == trees[1]["gaussians"]["parameters"]["xyz"]).all()


SDS = "step.predict(step.x_t, step.index, 'guided')['guided'] - step.noise"
MISTAKES = {
    "return step.x[:, :1]": r"returned \(2, 1, 16, 16\) after 0 predictions; expected \(2, 3, 16, 16\)",
    "return None": r"returned None; expected a tensor of shape \(2, 3, 16, 16\)",
    "return 0.5": r"returned 0\.5; expected a tensor of shape \(2, 3, 16, 16\)",
    "import sys; sys.exit(0)": r"ends the program \(SystemExit: 0\)",
    "return step.predict(step.x_t, step.index, 'guidance')": r"asks for 'guidance'; expected of cond, uncond, direction, guided, inverse;",
    "return step.predict(step.x_t, step.index)": r"asks for nothing; expected of cond",
    "return step.predict(step.x_t, step.index, 'contrast')": r"asks for 'contrast'; .* need contrast_text",
    "return step.particles(step.x_t, step.index)": r"uses the particles' prediction; expected a Law with needs_predictor=True",
    "return step.noised(step.index + 2000)": r"uses the schedule index \d+; expected 0 to \d+",
    "return step.abar(step.index - 2000)": r"uses the schedule index -\d+; expected 0 to \d+",
    "return step.predict(step.x_t, step.index + 2000, 'cond')": r"uses the schedule index \d+; expected 0 to \d+",
    f"step.memory[3] = 1; return {SDS}": r"keeps step\.memory with the key 3, which a checkpoint does not bring back",
    f"step.memory['a'] = {{'b': (1, 2)}}; return {SDS}": r"keeps step\.memory\['a'\]\['b'\] = \(1, 2\), which",
    f"step.memory['f'] = [1, print]; return {SDS}": r"keeps step\.memory\['f'\]\[1\] = <built-in function print>, which",
}


@pytest.mark.parametrize("body", MISTAKES)
def test_a_mistake_in_a_residual_is_a_sentence_that_names_the_law(tmp_path, body):
    path = law_file(tmp_path, f"from distillation import Law\ndef residual(step):\n    {body}\nmine = Law(residual)\n")
    with pytest.raises(ValueError, match=rf"^the distillation law .*my_law\.py:mine {MISTAKES[body]}"):
        train.main(words(distillation=f"{path}:mine", model_path=tmp_path / "run"))
    assert not list((tmp_path / "run").glob("chkpnt*"))


def test_a_file_may_have_dataclasses_and_modules_beside_it(tmp_path):
    """Imported when the file is read, or when a function of it is called."""
    law_file(tmp_path, "FACTOR = 2\n", "helper_of_my_law.py")
    law_file(tmp_path, "MORE = 3\n", "late_helper_of_my_law.py")
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom helper_of_my_law import FACTOR\n"
        "from distillation import Law\n@dataclass\nclass Numbers:\n    factor: float = FACTOR\n"
        "def residual(step):\n    from late_helper_of_my_law import MORE\n    return Numbers().factor * MORE\n"
        "mine = Law(residual)\n"
    )
    assert find_law(f"{law_file(tmp_path, text)}:mine").residual(None) == 6
