# SPDX-License-Identifier: Apache-2.0
"""What a run checks and reports before it starts; `--dry-run` does the same and stops."""

from __future__ import annotations

import logging

from arguments import Config
from arguments.load import load_config
from arguments.no_effect import no_effect_notices
from guidance.image_size import size_notices, size_problems
from guidance.model_files import check_model_files
from guidance.prompt_words import prompt_notices, prompt_problems
from guidance.timestep_checks import timestep_problems

logger = logging.getLogger(__name__)


def read_settings(argv: list[str]) -> Config:
    """The settings of a run from the words of a command line, checked against its prior too.

    Raises ConfigError, and ModelUnavailable for files of a model that cannot be used.
    """
    config = load_config(argv, prompt_problems, size_problems, timestep_problems)
    check_model_files(config)
    return config


def report_notices(config: Config) -> None:
    """One line for everything that is accepted and has no effect."""
    for notices in (prompt_notices, size_notices, no_effect_notices):
        for notice in notices(config):
            logger.warning("%s", notice)
