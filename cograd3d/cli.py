# SPDX-License-Identifier: Apache-2.0
"""The console commands of `pip install .`: cograd3d-train, -export, -evaluate, -reproduce, -app.

The program's folders have names such as `utils`, which other projects have too. They are installed in
`cograd3d/program/`, and only these commands put that folder on the module path.
"""

import functools
import importlib
import sys
from pathlib import Path
from typing import NoReturn

COMMANDS = {
    "train": "train",
    "export": "tools.export",
    "evaluate": "tools.evaluate",
    "reproduce": "tools.reproduce",
    "app": "app",
}
"""Name of a command -> module whose `main` it calls."""
EXTENSIONS = {"diff_gaussian_rasterization": "diff-gaussian-rasterization", "simple_knn": "simple-knn"}
"""Compiled modules that are installed on their own -> their folder below submodules/ of the source tree."""
HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "program" if (HERE / "program").is_dir() else HERE.parent


def run(name: str) -> NoReturn:
    """Runs a command on the words of sys.argv and exits with its status; 2 where a compiled module is missing."""
    sys.path.insert(0, str(PROGRAM))
    program = importlib.import_module("utils.program")
    program.start_training() if name == "train" else program.start()  # before the imports, which may take seconds
    try:
        main = importlib.import_module(COMMANDS[name]).main
        program.run(main, prints_its_result=name != "train")
    except ModuleNotFoundError as error:
        if error.name not in EXTENSIONS:
            raise
        folder = EXTENSIONS[error.name]
        print(
            f"cograd3d-{name}: the compiled module {error.name} is not installed; in the source tree of cograd3d run "
            f"pip install --no-build-isolation ./submodules/{folder}",
            file=sys.stderr,
        )
    sys.exit(program.REFUSED)


train, export, evaluate, reproduce, app = (functools.partial(run, name) for name in COMMANDS)
