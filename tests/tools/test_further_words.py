# SPDX-License-Identifier: Apache-2.0
"""What follows `--` goes to train.py: a setting that the tool sets itself is refused before anything is written."""

import ast
import importlib

import pytest

from arguments import GROUPS, Config
from arguments.declare import keys_of
from arguments.further import flag_of, label_of, labels_of, refuse_set
from tests.checkout import ROOT, files

TOOLS = [path for path in files("*.py") if path.relative_to(ROOT).parts[0] in ("tools", "benchmarks")]
TOY = {
    "reproduce": ["--prior", "toy", "--count", "1", "--dry_run"],
    "ablate_toy": ["--priors", "ideal", "--variants", "full", "--words", "weak", "--seeds", "1"],
    "distill_2d": ["--distillation", "sds", "--text", "a red cube"],
    "readme_numbers": [],
}
OF_EVERY_TOOL = {
    "--text 'a mug'": "--text", "--set GuidanceParams.text=mug": "--text", "--set text=mug": "--text", "--model_path X": "--model_path",
    "--workspace x": "--workspace", "--opt configs/fine.yaml": "--opt", "--resume auto": "--resume", "--dry_run": "--dry_run",
}  # fmt: skip
CASES = [(tool, words, flag) for tool in TOY for words, flag in OF_EVERY_TOOL.items()]
CASES += [(tool, "--seed 5", "--seed") for tool in ("reproduce", "ablate_toy")]
CASES += [
    ("reproduce", "--noise_seed=5", "--noise_seed"),
    ("reproduce", "--CoGradParams.use_fusion false", "--use_fusion"),
    ("reproduce", "--checkpoint_every 3", "--checkpoint_every"),
    ("ablate_toy", "--front_bias 0.1", "--front_bias"),
    ("ablate_toy", "--save_ratio 4", "--save_ratio"),
    ("ablate_toy", "--enabled false", "--enabled"),
    ("distill_2d", "--distillation csd", "--distillation"),
    ("distill_2d", "--iterations 3", "--iterations"),
    ("distill_2d", "--image_h 8", "--image_h"),
    ("distill_2d", "--model_key X", "--model_key"),
    ("distill_2d", "--tau 2", "--tau"),
    ("distill_2d", "--init_num_pts 5 --sh_degree 1", "--sh_degree"),
]


@pytest.mark.parametrize(("tool", "words", "flag"), CASES)
def test_a_setting_that_the_tool_sets_is_refused(tmp_path, capsys, monkeypatch, tool, words, flag) -> None:
    module = importlib.import_module(f"tools.{tool}")
    if tool == "readme_numbers":
        monkeypatch.setattr(module, "train", None)  # which would be run
    out = tmp_path / "out"
    assert module.main([*TOY[tool], "--out", str(out), "--", *words.replace("'a mug'", "mug").split()]) == 2
    told = capsys.readouterr().err
    assert f"`{flag}` " in told and told.rstrip().endswith("leave it out") and told.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize(("setting", "words", "by"), [
    ("common", ["--weighting", "uniform"], "--setting common"),
    ("own", ["--guidance_scale", "30"], "--setting own"),  # the toy world's most
    ("own", ["--guidance_scale", "5"], None),
])  # fmt: skip
def test_a_setting_of_all_rows_is_refused_where_it_would_be_replaced(tmp_path, capsys, setting, words, by) -> None:
    from tools import reproduce

    status = reproduce.main([*TOY["reproduce"], "--out", str(tmp_path / "out"), "--setting", setting, "--variants", "full", "--", *words])
    assert (status, by is None or f"`{words[0]}` is set by {by}; leave it out" in capsys.readouterr().err) == (2 if by else 0, True)


def test_a_table_whose_rows_set_it_refuses_what_one_of_them_sets(tmp_path, capsys) -> None:
    from tools import reproduce

    words = [*TOY["reproduce"], "--out", str(tmp_path / "out"), "--table", "1"]
    assert reproduce.main([*words, "--", "--grad_clamp", "0", "1"]) == 2
    assert "`--grad_clamp` is set by the variant gaussiandreamer; leave it out" in capsys.readouterr().err
    assert reproduce.main([*words, "--", "--ideal_uncond", "object"]) == 2
    assert "`--ideal_uncond` is set by --table; leave it out" in capsys.readouterr().err


def _calls(path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {ast.unparse(node.func).rpartition(".")[2] for node in nodes if isinstance(node, ast.Call)}


def test_every_tool_that_hands_words_to_train_py_looks_at_them() -> None:
    """reproduce.py does in evaluation/experiments/grid.py, where the runs' words are made; show_cameras.py sets none."""
    handing = [path for path in TOOLS if _calls(path) & {"split_at_dashes", "parse_known_args"}]
    assert {path.stem for path in handing} >= {*TOY, "demo_time", "step", "quickstart", "viewer"}
    assert [path.stem for path in handing if "refuse_set" not in _calls(path)] == ["reproduce", "show_cameras"]


def test_names_are_found_whatever_their_spelling() -> None:
    words = ["--GuidanceParams.text", "a mug", "--set", "seed=3", "GuidanceParams._noise_seed=4", "--dry-run"]
    assert sorted(labels_of(words)) == ["GuidanceParams.noise_seed", "GuidanceParams.text", "dry_run", "seed"]
    assert (label_of("text"), label_of("seed"), flag_of("GuidanceParams.text")) == ("GuidanceParams.text", "seed", "--text")
    refuse_set(["--iteratoins"], {"seed": "--seeds"})  # which load_config reports


def test_what_tools_set_are_settings() -> None:
    from evaluation.experiments.grid import SET_BY
    from tools import distill_2d, readme_numbers

    known = {*keys_of(Config), *(f"{group}.{key}" for group, (_, declared) in GROUPS.items() for key in keys_of(declared))}
    assert {*SET_BY, *distill_2d.SET_BY, *readme_numbers.SET_BY} <= known
