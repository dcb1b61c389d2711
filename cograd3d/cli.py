# SPDX-License-Identifier: Apache-2.0
"""The console commands of `pip install .`: cograd3d-train, -export, -evaluate, -reproduce, -app.

The program's folders have names such as `utils`, which other projects have too. They are installed in
`cograd3d/program/`, and only these commands put that folder on the module path.
"""

import functools
import importlib
import sys
from pathlib import Path

COMMANDS = {
    "train": "train",
    "export": "tools.export",
    "evaluate": "tools.evaluate",
    "reproduce": "tools.reproduce",
    "app": "app",
}
"""Name of a command -> module whose `main` it calls."""
HERE = Path(__file__).resolve().parent
PROGRAM = HERE / "program" if (HERE / "program").is_dir() else HERE.parent


def run(name: str) -> None:
    """Runs a command on the words of sys.argv and exits with its status."""
    sys.path.insert(0, str(PROGRAM))
    program = importlib.import_module("utils.program")
    program.start_training() if name == "train" else program.start()  # before the imports, which may take seconds
    main = importlib.import_module(COMMANDS[name]).main
    program.run(main, prints_its_result=name != "train")


train, export, evaluate, reproduce, app = (functools.partial(run, name) for name in COMMANDS)
