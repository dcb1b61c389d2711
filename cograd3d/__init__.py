# SPDX-License-Identifier: Apache-2.0
"""The program as an installed package: its command lines are in `cograd3d.cli`, its tree is in `program/`."""
