# SPDX-License-Identifier: Apache-2.0
"""A run of train.py: its folder, state, steps, checkpoints, outputs and faults."""
