# SPDX-License-Identifier: Apache-2.0
"""A pickle that would do something on loading."""

from pathlib import Path


class Payload:
    """What is done: here it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")
