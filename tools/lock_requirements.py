# SPDX-License-Identifier: Apache-2.0
"""Writes requirements*.lock, every package of requirements*.txt and of their dependencies with its files' hashes.

`make lock`, or `python tools/lock_requirements.py` where uv is installed; --upgrade takes the newest release of what
the pins leave open. The locks hold for Linux, macOS and Windows. torch and the CUDA packages that only its Linux wheel
requires are left out: the same release of torch has several builds, one a GPU generation, each with its own hash, and
the user chooses among them (docs/environments.md).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[1]
BASES: dict[str, tuple[str, ...]] = {
    "requirements": (),
    "requirements-extra": ("requirements",),
    "requirements-ray": ("requirements",),
    "requirements-dev": ("requirements-extra", "requirements-ray"),
}
"""Name of a .txt and its .lock -> the names that it builds upon, in the order in which they are written."""
UNLOCKED = re.compile(r"torch|triton|cuda-.*|nvidia-.*")
HEADER = """\
# Written by `make lock` from {name}.txt; do not edit. Install with --no-deps --require-hashes, then torch.
"""

Resolve = Callable[[Sequence[Path], str], str]
"""(requirement files, text of the earlier locks) -> the whole closure, as `pip-compile --generate-hashes` writes it."""


def resolve(requirements: Sequence[Path], earlier: str) -> str:
    """What uv finds on PyPI. Releases that the earlier locks name are kept where the requirements allow them.

    Raises ValueError where uv is not installed or finds no solution.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all.lock"
        out.write_text(earlier, encoding="utf-8")
        words = ["uv", "--no-config", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
        words += ["--generate-hashes", "--no-annotate", "--no-header", "--output-file", str(out)]
        words = [sys.executable, "-m", *words, *map(str, requirements)]
        made = subprocess.run(words, capture_output=True, text=True)
        if made.returncode:
            names = ", ".join(path.name for path in requirements)
            raise ValueError(f"uv made no lock for {names}: {made.stderr.strip()}")
        return out.read_text(encoding="utf-8")


def entries(text: str) -> dict[str, str]:
    """First line of each requirement, "name==version ; marker" -> all its lines, the hashes included."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", "\n" + re.sub(r"(?m)^(#|-r ).*\n", "", text)):
        if block.strip():
            found[block.splitlines()[0].rstrip(" \\")] = block.strip() + "\n"
    return found


def name_of(entry: str) -> str:
    """The package of an entry's first line."""
    return re.split(r"[ =;\[]", entry, maxsplit=1)[0]


def locks(root: Path, resolve: Resolve, upgrade: bool = False) -> dict[str, str]:
    """Name of a lock -> its text: what it adds to those it builds upon, which it names by -r lines."""
    earlier = "" if upgrade else _earlier(root)
    chosen = resolve([root / f"{name}.txt" for name in BASES], earlier)  # one set of versions for all
    texts, whole = dict[str, str](), dict[str, dict[str, str]]()
    for name, bases in BASES.items():
        files = [root / f"{each}.txt" for each in _with_bases(name)]
        found = {key: lines for key, lines in entries(resolve(files, chosen)).items() if not _is_unlocked(key)}
        whole[name] = found
        added = [lines for key, lines in found.items() if not any(key in whole[base] for base in bases)]
        texts[name] = HEADER.format(name=name) + "".join(f"-r {base}.lock\n" for base in bases) + "".join(added)
    return texts


def _earlier(root: Path) -> str:
    """The requirements of the locks that are there."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(root.glob("requirements*.lock"))]
    return "".join("".join(entries(text).values()) for text in texts)


def _is_unlocked(entry: str) -> bool:
    return UNLOCKED.fullmatch(name_of(entry)) is not None


def _with_bases(name: str) -> list[str]:
    return list(dict.fromkeys([*(each for base in BASES[name] for each in _with_bases(base)), name]))


@program.refuses("lock_requirements", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 written, 2 no lock could be made; then none is changed."""
    parser = program.parser(__doc__)
    parser.add_argument("--upgrade", action="store_true", help="the newest releases that the pins allow")
    args = parser.parse_args(argv)
    texts = locks(ROOT, resolve, args.upgrade)
    for name, text in texts.items():
        (ROOT / f"{name}.lock").write_text(text, encoding="utf-8")
        print(f"{name}.lock: {len(entries(text))} packages")
    return 0


if __name__ == "__main__":
    program.run(main)
