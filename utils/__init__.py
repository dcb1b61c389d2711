# SPDX-License-Identifier: Apache-2.0
"""What every part of the program uses: files, devices, streams, signals, words; nothing of it knows a scene."""
