# SPDX-License-Identifier: Apache-2.0
"""What the server's log holds of a browser that gives up a request."""

import logging

import pytest

from apps.web.disconnects import NO_RESPONSE, GivenUpRequests


@pytest.mark.parametrize(
    ("error", "is_printed"), [(RuntimeError(NO_RESPONSE), False), (RuntimeError("no memory"), True), (None, True)]
)
def test_a_request_that_was_given_up_is_no_error_and_others_are(error, is_printed) -> None:
    info = None if error is None else (type(error), error, None)
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "Exception in ASGI application", None, info)
    assert GivenUpRequests().filter(record) == is_printed
