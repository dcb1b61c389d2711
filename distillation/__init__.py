# SPDX-License-Identifier: Apache-2.0
"""The distillation laws by name, as `GuidanceParams.distillation` chooses them: each is a file of `distillation/laws/`.

Imports torch and the standard library only. A further law is a further file there, or a user's own file (`load_law`).
"""

import importlib
import pkgutil

from distillation import laws
from distillation.law import DIRECT, GUIDED, INTERVAL, Law, Step, linear

__all__ = ["DIRECT", "GUIDED", "INTERVAL", "LAWS", "Law", "Step", "find_law", "linear"]

LAWS: dict[str, Law] = {
    found.name: importlib.import_module(f"distillation.laws.{found.name}").LAW
    for found in pkgutil.iter_modules(laws.__path__)
}


def find_law(name: str) -> Law:
    """The law that `GuidanceParams.distillation` names."""
    return LAWS[name]
