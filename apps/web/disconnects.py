# SPDX-License-Identifier: Apache-2.0
"""A browser that gives up a request, as on leaving the page, is no error of the server."""

import logging

NO_RESPONSE = "No response returned."
"""What Starlette's BaseHTTPMiddleware, which NiceGUI uses, raises for it."""


class GivenUpRequests(logging.Filter):
    """Of uvicorn's log: leaves out that error, which would be printed with a stack trace."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is printed."""
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, RuntimeError) and str(error) == NO_RESPONSE)
