# SPDX-License-Identifier: Apache-2.0
"""requirements*.lock: the whole closure of requirements*.txt but torch, each package with hashes; make installs from them."""

import hashlib
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools import lock_requirements as tool

ROOT = tool.ROOT
NAMES = list(tool.BASES)
HASH = r" \\\n    --hash=sha256:[0-9a-f]{64}"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def text_of(name: str) -> str:
    return (ROOT / f"{name}.lock").read_text(encoding="utf-8")


def closure(name: str) -> dict[str, list[Requirement]]:
    """Package -> its entries in a lock and in those that it builds upon."""
    found: dict[str, list[Requirement]] = {}
    for base in tool.BASES[name]:
        assert f"\n-r {base}.lock\n" in text_of(name)
        for package, entries in closure(base).items():
            found.setdefault(package, []).extend(entries)
    for entry in tool.entries(text_of(name)):
        found.setdefault(canonical(tool.name_of(entry)), []).append(Requirement(entry))
    return found


def pins(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / f"{name}.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


def meets(entries: list[Requirement], wanted: Requirement) -> bool:
    """Whether an entry for this machine has a version that is allowed."""
    here = [entry for entry in entries if entry.marker is None or entry.marker.evaluate()]
    return any(wanted.specifier.contains(next(iter(entry.specifier)).version, prereleases=True) for entry in here)


def test_every_requirements_file_has_a_lock() -> None:
    assert sorted(path.stem for path in ROOT.glob("requirements*.txt")) == sorted(NAMES)
    assert sorted(path.stem for path in ROOT.glob("requirements*.lock")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_satisfies_its_pins(name) -> None:
    locked = closure(name)
    for pin in pins(name):
        if canonical(pin.name) != "torch":
            assert meets(locked.get(canonical(pin.name), []), pin), f"{pin} is not in {name}.lock: run make lock"


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_holds_pinned_entries_with_hashes_and_nothing_else(name) -> None:
    """No address, no path and no index of the machine where it was written."""
    bases = "".join(f"-r {base}\\.lock\n" for base in tool.BASES[name])
    entry = rf"[a-z0-9-]+==[A-Za-z0-9.!+]+( ; [^\n\\/:]+)?({HASH})+\n"
    assert re.fullmatch(rf"(# [^\n]*\n)+{bases}({entry})+", text_of(name))


def test_no_lock_pulls_in_a_build_of_torch() -> None:
    packages = closure("requirements-dev")
    assert not [name for name in packages if re.match("torch|nvidia|cuda|triton", name)]


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_is_closed(name) -> None:
    """What each locked package requires on this machine is locked too, or is torch's."""
    locked = closure(name)
    for package in locked:
        try:
            required = metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            continue  # for another system
        for requirement in map(Requirement, required):
            is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if is_needed and requirement.name != "torch":  # which no lock holds
                entries = locked.get(canonical(requirement.name), [])
                assert meets(entries, requirement), f"{package} requires {requirement}"


def test_what_torch_requires_beside_cuda_is_locked() -> None:
    locked = closure("requirements")
    wanted = [Requirement(line) for line in metadata.requires("torch") or []]
    here = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    plain = [r for r in here if not tool.UNLOCKED.fullmatch(r.name)]
    assert plain and all(meets(locked.get(canonical(r.name), []), r) for r in plain)


RESOLVED = """\
a==1.0 \\
    --hash=sha256:{0} \\
    --hash=sha256:{1}
b==2.0 ; python_full_version < '3.12' \\
    --hash=sha256:{0}
b==3.0 ; python_full_version >= '3.12' \\
    --hash=sha256:{1}
nvidia-cublas==13 ; sys_platform == 'linux' \\
    --hash=sha256:{0}
torch==2.13.0 \\
    --hash=sha256:{0}
""".format("0" * 64, "1" * 64)


def test_each_lock_adds_to_those_below_it(tmp_path) -> None:
    asked = []

    def resolve(files, earlier):
        asked.append(([path.name for path in files], earlier))
        extra = f"c==1 \\\n    --hash=sha256:{'2' * 64}\n" if any("extra" in path.name for path in files) else ""
        return RESOLVED + extra

    (tmp_path / "requirements.lock").write_text("# old\n" + RESOLVED)
    texts = tool.locks(tmp_path, resolve)
    assert [key.split(" ;")[0] for key in tool.entries(texts["requirements"])] == ["a==1.0", "b==2.0", "b==3.0"]
    assert texts["requirements-extra"].endswith(f"-r requirements.lock\nc==1 \\\n    --hash=sha256:{'2' * 64}\n")
    assert tool.entries(texts["requirements-dev"]) == {}
    assert asked[0] == ([f"{name}.txt" for name in NAMES], RESOLVED)  # what was locked is kept
    assert all(earlier.startswith(RESOLVED) for _, earlier in asked[1:])  # one set of versions
    assert asked[2][0] == ["requirements.txt", "requirements-extra.txt"]
    asked.clear()
    tool.locks(tmp_path, resolve, upgrade=True)
    assert asked[0][1] == ""


def test_where_no_lock_can_be_made_none_is_changed(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "requirements.lock").write_text("old")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "resolve", lambda files, earlier: tool_fails())
    assert tool.main([]) == 2
    assert capsys.readouterr().err == "lock_requirements: no solution\n"
    assert (tmp_path / "requirements.lock").read_text() == "old"


def tool_fails() -> str:
    raise ValueError("no solution")


def test_make_installs_nothing_without_hashes_but_torch_and_our_own_extensions(tmp_path) -> None:
    words = ["make", "-n", "setup-dev", f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [line.split(" install ", 1)[1] for line in told.splitlines() if "-m pip " in line]
    locked = [line for line in installs if "--no-deps --require-hashes -r requirements" in line]
    others = [line for line in installs if line not in locked]
    assert [re.search(r"requirements\S*", line)[0] for line in locked] == [
        "requirements.lock", "requirements-extra.lock", "requirements-dev.lock"
    ]  # fmt: skip
    assert len(others) == 2 and "^torch==" in others[0] and "--no-deps" in others[1] and "./submodules/" in others[1]


def test_gpl_dependencies_are_named_in_the_licence_paragraph() -> None:
    paragraph = (ROOT / "README.md").read_text(encoding="utf-8").split("## Licence", 1)[1]
    found = []
    for package in closure("requirements-extra"):
        try:
            told = metadata.metadata(package)
        except metadata.PackageNotFoundError:
            continue
        licences = [line for line in told.get_all("Classifier", []) if line.startswith("License ::")]
        licences += [told.get("License-Expression") or ""]
        is_gpl = any(re.search(r"(?<![AL])GPL", licence) for licence in licences)
        if is_gpl and not any(re.search("BSD|MIT|Apache|Public Domain", licence) for licence in licences):
            found.append(package)
    assert "plyfile" in found
    assert all(package in paragraph for package in found), found


def test_the_video_program_is_the_gpl_one_that_the_licence_paragraph_names() -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    program = Path(imageio_ffmpeg.get_ffmpeg_exe())
    if program.parent.name != "binaries":
        pytest.skip("another ffmpeg is used here")
    told = subprocess.run([program, "-L"], capture_output=True, text=True).stdout
    assert "GNU General Public License" in told and "version 3" in told


@pytest.mark.parametrize("is_the_locked_file", [True, False])
def test_another_file_under_the_same_name_is_refused(tmp_path, is_the_locked_file) -> None:
    """With the words that make uses, from a mirror of one package."""
    wheel = tmp_path / "tiny_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n")
        archive.writestr("tiny_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_package-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes() if is_the_locked_file else b"what PyPI has").hexdigest()
    (tmp_path / "a.lock").write_text(f"tiny-package==1.0 \\\n    --hash=sha256:{digest}\n")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (words,) = re.findall(r"^LOCKED := \$\(PIP\) (install .*)$", makefile, re.MULTILINE)
    pip = [sys.executable, "-m", "pip", "--isolated", *words.split(), "--target", str(tmp_path / "there")]
    local = ["--no-index", "--find-links", str(tmp_path), "-r", str(tmp_path / "a.lock")]
    made = subprocess.run([*pip, *local], capture_output=True, text=True)
    assert (made.returncode == 0) == is_the_locked_file, made.stderr
    assert (tmp_path / "there").exists() == is_the_locked_file
