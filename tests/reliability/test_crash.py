# SPDX-License-Identifier: Apache-2.0
"""A slice of `make crashtest`: a few SIGKILLs at random moments."""

from tests.reliability.crash import EVERY, crash


def test_a_killed_run_goes_on_to_the_same_end(tmp_path) -> None:
    """Within, the run is compared with the unbroken one and each kill's loss with the interval."""
    figures = crash(tmp_path, kills=3, seed=1, test_ratio=1, iterations=16)
    assert figures.kills == 3 and figures.runs_finished >= 1 and figures.most_lost <= EVERY
