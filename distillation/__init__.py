# SPDX-License-Identifier: Apache-2.0
"""The distillation laws by name, as `GuidanceParams.distillation` chooses them: each is a file of `distillation/laws/`.

Imports torch and the standard library only. A further law is a further file there, or a user's own file (`read_law`).
"""

import importlib
import pkgutil

from distillation import laws
from distillation.law import DIRECT, GUIDED, INTERVAL, Law, Step, linear
from distillation.law_file import LAW_FILE, is_law_file, law_path, read_law

__all__ = ["DIRECT", "GUIDED", "INTERVAL", "LAWS", "LAW_FILE", "Law", "Step"]
__all__ += ["find_law", "is_law_file", "law_path", "linear"]

LAWS: dict[str, Law] = {
    found.name: importlib.import_module(f"distillation.laws.{found.name}").LAW
    for found in pkgutil.iter_modules(laws.__path__)
}


def find_law(name: str) -> Law:
    """The law that `GuidanceParams.distillation` names: one of LAWS, or FILE.py:NAME. Raises ValueError."""
    return read_law(name) if is_law_file(name) else LAWS[name]
