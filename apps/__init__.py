# SPDX-License-Identifier: Apache-2.0
"""The web page that app.py serves."""
