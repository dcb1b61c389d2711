# SPDX-License-Identifier: Apache-2.0
"""Plants single errors and runs the tests that ought to see them: python tests/mutations.py [--only WORD]

Not part of the suite. Each error is one replacement of text in one file of a temporary copy; the tests named beside it
then run there. Prints a line an error. Exit status 0 when all were caught, 1 with survivors, 2 where a text to replace is
not there exactly once, or tests fail without any error. About 20 minutes on two cores.

When it was first run, on 2026-11-28, nine of the errors survived; each has a test since, and none is left with a reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from tests.planted.errors import ERRORS, Planted

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 900


def _copy(to: Path) -> None:
    """Every file that Git knows, and those it does not ignore."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def _passes(tree: Path, tests: str) -> bool:
    """Whether all tests pass; a run that takes too long does not."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    try:
        return subprocess.run(words, cwd=tree, capture_output=True, timeout=TIMEOUT_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _outcome(tree: Path, error: Planted, sound: dict[str, bool]) -> str:
    """caught, SURVIVED, or why it could not be tried. `sound`: whether tests pass without an error."""
    path = tree / error.file
    text = path.read_text(encoding="utf-8")
    if text.count(error.old) != 1:
        return f"NOT PLANTED, the text is there {text.count(error.old)} times"
    if error.tests not in sound:
        sound[error.tests] = _passes(tree, error.tests)
    if not sound[error.tests]:
        return "NOT TRIED, its tests fail without it"
    path.write_text(text.replace(error.old, error.new), encoding="utf-8")
    try:
        survived = _passes(tree, error.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    return "SURVIVED" if survived else "caught"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 all caught, 1 survivors, 2 an error that cannot be planted or tests that fail anyway."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="errors whose file or text holds this word")
    args = parser.parse_args(argv)
    errors = [error for error in ERRORS if args.only in f"{error.file} {error.old} {error.new}"]
    outcomes, sound = [], {}
    with tempfile.TemporaryDirectory() as folder:
        _copy(Path(folder))
        for error in errors:
            outcomes.append(_outcome(Path(folder), error, sound))
            print(f"{outcomes[-1]}: {error.file}: {error.old} -> {error.new}", flush=True)
    untried = sum(outcome.startswith("NOT ") for outcome in outcomes)
    survivors = outcomes.count("SURVIVED")
    print(f"{len(errors)} errors: {outcomes.count('caught')} caught, {survivors} survived, {untried} not tried")
    return 2 if untried else 1 if survivors else 0


if __name__ == "__main__":
    program.run(main)
