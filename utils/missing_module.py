# SPDX-License-Identifier: Apache-2.0
"""A program that this Python lacks a module for ends with one sentence and not with a stack trace."""

import os
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
REFUSED = 2  # as utils.program's, which imports this module
IN_CHECKOUT = (ROOT / "Makefile").is_file()
COMPILED = {"diff_gaussian_rasterization": "diff-gaussian-rasterization", "simple_knn": "simple-knn"}
"""Compiled modules that are installed on their own -> their folder below submodules/ of the source tree."""


def report_missing_modules() -> None:
    """From here on; it costs nothing as long as no import fails. May be called twice."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's own report, but for a module of another project that is not installed. Exits with status 2 then."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not name or name in sys.stdlib_module_names or (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file():
        sys.__excepthook__(kind, error, trace)  # a fault of the program
        return
    print(f"{os.path.basename(sys.argv[0])}: {sentence_of(name, IN_CHECKOUT)}", file=sys.stderr)
    sys.exit(REFUSED)


def sentence_of(name: str, in_checkout: bool) -> str:
    """What is missing, and what to do: in the source tree, or where the program was installed by pip."""
    what = f"the compiled module {name}" if name in COMPILED else f"the module {name}"
    if in_checkout:
        return f"{what} is not installed in {sys.executable}; run make setup once, then use .venv/bin/python"
    if name in COMPILED:
        return (
            f"{what} is not installed; in the source tree of cograd3d run "
            f"pip install --no-build-isolation ./submodules/{COMPILED[name]}"
        )
    return f"{what} is not installed in {sys.executable}; docs/environments.md of cograd3d says what to install"


def how_to_install(extra: str = "extra", in_checkout: bool = IN_CHECKOUT) -> str:
    """The command that installs the packages of requirements-EXTRA.txt, which an installed program has no file of."""
    return f"pip install -r requirements-{extra}.txt" if in_checkout else f"pip install 'cograd3d[{extra}]'"
