# SPDX-License-Identifier: Apache-2.0
"""Guidance: priors (2D diffusion models), prompts, and the losses that distil a prior's prediction into images.

A prior is whatever has the members of `Prior` in prior.py; trainer/priors.py chooses the one of a run.
"""
