# SPDX-License-Identifier: Apache-2.0
"""The images of a run, a tab for each: live views, turntable, 3D view, region map."""

from collections.abc import Callable
from dataclasses import dataclass

from nicegui import ui

from apps.web import outputs
from apps.web.exports import Exports, ready_export
from apps.web.job import MOVING, Job
from apps.web.messages import in_page_words


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
        "None yet; a run with save_video makes a turntable after its first step and renews it a few times.",
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


class OutputTabs:
    """Remembers the run that is shown, whether it moved, and what is drawn."""

    def __init__(self, exports: Exports) -> None:
        self.exports = exports
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
            self._put(None, lambda: _words("Type a prompt, choose a quality and press Start."))
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
        source = job.address(tab.file, found)
        if tab.file.endswith(".png"):
            self._show_image(job, tab, source)
        elif tab.file.endswith(".mp4"):
            self._put(source, lambda: ui.video(source, autoplay=True, muted=True, loop=True).props("playsinline"))
        else:
            self._show_scene(job, source)

    def _show_image(self, job: Job, tab: OutputTab, source: str) -> None:
        """One element for all images of a tab: a browser shows the one before until the next is loaded."""
        self._put((job.name, tab.file), lambda: ui.element("img").props(f'alt="{tab.title}"').classes("crisp"))
        (image,) = self.frame.default_slot.children
        if image.props.get("src") != source:
            image.props(f'src="{source}"')

    def _show_scene(self, job: Job, source: str) -> None:
        """The 3D view, once its page is made; it is that of the html export, and may do nothing but draw."""
        what = f'src="{source}" sandbox="allow-scripts" title="The scene, interactive"'
        if ready_export(job.folder, "html") is not None:
            self._put(source, lambda: ui.element("iframe").props(what))
            return
        problem = self.exports.problem(job.folder, "html")
        if problem:
            self._put(problem, lambda: _words(in_page_words(problem)))
            return
        self.exports.request(job.folder, "html")
        if not str(self._drawn).startswith(job.address(TABS["3d"].file)):  # an earlier one stays
            self._put((job.name, "making"), lambda: _words("The 3D view is being made: some seconds."))

    def _put(self, what: object, draw: Callable[[], object]) -> None:
        """Redraws where what is shown has changed; the text of an address, or a pair, names it."""
        if self._drawn != what or not self.frame.default_slot.children:
            self._drawn = what
            is_full = isinstance(what, str) and what.startswith("/")
            self.frame.classes(replace="outputs full" if is_full else "outputs").clear()
            with self.frame:
                draw()


def _words(text: str) -> None:
    """A sentence where an image would be."""
    ui.label(text).classes("empty")
