# SPDX-License-Identifier: Apache-2.0
"""A file for each law, whose name is the file's; docs/distillation.md tables them with their sources."""
