# SPDX-License-Identifier: Apache-2.0
"""The live viewer in the browser. A regular package: benchmarks/viewer.py would hide a folder without this file."""
