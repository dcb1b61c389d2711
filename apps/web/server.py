# SPDX-License-Identifier: Apache-2.0
"""The page's server: NiceGUI's application, and the addresses of what a run leaves, which are a closed list."""

import contextlib
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from fastapi import HTTPException, Query, Response
from fastapi.responses import FileResponse
from nicegui import app, run, ui

from apps.web import outputs
from apps.web.disconnects import GivenUpRequests
from apps.web.drafts import all_presets
from apps.web.exports import FLIPPED, UP, ready_export
from apps.web.job import Job
from apps.web.origin import VIEW_POLICY, OriginGuard
from apps.web.page import draw_page
from apps.web.server_state import ServerState
from utils.addresses import OwnHosts, url_of
from utils.file_formats import FILE_FORMATS
from utils.stop_signals import SIGNALS, ignore_signals

TITLE = "CoGrad3D"
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#4f46e5"/>'
    '<path d="M16 6l9 5v10l-9 5-9-5V11z M7 11l9 5 9-5 M16 16v10" fill="none" stroke="#fff" stroke-width="2" '
    'stroke-linejoin="round"/></svg>'
)
# NiceGUI drops a page that does not answer for this long, and waits 0.4 of it for an answer to a ping: by default 3 s
# and 2 s, which a browser on a busy machine exceeds. A dropped page is loaded again and loses its downloads.
RECONNECT_SECONDS = 120.0
TICK_SECONDS, MEASURE_SECONDS = 0.5, 2.0
LAST_ANSWERS_SECONDS = 3
"""For answers on their way when the server ends: a download that its visitor has paused would never be over."""
FRESH = {"Cache-Control": "no-store"}


def serve(server: ServerState, host: str, port: int, allowed_hosts: Sequence[str] = ()) -> None:
    """Serves the page until the process is stopped; then a run in progress is stopped with a checkpoint.

    allowed_hosts: names that the page is opened by besides this machine's own, such as a proxy's.
    """
    all_presets()  # what takes time, or can be wrong, comes before the address is printed
    logging.getLogger("uvicorn.error").addFilter(GivenUpRequests())
    app.add_middleware(OriginGuard, own=OwnHosts.of(host, allowed_hosts))
    _add_files(server)
    app.timer(TICK_SECONDS, server.tick)
    app.timer(MEASURE_SECONDS, lambda: run.io_bound(server.sizes.measure))
    app.on_startup(lambda: print(f"The page is at {url_of(host, port)} (Ctrl-C ends it)", flush=True))

    @ui.page("/", title=TITLE, favicon=ICON, dark=None)
    async def index(name: str = Query("", alias="run")) -> None:
        await draw_page(server, name)

    _take_signals()
    with contextlib.suppress(KeyboardInterrupt):  # raised again once nobody is answered any more
        try:
            ui.run(
                host=host, port=port, show=False, reload=False, show_welcome_message=False, title=TITLE, favicon=ICON,
                reconnect_timeout=RECONNECT_SECONDS, timeout_graceful_shutdown=LAST_ANSWERS_SECONDS,
            )  # fmt: skip
        finally:  # not app.on_shutdown, which a second Ctrl-C skips
            server.close()


def _take_signals() -> None:
    """Every signal that would end the process ends the server in order; one that is ignored stays so (nohup).

    While it serves, uvicorn takes SIGINT and SIGTERM, and raises them again when it has ended.
    """

    def end(number: int, frame: FrameType | None) -> None:
        ignore_signals()  # the run is stopped next, whatever else comes
        raise KeyboardInterrupt

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)

    for number in SIGNALS:
        if number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        elif signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, terminate)


def _add_files(server: ServerState) -> None:
    """One address for each kind of file; the run is found by its name among the folders directly below the output."""

    def found(name: str) -> Job:
        job = server.find(name)
        if job is None:
            raise HTTPException(404, "no such run")
        return job

    def newest_of(pattern: str, name: str, kind: str) -> Response:
        file = outputs.newest(found(name).folder, pattern)
        if file is None:
            raise HTTPException(404, "not yet")
        return FileResponse(file.path, media_type=kind, headers=FRESH)

    @app.get("/runs/{name}/turntable.mp4")
    def turntable(name: str) -> Response:
        return newest_of(outputs.TURNTABLE, name, "video/mp4")

    @app.get("/runs/{name}/regions.png")
    def regions(name: str) -> Response:
        return newest_of(outputs.REGION_MAP, name, "image/png")

    @app.get("/runs/{name}/preview.png")
    def preview(name: str) -> Response:
        image = outputs.preview_png(found(name).folder)
        if image is None:
            raise HTTPException(404, "not yet")
        return Response(image, media_type="image/png", headers=FRESH)

    @app.get("/runs/{name}/thumb.png")
    def thumbnail(name: str) -> Response:
        image = outputs.thumbnail_png(found(name).folder)
        if image is None:
            raise HTTPException(404, "not yet")
        return Response(image, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/runs/{name}/config.yaml")
    def config(name: str) -> Response:
        return FileResponse(found(name).folder / "config.yaml", media_type="text/yaml", headers=FRESH)

    @app.get("/runs/{name}/view")
    def view(name: str) -> Response:
        headers = FRESH | {"Content-Security-Policy": VIEW_POLICY}
        return FileResponse(_exported(found(name), "html"), media_type="text/html", headers=headers)

    @app.get("/runs/{name}/scene.{format}")
    def scene(name: str, format: str, up: str = UP) -> Response:
        path = _exported(found(name), format, up)
        own = name + FLIPPED[up] + FILE_FORMATS[format].suffix
        return FileResponse(path, filename=own, media_type="application/octet-stream", headers=FRESH)


def _exported(job: Job, format: str, up: str = UP) -> Path:
    """The export that the page's button has made of the newest scene: a request of an address starts no work."""
    path = ready_export(job.folder, format, up)
    if path is None:
        raise HTTPException(404, "not made yet")
    return path
