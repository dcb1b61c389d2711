# SPDX-License-Identifier: Apache-2.0
"""Import it, and the network samples of settings are counted once a process: many tests plan the same tables."""

from arguments import Config
from evaluation.experiments import budget

_count, _counted = budget.samples_a_view, dict[str, float]()


def _samples_a_view(config: Config) -> float:
    key = repr((config.guidance, config.cograd, config.optimization))
    if key not in _counted:
        _counted[key] = _count(config)
    return _counted[key]


budget.samples_a_view = _samples_a_view
