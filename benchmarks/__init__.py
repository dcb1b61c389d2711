# SPDX-License-Identifier: Apache-2.0
"""Measurements, each a command line; results/ keeps what they printed."""
