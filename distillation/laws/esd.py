# SPDX-License-Identifier: Apache-2.0
"""ESD, entropic score distillation: VSD whose q follows the camera by half, which keeps views apart."""

import dataclasses

from distillation.laws import vsd

LAW = dataclasses.replace(vsd.LAW, preset={**vsd.LAW.preset, "camera_guidance": 0.5})
