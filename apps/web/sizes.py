# SPDX-License-Identifier: Apache-2.0
"""What runs take of the disk. Measured away from the server's own thread, and again when a run has changed."""

from pathlib import Path

from trainer.disk_use import EXPORTS, total_bytes

CHANGING = ("", "run.json", "log.jsonl", EXPORTS)
"""Parts of a run folder, one of which is newer whenever files were added."""


class Sizes:
    """Remembers, for each folder that somebody has looked at, its size and what it was measured by."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, int]] = {}
        self._due: set[Path] = set()

    def of(self, folder: Path) -> int | None:
        """Bytes, as they were measured last; None before that. A folder that has changed is measured soon."""
        known = self._known.get(folder)
        if known is None or known[0] != _state(folder):
            self._due.add(folder)
        return None if known is None else known[1]

    def measure(self) -> None:
        """Measures what is due; may take a while, so it is called in a thread."""
        while self._due:
            folder = self._due.pop()
            self._known[folder] = _state(folder), total_bytes(folder)


def _state(folder: Path) -> object:
    found = []
    for name in CHANGING:
        try:
            found.append((folder / name).stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return found


def size_in_words(size_bytes: int) -> str:
    """Bytes in words: 900 kB, 12.3 MB, 1.2 GB."""
    if size_bytes < 1e6:
        return f"{-(-size_bytes // 1000)} kB"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:.1f} GB"
