# SPDX-License-Identifier: Apache-2.0
"""The toy world: analytic objects, a ray caster, captions. It is the ground truth of both embedded priors."""
