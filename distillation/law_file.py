# SPDX-License-Identifier: Apache-2.0
"""A user's own law, from a file that the command line names: `FILE.py:NAME`, NAME a `Law` at the file's top level."""

import functools
import importlib.util
import re
import sys
import zlib
from pathlib import Path

from distillation.law import Law, LawMistake

LAW_FILE = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_law_file(text: str) -> bool:
    """Whether a value of `GuidanceParams.distillation` names a file."""
    return LAW_FILE.fullmatch(text) is not None


def law_path(text: str) -> Path:
    """The file that such a value names."""
    found = LAW_FILE.fullmatch(text)
    assert found is not None, text
    return Path(found["path"])


def read_law(text: str) -> Law:
    """The law that FILE.py:NAME names; the file is run once, whatever it does. Raises ValueError, one sentence.

    Modules beside the file can be imported, in functions too; those of the program and of packages come first.
    """
    found = LAW_FILE.fullmatch(text)
    assert found is not None, text
    path = Path(found["path"]).absolute()
    if not path.is_file():
        raise ValueError(f"a file that exists: there is no {path}")
    law = _contents(path).get(found["name"])
    if not isinstance(law, Law):
        what = "no such name" if law is None else f"a {type(law).__name__}"
        raise ValueError(f"a distillation.Law called {found['name']} in {path}, which has {what}")
    return law


@functools.cache
def _contents(path: Path) -> dict[str, object]:
    """What a file defines."""
    name = f"law_file_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except LawMistake as error:
        raise ValueError(f"a law that can be used; in {path} {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"a file that Python can run; {path} raises {reason}") from error
    return vars(module)
