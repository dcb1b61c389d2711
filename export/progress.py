# SPDX-License-Identifier: Apache-2.0
"""How far an export is: a line of the log at each of its parts, for a program that shows it (apps/web/)."""

import logging

logger = logging.getLogger(__name__)


def report(done: float, part: str) -> None:
    """done: share of the usual time that has passed, 0..1. part: what is done now."""
    logger.info("%.0f %% %s", 100 * done, part)
