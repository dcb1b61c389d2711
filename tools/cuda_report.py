# SPDX-License-Identifier: Apache-2.0
"""Table of registers, stack and spills of the installed CUDA kernels, from the compiler's report that lies beside them.

    python tools/cuda_report.py          # exit status 1 if a kernel spills or uses the stack
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import importlib.util
import re
from dataclasses import dataclass

PACKAGE = "diff_gaussian_rasterization"


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture; sizes in bytes, spills as stores + loads."""

    name: str
    arch: str
    registers: int
    stack: int
    spills: int
    shared: int

    @property
    def stays_in_registers(self) -> bool:
        return self.stack == 0 and self.spills == 0


def plain_name(mangled: str) -> str:
    """The function's own name: the last of the length-prefixed names before the parameters."""
    name, rest = mangled, mangled.removeprefix("_ZN").removeprefix("_Z")
    while match := re.match(r"\d+", rest):
        length = int(match.group())
        rest = rest[match.end() :]
        name, rest = rest[:length], rest[length:]
    return name


def parse(report: str) -> list[Kernel]:
    """The kernels in the output of `ptxas -v`."""
    pattern = re.compile(
        r"entry function '(?P<name>\w+)' for '(?P<arch>\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    kernels = []
    for m in pattern.finditer(report):
        shared = re.search(r"(\d+) bytes smem", m["rest"])
        spills = int(m["stores"]) + int(m["loads"])
        size = int(shared.group(1)) if shared else 0
        kernels.append(
            Kernel(plain_name(m["name"]), m["arch"], int(m["registers"]), int(m["stack"]), spills, size)
        )
    return kernels


def installed_report() -> tuple[list[Kernel], str]:
    """Kernels of the installed rasterizer, or none and the reason."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return [], f"{PACKAGE} is not installed"
    path = Path(spec.origin).with_name("_cuda_kernels.txt")
    if not path.is_file():
        return [], f"{PACKAGE} was built without CUDA"
    text = path.read_text()
    return parse(text), "" if path.with_suffix(".so").is_file() else text.strip()


def table(kernels: list[Kernel]) -> str:
    """One line per kernel: registers by architecture, then shared memory, and spills where there are any."""
    archs = sorted({k.arch for k in kernels}, key=lambda a: int(a.removeprefix("sm_")))
    lines = [f"{'kernel':18s}" + "".join(f"{a:>7s}" for a in archs) + "  shared  stack  spills"]
    for name in dict.fromkeys(k.name for k in kernels):
        own = {k.arch: k for k in kernels if k.name == name}
        worst = max(own.values(), key=lambda k: (k.spills, k.stack))
        registers = "".join(f"{own[a].registers if a in own else '-':>7}" for a in archs)
        lines.append(f"{name:18s}{registers}{worst.shared:8d}{worst.stack:7d}{worst.spills:8d}")
    return "\n".join(lines)


@program.refuses("cuda_report", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Exit status: 0 every kernel stays in registers, 1 one does not."""
    program.parser(__doc__).parse_args(argv)
    kernels, why = installed_report()
    print(f"{PACKAGE}: {why or 'registers by architecture; bytes of shared memory, stack and spills'}")
    if kernels:
        print(table(kernels))
    return 0 if all(k.stays_in_registers for k in kernels) else 1


if __name__ == "__main__":
    program.run(main)
