# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the viewers' tests."""

import pytest

from arguments.load import load_config
from tests.viewer.viewed_run import PAGE, Run
from viewer.viewers import Viewers


@pytest.fixture
def page():
    """(run, url) of a page that nobody looks at yet."""
    lines, config = [], load_config([*PAGE, "--iterations", "100000"])
    with Viewers(config, lines.append) as viewers:
        run = Run(viewers, config)
        yield run, lines[0].split()[2]
        run.stopped = True
