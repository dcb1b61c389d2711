# SPDX-License-Identifier: Apache-2.0
"""What load_config refuses, for its tests."""

import pytest

from arguments.load import ConfigError, load_config

TEXT = ["--text", "a red mug"]


def problems(argv):
    """The sentences of the ConfigError that `argv` must raise."""
    with pytest.raises(ConfigError) as caught:
        load_config(argv)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def only_problem(argv):
    found = problems(argv)
    assert len(found) == 1, found
    return found[0]
