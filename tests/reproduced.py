# SPDX-License-Identifier: Apache-2.0
"""tools/reproduce.py as the tests call it."""

from tools import reproduce

SMALL = ["--prior", "toy", "--variants", "luciddreamer", "full", "--count", "1", "--seeds", "2"]


def reproduced(out, *words, status: int = 0) -> None:
    """Calls it, and expects its exit status."""
    assert reproduce.main(["--out", str(out), "--jobs", "1", *words]) == status
