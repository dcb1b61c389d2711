# SPDX-License-Identifier: Apache-2.0
"""The page of one tab: the form at the left, the run at the right, all runs below; one below the other on a phone."""

import json
from pathlib import Path
from urllib.parse import quote

from nicegui import ui

from apps.web.drafts import from_text, of_run, with_another_seed
from apps.web.fields import Request
from apps.web.form import KEPT_AS, Form
from apps.web.gallery import Actions, Gallery
from apps.web.job import Job
from apps.web.messages import in_page_words
from apps.web.run_panel import REFRESH_SECONDS, RunPanel
from apps.web.server_state import ServerState
from arguments.load import ConfigError

STYLE = Path(__file__).with_name("page.css")
ANSWER_SECONDS = 120.0
"""For a browser on a busy machine to say what it has kept."""
ON_BACK = (
    "addEventListener('popstate', () => "
    "emitEvent('run_of_the_address', new URLSearchParams(location.search).get('run') || ''))"
)
SCROLL = "if (innerWidth <= 900) document.getElementById('{}').scrollIntoView({{behavior: 'smooth'}})"


async def draw_page(server: ServerState, name: str) -> None:
    """Draws everything for a newly opened tab, once the browser has said what its form held. name: the run to show."""
    ui.colors(primary="#4f46e5")
    ui.add_css(STYLE)
    await ui.context.client.connected(ANSWER_SECONDS)
    kept = await ui.run_javascript(f"return localStorage.getItem('{KEPT_AS}')", timeout=ANSWER_SECONDS)
    if not ui.context.client.is_deleted:
        Page(server, from_text(kept), name)


class Page:
    """The parts of one tab, and what passes between them."""

    def __init__(self, server: ServerState, draft: Request, name: str) -> None:
        self.server = server
        with ui.element("main").classes("shell"):
            with ui.element("header").classes("top"):
                ui.html("CoGrad3D", sanitize=False, tag="h1")
                ui.label("A prompt goes in, a scene of 3D Gaussians comes out.").classes("quiet grow")
                ui.link("All runs", "#runs")
            with ui.element("div").classes("columns"):
                with ui.element("div").props("id=form"):
                    self.form = Form(server, self._started, draft)
                with ui.element("div").props("id=run").classes("stack"):
                    self.panel = RunPanel(server, name, self.use)
            actions = Actions(self.show, lambda: self.panel.job, self.use)
            self.gallery = Gallery(server, actions)
        self.address = name  # what the browser's says
        ui.on("run_of_the_address", lambda event: self._go_back(str(event.args)))
        ui.run_javascript(ON_BACK)
        ui.timer(REFRESH_SECONDS, lambda: self._name_the_run("replaceState"))

    def show(self, name: str) -> None:
        """Shows a run, as the browser's Back undoes; "": the current one."""
        self.panel.look_at(name)
        self.gallery.refresh()
        self._name_the_run("pushState")
        ui.run_javascript(SCROLL.format("run"))

    def _name_the_run(self, how: str) -> None:
        """The address names the run that is shown, once it has made something, for a reload and for others."""
        if self.panel.name != self.address:
            self.address = self.panel.name
            query = f"?run={quote(self.address)}" if self.address else ""
            ui.run_javascript(f"history.{how}(null, '', '/' + {json.dumps(query)})")

    def _go_back(self, name: str) -> None:
        """Shows the run that the address names since the browser's Back or Forward."""
        self.address = name
        self.panel.look_at(name)
        self.gallery.refresh()

    def use(self, job: Job, with_new_seed: bool = False) -> None:
        """Fills the form with a run's settings."""
        if job.is_gone:
            ui.notify(f"{job.name} has been deleted.", type="warning")
            return
        try:
            draft = of_run(job.folder)
        except (ConfigError, OSError) as error:
            problem = error.problems[0] if isinstance(error, ConfigError) else str(error)
            ui.notify(f"The settings of {job.name} cannot be used: {in_page_words(problem)}", type="warning")
            return
        self.form.fill(with_another_seed(draft) if with_new_seed else draft)
        ui.notify("The form has the settings of this run" + (", and another seed." if with_new_seed else "."))
        ui.run_javascript(SCROLL.format("form"))

    def _started(self) -> None:
        """Shows the run that has started, or the one that runs before it."""
        self.show("")
