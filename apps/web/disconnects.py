# SPDX-License-Identifier: Apache-2.0
"""A browser that gives up a request, as on leaving the page, is no error of the server."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NO_RESPONSE = "No response returned."
"""What Starlette's BaseHTTPMiddleware, which NiceGUI uses, raises for it."""


class DisconnectGuard:
    """ASGI middleware: drops that error where the client is gone, which would be printed with a stack trace."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_gone = False

        async def receive_and_note() -> Message:
            nonlocal is_gone
            message = await receive()
            is_gone = is_gone or message["type"] == "http.disconnect"
            return message

        try:
            await self.app(scope, receive_and_note, send)
        except RuntimeError as error:
            if not (is_gone and str(error) == NO_RESPONSE):
                raise
