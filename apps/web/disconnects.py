# SPDX-License-Identifier: Apache-2.0
"""An answer that nobody waits for, as after leaving the page, or that the server's end cuts off, is no error of it."""

import asyncio
import logging

NO_RESPONSE = "No response returned."
"""What Starlette's BaseHTTPMiddleware, which NiceGUI uses, raises for a request that was given up."""
CUT_OFF = "Cancel %s running task(s), timeout graceful shutdown exceeded"
"""What uvicorn logs when it ends with answers on their way; each of them then ends with a CancelledError.

So does the application on a second Ctrl-C: its stack trace is the message.
"""


class GivenUpRequests(logging.Filter):
    """Of uvicorn's log: leaves these out, which would be printed as errors, with stack traces."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is printed."""
        error = record.exc_info[1] if record.exc_info else None
        is_given_up = isinstance(error, RuntimeError) and str(error) == NO_RESPONSE
        is_cut_off = isinstance(error, asyncio.CancelledError) or str(record.msg).rstrip().endswith("CancelledError")
        return not (is_given_up or is_cut_off or record.msg == CUT_OFF)
