# SPDX-License-Identifier: Apache-2.0
"""What the server's log holds of a browser that gives up a request, and of answers that the server's end cuts off."""

import asyncio
import inspect
import logging

import pytest
import uvicorn

from apps.web.disconnects import CUT_OFF, NO_RESPONSE, GivenUpRequests


@pytest.mark.parametrize(
    ("error", "is_printed"),
    [(RuntimeError(NO_RESPONSE), False), (asyncio.CancelledError(), False), (RuntimeError("no memory"), True), (None, True)],
)
def test_a_request_that_was_given_up_is_no_error_and_others_are(error, is_printed) -> None:
    info = None if error is None else (type(error), error, None)
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "Exception in ASGI application", None, info)
    assert GivenUpRequests().filter(record) == is_printed


def test_the_end_of_the_server_is_no_error() -> None:
    assert f'"{CUT_OFF}"' in inspect.getsource(uvicorn.Server.shutdown)
    for message in (CUT_OFF, "Traceback (most recent call last):\n  ...\nasyncio.exceptions.CancelledError\n\n"):
        assert not GivenUpRequests().filter(logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, message, (), None))
