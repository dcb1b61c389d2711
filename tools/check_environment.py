# SPDX-License-Identifier: Apache-2.0
"""Whether environment.yml and requirements.txt can be installed, and with which CUDA torch is then built.

`python tools/check_environment.py`: pip resolves the requirements without installing anything (older versions of pip
download what they would install), once as they stand and once with the package index that environment.yml keeps behind
a "#" for the V100. What cannot be reached from here counts as not checked. Exit
status: 1 when something is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
FIRST_CUDA_WITHOUT_VOLTA = 13
ADDED_PLACES = ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `state`: ok, wrong, or not checked."""

    state: str
    what: str

    def __str__(self) -> str:
        return f"{self.state:>11}: {self.what}"


Run = Callable[[Sequence[str], bool], "subprocess.CompletedProcess[str]"]


def pip(arguments: Sequence[str], plain: bool = False) -> subprocess.CompletedProcess[str]:
    """pip of this Python; plain: without this machine's configuration of it, so that only the named index is used."""
    environ = {name: value for name, value in os.environ.items() if not (plain and name in ADDED_PLACES)}
    environ |= {"PIP_CONFIG_FILE": os.devnull} if plain else {}
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


def check_files(environment: dict[str, Any], requirements: str, root: Path = ROOT) -> list[Finding]:
    """Pins, and that environment.yml installs what is here."""
    lines = [line.split("#")[0].strip() for line in requirements.splitlines()]
    loose = [line for line in lines if line and not re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==[\w.]+", line)]
    found = [Finding("wrong", f"requirements.txt: {line!r} is no pin such as name==1.2") for line in loose]
    entries: list[str] = next((entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)), [])
    paths = [entry.removeprefix("-r ").strip() for entry in entries if not entry.startswith("--")]
    gone = [path for path in paths if not (root / path).exists()]
    found += [Finding("wrong", f"environment.yml installs {path}, which is not here") for path in gone]
    if "requirements.txt" not in paths:
        found.append(Finding("wrong", "environment.yml does not install requirements.txt"))
    return found or [
        Finding("ok", f"{len([x for x in lines if x])} requirements are pinned, environment.yml installs them")
    ]


def volta_index(environment: str) -> str | None:
    """The package index that environment.yml names for the V100, behind a "#"."""
    match = re.search(r"#\s*-\s*--extra-index-url\s+(\S+)", environment)
    return match.group(1) if match else None


def check_index(index: str, pin: str, run: Run = pip) -> Finding:
    """Whether the V100's index has a CUDA build of torch at the version that requirements.txt pins."""
    words = ["index", "versions", "torch", "--index-url", index, "--retries", "0", "--timeout", "15"]
    versions = re.findall(r"\d[\w.+]*", (re.findall(r"Available versions: (.*)", run(words, True).stdout) or [""])[0])
    if not versions:
        return Finding("not checked", f"{index}, the V100's index, cannot be reached from here, or has no torch")
    builds = [version for version in versions if version.partition("+")[0] == pin and "+cu" in version]
    if not builds:
        return Finding(
            "wrong", f"{index} has no torch {pin} but {', '.join(versions[:3])}; change the pin or the index"
        )
    return Finding("ok", f"{index} has torch {builds[0]}")


def resolve(requirements: Path, run: Run = pip, index: str | None = None) -> tuple[Finding, dict[str, Any] | None]:
    """What pip would install on a fresh machine, with an index more or without, and torch's metadata."""
    where = "the V100's index" if index else "pip's own indexes"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = ["install", "--dry-run", "--quiet", "--ignore-installed", "--report", str(report)]
        made = run([*words, *(["--extra-index-url", index] if index else []), "-r", str(requirements)], False)
        if made.returncode or not report.is_file():
            last = next((line for line in reversed(made.stderr.splitlines()) if line.startswith("ERROR")), "pip failed")
            return Finding("wrong", f"requirements.txt with {where}: {last.removeprefix('ERROR: ')}"), None
        packages = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return _resolved(packages, where)


def _resolved(packages: list[dict[str, Any]], where: str) -> tuple[Finding, dict[str, Any] | None]:
    torch = next((p for p in packages if p["name"].lower() == "torch"), None)
    if any(p["name"].lower() == "torchvision" for p in packages):
        return Finding(
            "wrong", f"requirements.txt with {where} pulls in torchvision; leave out what requires it"
        ), torch
    version = torch["version"] if torch else "no"
    return Finding("ok", f"requirements.txt resolves with {where}: {len(packages)} packages, torch {version}"), torch


def check_volta(environment: str, requirements: Path, run: Run = pip) -> list[Finding]:
    """The variant of environment.yml for the V100."""
    index, pin = volta_index(environment), re.search(r"^torch==([\w.]+)", requirements.read_text(), re.MULTILINE)
    if index is None or pin is None:
        return [Finding("wrong", "environment.yml names no index for the V100, or requirements.txt no torch==VERSION")]
    found = check_index(index, pin.group(1), run)
    if found.state != "ok":
        return [found]
    resolved, torch = resolve(requirements, run, index)
    return [found, resolved] + ([check_cuda(torch, for_volta=True)] if torch else [])


def check_cuda(torch: dict[str, Any], for_volta: bool) -> Finding:
    """The CUDA version of a build of torch, from what its metadata asks for."""
    requires = " ".join(torch.get("requires_dist") or [])
    match = re.search(r"cuda-toolkit\S*?==(\d+)", requires) or re.search(r"nvidia-[\w-]+-cu(\d+)\b", requires)
    local = re.search(r"\+cu(\d\d)\d", torch["version"])
    if not match and not local:
        what = "a CPU build, by this machine's configuration of pip; where it is not so configured it is another"
        return Finding("not checked", f"torch {torch['version']} is {what}")
    cuda = int((match or local).group(1))
    serves = cuda < FIRST_CUDA_WITHOUT_VOLTA
    if for_volta and not serves:
        return Finding("wrong", f"torch {torch['version']} for the V100 is built with CUDA {cuda}, which has no sm_70")
    return Finding(
        "ok", f"torch {torch['version']} is built with CUDA {cuda}, which {'has' if serves else 'dropped'} sm_70"
    )


def main(argv: Sequence[str] | None = None, run: Run = pip) -> int:
    """Prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    requirements = ROOT / "requirements.txt"
    text = (ROOT / "environment.yml").read_text()
    found = check_files(yaml.safe_load(text), requirements.read_text())
    finding, torch = resolve(requirements, run)
    found += [finding] + ([check_cuda(torch, for_volta=False)] if torch else [])
    found += check_volta(text, requirements, run)
    counts = {state: sum(f.state == state for f in found) for state in ("ok", "wrong", "not checked")}
    print("\n".join(map(str, found)), "\n" + ", ".join(f"{n} {state}" for state, n in counts.items()))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    program.run(main)
