# SPDX-License-Identifier: Apache-2.0
"""Command lines beside train.py: `python tools/NAME.py --help`."""
