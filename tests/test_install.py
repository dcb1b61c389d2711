# SPDX-License-Identifier: Apache-2.0
"""`pip install .` into a fresh virtual environment: the library beside a project's own modules, and the console commands."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from cograd3d.cli import COMMANDS
from tests.checkout import ROOT

PROJECT_TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS, VERSION = PROJECT_TABLE["scripts"], PROJECT_TABLE["version"]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "output", "tests", "benchmarks", "*.egg-info", "*.so", "__pycache__", "shared")

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
IN_THE_TREE_ALONE = {".ci", "benchmarks", "examples", "tests"}
SENT_TO = {"docs", "submodules"}  # by messages: in the source distribution, not installed

# Another trainer, whose modules have the names of ours.
PROJECT = {
    "utils.py": "NAME = 'utils of the project'\n",
    "arguments/__init__.py": "NAME = 'arguments of the project'\n",
    "main.py": """
import arguments, utils
import torch
from cograd import CoGrad, CoGradParams

generator = torch.Generator().manual_seed(0)
cograd = CoGrad(CoGradParams(azimuth_levels=2, max_t_difference=500, max_step_share=0.9), torch.linspace(0.999, 0.001, 1000), 20)
for step in range(1, 21):
    plan = cograd.plan(step, 2, generator)
    poses = cograd.grid.sample_poses(plan.regions, generator)
    gradients = [{"points": torch.full((5, 3), float(v + step))} for v in range(2)]
    for v in range(2):
        cograd.fuse(step, plan.regions[v], plan.t[v], gradients[v])
    cograd.observe(step, plan.regions, plan.t, torch.ones(2), gradients)
print(arguments.NAME, utils.NAME, int(cograd.maps()["visits"].sum()), poses.radius.shape)
try:
    CoGradParams(tau=-1)
except ValueError as error:
    print(error)
""",
}

# Makes a compiled module impossible to find, as where it was never installed.
WITHOUT = """
import sys

class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "{module}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name="{module}")

sys.meta_path.insert(0, Missing)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """bin/ of an environment that has the packages of this one, and of this tree only what pip has installed."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    for stale in ("cograd3d/program/distillation/laws", "cograd"):  # of an earlier build, and deleted since
        (folder / "source" / "build" / "lib" / stale).mkdir(parents=True)
        (folder / "source" / "build" / "lib" / stale / "gone.py").touch()
    words = ["-c", "from setuptools.build_meta import build_sdist; build_sdist('..')"]
    made = subprocess.run([sys.executable, *words], cwd=folder / "source", capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    words = ["--disable-pip-version-check", "--python", str(python), "install", "-q", "--no-deps", "--no-build-isolation"]
    pip = subprocess.run([sys.executable, "-m", "pip", *words, str(folder / "source")], capture_output=True, text=True)
    assert pip.returncode == 0, pip.stderr
    shutil.rmtree(folder / "source")
    assert {path.name for path in site.iterdir() if path.is_dir() and path.suffix != ".dist-info"} == {"cograd", "cograd3d"}
    return python.parent


@pytest.fixture
def run(installed, tmp_path, monkeypatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program of the environment from a folder that is not the checkout."""
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return subprocess.run([installed / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=600)

    return run


def _in_folders(but: set[str]) -> set[str]:
    """The files in git of all folders but these."""
    return {path for path in TRACKED if "/" in path and path.partition("/")[0] not in but}


def test_every_file_of_the_program_is_installed_and_nothing_of_an_earlier_build(installed) -> None:
    site = Path(sysconfig.get_path("purelib", vars={"base": str(installed.parent)}))
    there = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    there = {path.removeprefix("cograd3d/program/") for path in there if ".dist-info/" not in path and "/" in path}
    expected = _in_folders(IN_THE_TREE_ALONE | SENT_TO)
    assert {"evaluation/janus_calibration.json", "apps/web/page.css"} <= expected
    assert sorted(expected - there) == []
    extra = there - expected - {"cograd3d/program/__init__.py", "app.py", "train.py", "setup.py"}
    assert sorted(extra) == []


def test_the_source_distribution_has_what_messages_send_people_to(installed) -> None:
    with tarfile.open(next(installed.parents[1].glob("*.tar.gz"))) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    assert sorted(_in_folders(IN_THE_TREE_ALONE) - there) == []
    assert {"Makefile", "requirements-extra.txt", "requirements.lock", "setup.py", "train.py"} <= there
    assert not [name for name in there if name.startswith("tests/") or name.endswith((".so", "gone.py"))]


def test_the_library_works_beside_a_projects_own_utils_and_arguments(run, tmp_path) -> None:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    made = run("python", "main.py")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines() == [
        "arguments of the project utils of the project 40 torch.Size([2])",
        "CoGradParams.tau is -1; expected a number >= 1e-06 and <= 1e+09",
    ]


def test_two_steps_of_the_quickstart_from_another_folder(run, tmp_path) -> None:
    (tmp_path / "utils.py").write_text("raise SystemExit('the utils of another project was imported')\n")
    words = "--opt configs/quickstart.yaml --iterations 2 --image_w 16 --image_h 16 --init_num_pts 100 --save_video false"
    made = run("cograd3d-train", *words.split())
    assert made.returncode == 0 and "The scene is in output/quickstart/point_cloud" in made.stdout, made.stderr
    assert (tmp_path / "output" / "quickstart" / "point_cloud" / "iteration_2" / "point_cloud.ply").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"utils.py", "output"}


