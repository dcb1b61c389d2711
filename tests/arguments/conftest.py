# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of settings."""

import pytest


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file and returns its path."""

    def _write(text):
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return _write
