# SPDX-License-Identifier: Apache-2.0
"""The distillation losses by name, as `GuidanceParams.loss` chooses them: each has a file of its own."""

from arguments import GuidanceParams
from guidance.losses.base import Loss, Residual
from guidance.losses.ism import ISM
from guidance.losses.sds import SDS

__all__ = ["LOSSES", "Loss", "Residual", "make_loss"]

LOSSES: dict[str, type[Loss]] = {"ism": ISM, "sds": SDS}


def make_loss(params: GuidanceParams) -> Loss:
    """The loss that the settings name."""
    return LOSSES[params.loss_name](params)
