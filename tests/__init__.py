# SPDX-License-Identifier: Apache-2.0
"""The tests: `make test`."""
