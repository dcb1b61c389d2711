# SPDX-License-Identifier: Apache-2.0
"""What the server makes of a browser that gives up a request."""

import asyncio

import pytest

from apps.web.disconnects import NO_RESPONSE, DisconnectGuard


def _serve(message: str, error: str) -> None:
    """A request during which the client sends `message`, and that ends with an error."""

    async def application(scope, receive, send) -> None:
        await receive()
        raise RuntimeError(error)

    async def receive() -> dict[str, str]:
        return {"type": message}

    asyncio.run(DisconnectGuard(application)({"type": "http"}, receive, None))


def test_a_request_that_was_given_up_is_no_error_and_others_are() -> None:
    _serve("http.disconnect", NO_RESPONSE)
    with pytest.raises(RuntimeError, match="No response"):
        _serve("http.request", NO_RESPONSE)
    with pytest.raises(RuntimeError, match="out of memory"):
        _serve("http.disconnect", "out of memory")
