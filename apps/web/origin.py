# SPDX-License-Identifier: Apache-2.0
"""Which requests the server accepts: those of this page, opened by a name of this machine; and what it may load."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from utils.addresses import OwnHosts

PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self'; font-src 'self' data:; connect-src 'self'; frame-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
"""NiceGUI compiles its templates in the browser, hence 'unsafe-eval'; nothing is loaded from another host."""
VIEW_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "worker-src blob: data:; style-src 'unsafe-inline'; img-src data: blob:; connect-src data: blob:; "
    "frame-ancestors 'self'"
)
"""Of the exported scene, a page that needs nothing from anywhere and may only draw."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
CLOSED_BY_POLICY = 1008


class OriginGuard:
    """ASGI middleware: refuses foreign names (400) and foreign origins (403), and adds the policies above.

    It takes requests and WebSockets alike. Programs that are no browsers send no Origin and are let through.
    """

    def __init__(self, app: ASGIApp, own: OwnHosts) -> None:
        self.app, self.own = app, own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = self._problem(scope, headers)
        if problem is not None:
            await _refuse(scope, receive, send, *problem)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    added[name] = value
                added.setdefault("Content-Security-Policy", PAGE_POLICY)
            await send(message)

        await self.app(scope, receive, send_with_policy)

    def _problem(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """(status, sentence) of what is wrong with a request; None when it may pass."""
        host = headers.get("host", "")
        if not self.own.accepts(host):
            return (
                400,
                f"This server does not answer as {host[:100]!r}; open it by its own address, or see --allow_host.",
            )
        if self.own.is_foreign(headers.get("origin"), host):
            return 403, "This request comes from another site; open the page itself."
        is_navigation = scope.get("path") == "/" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_navigation:
            return 403, "This request comes from another site; open the page itself."
        return None


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":  # before it is accepted: the client gets HTTP 403
        await send({"type": "websocket.close", "code": CLOSED_BY_POLICY, "reason": sentence[:120]})
    else:
        await PlainTextResponse(sentence, status)(scope, receive, send)
