# SPDX-License-Identifier: Apache-2.0
"""A distillation law that the run's prior cannot serve: met with the settings."""

from collections.abc import Iterator

from arguments import Config
from arguments.checks import Problem

WITH_PREDICTOR = ("ideal",)
"""Values of `GuidanceParams.guidance` whose prior has `new_predictor`."""


def law_problems(config: Config) -> Iterator[Problem]:
    """A law with a model of the run's own renders, on a prior that makes none; for arguments.load.load_config."""
    params = config.guidance
    if params.law.needs_predictor and params.guidance not in WITH_PREDICTOR:
        expected = (
            "another law: this one needs a model of the run's own renders, which exists for "
            f"GuidanceParams.guidance {' and '.join(WITH_PREDICTOR)}, not for {params.guidance}"
        )
        yield "GuidanceParams.distillation", params.law_name, expected
