# SPDX-License-Identifier: Apache-2.0
"""The page of one tab: the form at the left, the run at the right; one below the other on a phone."""

from pathlib import Path

from nicegui import ui

from apps.web.form import Form
from apps.web.run_panel import RunPanel
from apps.web.server_state import ServerState

STYLE = Path(__file__).with_name("page.css")
CURRENT = ""


def draw_page(server: ServerState) -> None:
    """Draws everything for a newly opened tab."""
    ui.colors(primary="#4f46e5")
    ui.add_css(STYLE)
    with ui.element("main").classes("shell"):
        with ui.element("header").classes("top"):
            ui.html("CoGrad3D", sanitize=False, tag="h1")
            ui.label("A prompt goes in, a scene of 3D Gaussians comes out.").classes("quiet grow")
            history = ui.select({CURRENT: "Latest run"}, value=CURRENT, label="Show")
            history.props("outlined dense options-dense").style("min-width: 220px; max-width: 100%")
        with ui.element("div").classes("columns"):
            with ui.element("div"):
                Form(server, lambda: started())
            with ui.element("div").props("id=run").classes("stack"):
                panel = RunPanel(server)

    def offer() -> None:
        names = {CURRENT: "Latest run"} | {name: name for name in server.names()}
        if names != history.options:
            history.set_options(names, value=history.value if history.value in names else CURRENT)

    def started() -> None:
        """Shows the run that has started, or the one that runs before it."""
        offer()
        history.set_value(CURRENT)
        panel.look_at(None)
        ui.run_javascript("if (innerWidth <= 900) document.getElementById('run').scrollIntoView({behavior: 'smooth'})")

    history.on_value_change(lambda: panel.look_at(str(history.value) or None))
    history.on("popup-show", offer)
    offer()
