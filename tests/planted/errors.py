# SPDX-License-Identifier: Apache-2.0
"""The errors that tests/mutations.py plants, and the tests that ought to see each."""

from tests.planted import method, programs
from tests.planted.error import Planted

ERRORS: list[Planted] = [*method.ERRORS, *programs.ERRORS]
