# SPDX-License-Identifier: Apache-2.0
"""No source file evaluates text, unpickles, starts a shell, or reads a stranger's file or socket without a limit."""

import ast

import pytest

from tests.checkout import ROOT, files

OWN_TOOLS = (
    "apps/", "benchmarks/", "evaluation/ablation/", "evaluation/gpu_check/", "evaluation/pages.py", "evaluation/reproduction/",
    "evaluation/experiments/", "evaluation/run_images.py", "examples/", "export/", "tools/", "toy/training/",
)  # fmt: skip
"""These read back what the project itself wrote: the limit on reading is not asked of them."""

FORBIDDEN_NAMES = {"eval", "exec", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle", "pty"}
FORBIDDEN_CALLS = {"os.system", "os.popen", "os.execv", "os.spawnv", "subprocess.getoutput", "tempfile.mktemp"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}
WHOLE_FILE = {"read", "readlines", "readall", "read_text", "read_bytes"}

ALLOWED = {
    ("utils/machine.py", "info.read_text() has no limit"),  # /proc/cpuinfo
    # the note that the package's own build left beside the library
    ("submodules/diff-gaussian-rasterization/diff_gaussian_rasterization/_cuda.py", "note.read_text() has no limit"),
}


def _sources():
    """Every Python file of the tree but the tests, which must be able to write what is forbidden."""
    return [path for path in files("*.py") if path.relative_to(ROOT).parts[0] != "tests"]


def _keyword(call, name):
    return next((ast.unparse(word.value) for word in call.keywords if word.arg == name), None)


def faults(source, limits=True):
    """What is forbidden in a source text, a sentence each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {name}" for name in modules if name.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in FORBIDDEN_NAMES:
            found.append(f"names {node.id}")
        if isinstance(node, ast.Call):
            found += list(_call_faults(node, limits))
    return found


def _call_faults(call, limits):
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    shown = f"{name}({', '.join(map(ast.unparse, call.args))})"
    if name in FORBIDDEN_CALLS:
        yield f"calls {name}"
    if _keyword(call, "shell") not in (None, "False"):
        yield f"{name} with a shell"
    if name == "torch.load" and _keyword(call, "weights_only") != "True":
        yield "torch.load without weights_only=True"
    if _keyword(call, "allow_pickle") not in (None, "False"):
        yield f"{name} with pickle"
    if _keyword(call, "trust_remote_code") not in (None, "False"):
        yield f"{name} trusts remote code"
    if name.split(".")[0] == "yaml" and last in UNSAFE_YAML:
        yield f"{name} instead of a safe loader"
    if limits and isinstance(call.func, ast.Attribute) and last in WHOLE_FILE and not call.args:
        yield f"{shown} has no limit"


def test_nothing_forbidden_in():
    found = []
    for path in _sources():
        name = path.relative_to(ROOT).as_posix()
        limits = not name.startswith(OWN_TOOLS)
        found += [(name, fault) for fault in faults(path.read_text(encoding="utf-8"), limits)]
    assert [pair for pair in found if pair not in ALLOWED] == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "run = exec",
        "import pickle",
        "from dill import loads",
        "import marshal as m",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.full_load(text)",
        "Model.from_pretrained(key, trust_remote_code=True)",
        "open(path).read()",
        "path.read_text(encoding='utf-8')",
        "connection.makefile().readlines()",
    ],
)
def test_the_walk_finds(source):
    assert len(faults(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "eval: bool = False",
        "re.compile('a')",
        "torch.load(path, weights_only=True)",
        "file.read(10)",
        "connection.recv(10)",
        "yaml.safe_load(text)",
        "np.load(path)",
        "read_text(path, 100)",
    ],
)
def test_the_walk_allows(source):
    assert faults(source) == []


def test_every_room_was_seen():
    rooms = {path.relative_to(ROOT).parts[0] for path in _sources()}
    assert {"train.py", "arguments", "cograd", "guidance", "scene", "submodules", "tools", "utils"} <= rooms


def test_every_exception_is_still_needed():
    assert {(name, fault) for name, _ in ALLOWED for fault in faults((ROOT / name).read_text())} >= ALLOWED