def test_help_and_a_wrong_word_name_the_command(run) -> None:
    shown = run("cograd3d-train", "--help")
    assert shown.returncode == 0 and "cograd3d-train --opt" in shown.stdout and "train.py" not in shown.stdout
    for words in (["cograd3d-export", "--version"], ["python", "-m", "cograd3d", "--version"]):
        assert run(*words).stdout == f"cograd3d {VERSION}, revision unknown\n"
    shown = [run(command, "--help").stdout for command in SCRIPTS if command != "cograd3d-train"]
    assert [text for text in shown if not text or re.search(r"python (-m )?tools.(export|evaluate|reproduce)", text)] == []
    code = "import sys; from cograd3d.cli import PROGRAM; sys.path[0] = str(PROGRAM); from utils import missing_module as m; "
    assert run("python", "-c", code + "print(m.how_to_install())").stdout == "pip install 'cograd3d[extra]'\n"
    refused = run("python", "-m", "cograd3d", "trian")
    assert refused.returncode == 1 and "the command is 'trian'; expected one of train, export" in refused.stderr


@pytest.mark.parametrize(
    "words",
    ["train", "export nowhere --format ply", "evaluate nowhere", "reproduce --prior toy --part x", "app --port 99999"],
)
def test_a_refusal_begins_with_the_command_that_was_typed(run, words) -> None:
    name, *rest = words.split()
    refused = run(f"cograd3d-{name}", *rest)
    assert refused.returncode == 2 and refused.stderr.startswith(f"cograd3d-{name}: "), refused.stderr


def test_every_command_has_its_main(run) -> None:
    assert {f"cograd3d-{name}": f"cograd3d.cli:{name}" for name in COMMANDS} == SCRIPTS
    code = (
        "import importlib, sys; from cograd3d.cli import COMMANDS, PROGRAM; sys.path.insert(0, str(PROGRAM)); "
        "print(*(importlib.import_module(name).main.__name__ for name in COMMANDS.values()), PROGRAM.name)"
    )
    made = run("python", "-c", code)
    assert made.stdout.split() == ["main"] * len(COMMANDS) + ["program"], made.stderr


@pytest.mark.parametrize("module", ["diff_gaussian_rasterization", "simple_knn"])
def test_a_compiled_module_that_is_missing_is_one_sentence(run, tmp_path, module) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(module=module))
    words = "--opt quickstart --iterations 1 --image_w 16 --image_h 16 --init_num_pts 50"
    refused = run("cograd3d-train", *words.split(), PYTHONPATH=str(tmp_path))
    folder = module.replace("_", "-")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"cograd3d-train: the compiled module {module} is not installed; in the source tree of cograd3d run "
        f"pip install --no-build-isolation ./submodules/{folder}"
    ]
