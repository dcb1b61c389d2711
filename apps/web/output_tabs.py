# SPDX-License-Identifier: Apache-2.0
"""The images of a run, a tab for each: live views, turntable, 3D view, region map. And its downloads."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from nicegui import run, ui

from apps.web import outputs
from apps.web.job import MOVING, Job

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputTab:
    """Title, pattern of the tab's files, the end of the file's address, text below it, text where there is none."""

    title: str
    pattern: str
    file: str
    caption: str
    empty: str


TABS = {
    "live": OutputTab(
        "Live",
        outputs.PANEL,
        "preview.png",
        "Above: rendered training views. Below: the prior's prediction for them.",
        "Training views appear here: above the rendered images, below the prior's prediction for them.",
    ),
    "turntable": OutputTab(
        "Turntable",
        outputs.TURNTABLE,
        "turntable.mp4",
        "One turn around the object.",
        "A turntable appears after the first step and is renewed a few times over the run.",
    ),
    "3d": OutputTab(
        "3D view",
        outputs.SCENE,
        "view",
        "The newest saved scene.",
        "The scene appears once the run has saved one.",
    ),
    "regions": OutputTab(
        "Region map",
        outputs.REGION_MAP,
        "regions.png",
        "Visits, convergence and timestep offsets of CoGrad's regions.",
        "CoGrad's regions appear here; a run without CoGrad has none.",
    ),
}
FILES = (
    ("MP4", "The newest turntable video", "turntable.mp4"),
    ("config.yaml", "All settings of the run; train.py --opt takes it", "config.yaml"),
)
"""Title, what it is, and the end of its address."""


class OutputTabs:
    """Remembers the run that is shown, whether it moved, and what is drawn."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self._last: tuple[str, bool] | None = None
        self._drawn: object = None
        with ui.tabs(on_change=self._fill).props("dense align=left inline-label") as self.tabs:
            for name, tab in TABS.items():
                ui.tab(name, label=tab.title)
        self.frame = ui.element("div").classes("outputs")
        self.caption = ui.label().classes("quiet")

    def show(self, job: Job | None) -> None:
        """Updates the tabs. A run that starts is shown live, one that has ended as its turntable."""
        self.job = job
        self.tabs.set_visibility(job is not None)
        self.caption.set_visibility(job is not None)
        if job is None:
            self._put(None, lambda: _words("Type a prompt, choose a preset and press Start."))
            return
        now = job.name, job.state in MOVING
        if now != self._last:
            self._last = now
            is_live = now[1] or outputs.newest(job.folder, outputs.TURNTABLE) is None
            self.tabs.set_value("live" if is_live else "turntable")
        self._fill()

    def _fill(self) -> None:
        job, tab = self.job, TABS.get(str(self.tabs.value))
        if job is None or tab is None:
            return
        found = outputs.newest(job.folder, tab.pattern)
        if found is None:
            self.caption.set_text("")
            self._put((job.name, tab), lambda: _words(tab.empty))
            return
        self.caption.set_text(f"{tab.caption} Step {found.step}.")
        source = f"/runs/{job.name}/{tab.file}?v={found.step}"
        self._put(source, lambda: self._draw_output(job, tab, source))

    def _put(self, what: object, draw: Callable[[], object]) -> None:
        """Redraws where what is shown has changed; a text is the address of an image."""
        if self._drawn != what or not self.frame.default_slot.children:
            self._drawn = what
            self.frame.classes(replace="outputs full" if isinstance(what, str) else "outputs").clear()
            with self.frame:
                draw()

    def _draw_output(self, job: Job, tab: OutputTab, source: str) -> None:
        if tab.file.endswith(".mp4"):
            ui.video(source, autoplay=True, muted=True, loop=True).props("playsinline")
        elif tab.file.endswith(".png"):
            ui.element("img").props(f'src="{source}" alt="{tab.title}"').classes("crisp")
        else:
            ui.spinner(size="lg")
            ui.timer(0, lambda: self._turn(job, source), once=True)

    async def _turn(self, job: Job, source: str) -> None:
        """The 3D view, once its page is made; it is that of the html export, and may do nothing but draw."""
        problem = await _made(job, "html")
        if self._drawn != source:
            return
        with self.frame.clear():
            if problem:
                _words(problem)
            else:
                ui.element("iframe").props(f'src="{source}" sandbox="allow-scripts" title="The scene, interactive"')


class Downloads:
    """Remembers the run whose files are offered."""

    def __init__(self) -> None:
        self.job: Job | None = None
        with ui.element("section").classes("card").props('aria-label="Downloads"') as self.card:
            ui.label("Downloads").classes("heading")
            with ui.element("div").classes("downloads"):
                for name, about in outputs.formats().items():
                    button = _button(name.upper(), about)
                    button.on_click(lambda name=name, button=button: self._export(name, button))
                for title, about, file in FILES:
                    _button(title, about).on_click(lambda file=file: self._fetch(file))
            self.problem = ui.label().classes("bad")

    def show(self, job: Job | None) -> None:
        """Offers the files of a run that has saved a scene."""
        self.job = job
        self.card.set_visibility(job is not None and outputs.newest(job.folder, outputs.SCENE) is not None)

    def _fetch(self, file: str) -> None:
        if self.job is not None:
            ui.download.from_url(f"/runs/{self.job.name}/{file}", f"{self.job.name}-{file}")

    async def _export(self, format: str, button: ui.button) -> None:
        """Downloads an export, once it is made."""
        job = self.job
        if job is None:
            return
        button.props("loading")
        problem = await _made(job, format)
        button.props(remove="loading")
        self.problem.set_text(problem)
        if not problem:
            ui.download.from_url(f"/runs/{job.name}/scene.{format}", f"{job.name}.{format}")


async def _made(job: Job, format: str) -> str:
    """Makes an export away from the server's own thread; why it cannot be made, or nothing."""
    try:
        await run.io_bound(outputs.exported, job.folder, format)
    except (ValueError, OSError, ImportError) as error:
        return str(error)
    except Exception as error:  # untrusted input: the page must stay usable
        logger.exception("the export of %s as %s failed", job.name, format)
        return f"The {format} export failed ({type(error).__name__}); the server's console has the details."
    return ""


def _words(text: str) -> None:
    """A sentence where an image would be."""
    ui.label(text).classes("empty")


def _button(title: str, about: str) -> ui.button:
    """A button with a title and a line below it."""
    with ui.button(color=None).props("flat no-caps") as button, ui.element("div"):
        ui.label(title).style("text-align: left; font-weight: 600")
        ui.label(about[:1].upper() + about[1:]).classes("about")
    return button
