# SPDX-License-Identifier: Apache-2.0
"""Which GPU architectures a library has machine code for, read from the file: no GPU, no CUDA, nothing loaded.

nvcc keeps device code in fat binaries: a header of 16 bytes (magic number, version, size of header, size of what
follows), then an entry for each architecture, whose header says kind (PTX or machine code), sizes and architecture.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass

MAGIC = b"\x50\xed\x55\xba"
HEADER, ENTRY = struct.Struct("<4xHHQ"), struct.Struct("<HxxIQ12xI")  # the entry's first 32 bytes
PTX, MACHINE = 1, 2
MOST = 0.5  # an architecture that fewer of the kernels have was added for a few of them only


@dataclass(frozen=True)
class Code:
    """Numbers of kernels' files by architecture (80 for sm_80): machine code, and PTX that a newer driver compiles."""

    machine: Counter[int]
    ptx: Counter[int]

    @property
    def full(self) -> list[int]:
        """Architectures that have machine code of most kernels."""
        most = max(self.machine.values(), default=0)
        return sorted(arch for arch, count in self.machine.items() if count >= MOST * most)

    def runs_on(self, architecture: int) -> bool:
        """Machine code runs on the same major version from its minor one on; PTX on every later architecture."""
        same = any(arch // 10 == architecture // 10 and arch <= architecture for arch in self.full)
        return same or any(arch <= architecture for arch in self.ptx)

    def __str__(self) -> str:
        told = [f"sm_{arch}" for arch in self.full] + [f"compute_{arch} (PTX)" for arch in sorted(self.ptx)]
        return ", ".join(told) or "no GPU"


def code_in(library: bytes) -> Code:
    """The device code of a shared library."""
    kinds: dict[int, Counter[int]] = {MACHINE: Counter(), PTX: Counter()}
    at = library.find(MAGIC)
    while at >= 0:
        for kind, architecture in _entries(library, at):
            kinds[kind][architecture] += 1
        at = library.find(MAGIC, at + len(MAGIC))
    return Code(kinds[MACHINE], kinds[PTX])


def _entries(library: bytes, at: int) -> list[tuple[int, int]]:
    """(kind, architecture) of each entry of the fat binary at `at`; none where the magic number is there by chance."""
    if at + HEADER.size > len(library):
        return []
    version, size, length = HEADER.unpack_from(library, at)
    found, place = [], at + size
    end = min(place + length, len(library))
    while version == 1 and size == HEADER.size and place + ENTRY.size <= end:
        kind, header, payload, architecture = ENTRY.unpack_from(library, place)
        if kind not in (PTX, MACHINE) or header < ENTRY.size:
            break
        found.append((kind, architecture))
        place += header + payload
    return found
