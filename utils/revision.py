# SPDX-License-Identifier: Apache-2.0
"""Which code this is: the project's version and the revision of the checkout. Imports the standard library only."""

import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def code_revision() -> str:
    """The git revision of this checkout, with "+changes" when the tree differs from it; "unknown" without git.

    An installed program is no checkout, even inside another project's.
    """
    if not (ROOT / ".git").exists():
        return "unknown"
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def version_line() -> str:
    """What `--version` prints: version and revision, the latter as run.json has it."""
    project = ROOT / "pyproject.toml"  # not there where the program is installed
    if project.exists():
        with project.open("rb") as file:
            version = tomllib.load(file)["project"]["version"]
    else:
        version = metadata.version("cograd3d")
    return f"cograd3d {version}, revision {code_revision()}"
