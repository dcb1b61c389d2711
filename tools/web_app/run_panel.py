# SPDX-License-Identifier: Apache-2.0
"""The run on the page: progress, pictures, downloads. It shows the server's state, so every tab shows the same."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import run, ui

from tools.web_app import outputs
from tools.web_app.desk import Busy, Desk
from tools.web_app.job import MOVING, Job, State
from tools.web_app.progress import clock, curve

REFRESH_SECONDS = 1.0
TABS = {"live": "Live", "turntable": "Turntable", "3d": "3D view", "regions": "Region map"}
EMPTY = {
    "live": "What the run sees comes here: above its own pictures, below what the prior would have in their place.",
    "turntable": "A turntable comes with the first step, and anew five times over the run.",
    "3d": "The scene to turn by hand comes once the run has saved one.",
    "regions": "Where CoGrad has looked comes here; a run without CoGrad has no regions.",
}
FILES = (
    ("MP4", "The newest turntable video", "turntable.mp4"),
    ("config.yaml", "The settings: python train.py --opt config.yaml makes the same run", "config.yaml"),
)
"""Title, what it is, and the end of its address."""


class RunPanel:
    """Remembers which run this tab looks at (None: the one that goes on) and what of it is drawn."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.chosen: str | None = None
        self._drawn: object = None
        self._last: tuple[str, bool] | None = None
        self._draw()
        self.refresh()
        ui.timer(REFRESH_SECONDS, self.refresh)

    @property
    def job(self) -> Job | None:
        """The run that is shown."""
        return self.desk.find(self.chosen) if self.chosen else self.desk.current

    def look_at(self, name: str | None) -> None:
        """Shows a run by name, None: the one that goes on."""
        self.chosen = name
        self.refresh()

    def _draw(self) -> None:
        with ui.element("section").classes("card").props('aria-label="The run"') as self.card:
            self._draw_head()
            self._draw_stage()
        with ui.element("section").classes("card").props('aria-label="Downloads"') as self.take:
            ui.label("Take it away").classes("heading")
            self.downloads = ui.element("div").classes("downloads")
            self.export_told = ui.label().classes("quiet")
            self._draw_downloads()

    def _draw_head(self) -> None:
        with ui.element("div").classes("row"):
            self.title = ui.label().classes("heading").style("flex: 1; min-width: 160px")
            self.state = ui.label().classes("state").mark("state")
        self.bar = ui.linear_progress(0, show_value=False).props('rounded aria-label="Progress"')
        with ui.element("div").classes("facts"):
            self.facts = ui.label().mark("facts")
        self.curve = ui.html("", sanitize=False).classes("curve wide")
        self.told = ui.label().classes("bad").mark("told")
        with ui.element("div").classes("row") as self.buttons:
            self.stop = ui.button("Stop", icon="stop", on_click=self._stop).props("outline no-caps")
            self.go_on = ui.button("Go on", icon="play_arrow", on_click=self._go_on).props("outline no-caps")
        with ui.element("div").classes("row") as self.line:
            self.line_told = ui.label().classes("quiet").style("flex: 1")
            ui.button("Leave the line", on_click=self._leave).props("flat dense no-caps")

    def _draw_stage(self) -> None:
        with ui.tabs(on_change=self._fill_stage).props("dense align=left inline-label") as self.tabs:
            for name, title in TABS.items():
                ui.tab(name, label=title)
        self.stage = ui.element("div").classes("stage")
        self.caption = ui.label().classes("quiet")

    def _draw_downloads(self) -> None:
        with self.downloads:
            for name, about in outputs.formats().items():
                button = _button(name.upper(), about)
                button.on_click(lambda name=name, button=button: self._download(name, button))
            for title, about, file in FILES:
                _button(title, about).on_click(lambda file=file: self._fetch(file))

    def refresh(self) -> None:
        """Brings the page to where the run is."""
        job = self.job
        self._show_line()
        for element in (self.bar, self.state, self.tabs, self.facts, self.curve, self.caption):
            element.set_visibility(job is not None)
        self.take.set_visibility(job is not None and outputs.scene(job.folder) is not None)
        self.stop.set_visibility(job is not None and job.is_alive)
        self.go_on.set_visibility(job is not None and job.can_go_on)
        self.buttons.set_visibility(self.stop.visible or self.go_on.visible)
        if job is None:
            self.title.set_text("No run yet")
            self.told.set_visibility(False)
            self._put(None, lambda: ui.label("Type a prompt, choose a preset and press Start.").classes("empty"))
            return
        self._show_head(job)
        self._change_tab(job)
        self._fill_stage()

    def _show_head(self, job: Job) -> None:
        state, progress = job.state, job.progress()
        moves = state in MOVING
        self.title.set_text(job.prompt)
        self.state.set_text(state.value)
        self.state.classes(replace=f"state {'running' if moves else state.name.lower()}")
        self.bar.set_value(progress.step / progress.steps)
        waits = state is State.STARTING
        self.bar.props("indeterminate" if waits else "", remove="" if waits else "indeterminate")
        facts = [f"step {progress.step} of {progress.steps}"]
        if moves and progress.seconds_left is not None:
            facts.append(f"{clock(progress.seconds_left)} left")
        facts += [] if progress.loss is None else [f"loss {progress.loss:.4g}"]
        facts += [] if progress.points is None else [f"{progress.points:,} Gaussians"]
        self.facts.set_text(" · ".join([*facts, job.name]))
        self.curve.set_content(_svg(curve(job.log.losses)))
        told = job.told()
        self.told.set_text(told)
        self.told.set_visibility(bool(told))
        self.told.classes(replace="bad" if state is State.FAILED else "quiet")
        self.stop.set_text("Stop at once" if state is State.STOPPING else "Stop")

    def _show_line(self) -> None:
        waiting = self.desk.waiting
        self.line.set_visibility(waiting is not None)
        if waiting is not None:
            self.line_told.set_text(f"Waiting in line: {waiting.prompt}. It begins when the run before it has ended.")

    def _change_tab(self, job: Job) -> None:
        """A run that begins is watched live; one that has ended is turned."""
        now = job.name, job.state in MOVING
        if now != self._last:
            self._last = now
            self.tabs.set_value("live" if now[1] or outputs.turntable(job.folder) is None else "turntable")

    def _fill_stage(self) -> None:
        job, tab = self.job, str(self.tabs.value)
        if job is None or tab not in TABS:
            return
        found = _FIND[tab](job.folder)
        self.caption.set_text("" if found is None else f"{_CAPTIONS[tab]} Step {found.step}.")
        if found is None:
            self._put((job.name, tab), lambda: ui.label(EMPTY[tab]).classes("empty"))
            return
        source = f"/runs/{job.name}/{_FILES[tab]}?v={found.step}"
        self._put(source, lambda: self._picture(job, tab, source))

    def _put(self, what: object, draw: Callable[[], object]) -> None:
        """Draws the stage anew where what it shows has changed; a text is the address of a picture."""
        if self._drawn != what or not self.stage.default_slot.children:
            self._drawn = what
            self.stage.classes(replace="stage full" if isinstance(what, str) else "stage").clear()
            with self.stage:
                draw()

    def _picture(self, job: Job, tab: str, source: str) -> None:
        if tab == "turntable":
            ui.video(source, autoplay=True, muted=True, loop=True).props("playsinline")
        elif tab == "3d":
            ui.spinner(size="lg")
            ui.timer(0, lambda: self._turn(job, source), once=True)
        else:
            ui.element("img").props(f'src="{source}" alt="{TABS[tab]}"').classes("crisp")

    async def _turn(self, job: Job, source: str) -> None:
        """The 3D view, once its page is made; the page is that of the html export, and may do nothing but draw."""
        told = await self._made(job, "html")
        if self._drawn != source:
            return
        with self.stage.clear():
            if told:
                ui.label(told).classes("empty")
            else:
                ui.element("iframe").props(f'src="{source}" sandbox="allow-scripts" title="The scene, to turn by hand"')

    async def _made(self, job: Job, format: str) -> str:
        """Makes an export away from the page's own thread; why it cannot be made, or nothing."""
        try:
            await run.io_bound(outputs.exported, job.folder, format)
        except (ValueError, OSError, ImportError) as error:
            return str(error)
        return ""

    def _stop(self) -> None:
        if self.job is not None:
            self.job.stop()
            self.refresh()

    def _go_on(self) -> None:
        try:
            if self.job is not None:
                self.desk.go_on(self.job)
        except (Busy, OSError) as error:
            ui.notify(str(error), type="warning")
        self.refresh()

    def _leave(self) -> None:
        self.desk.leave()
        self.refresh()

    def _fetch(self, file: str) -> None:
        if self.job is not None:
            ui.download.from_url(f"/runs/{self.job.name}/{file}", f"{self.job.name}-{file}")

    async def _download(self, format: str, button: ui.button) -> None:
        """Hands an export over, once it is made."""
        job = self.job
        if job is None:
            return
        button.props("loading")
        told = await self._made(job, format)
        button.props(remove="loading")
        self.export_told.set_text(told)
        if not told:
            ui.download.from_url(f"/runs/{job.name}/scene.{format}", f"{job.name}.{format}")


_FIND = {"live": outputs.panel, "turntable": outputs.turntable, "3d": outputs.scene, "regions": outputs.region_map}
_FILES = {"live": "preview.png", "turntable": "turntable.mp4", "3d": "view", "regions": "regions.png"}
_CAPTIONS = {
    "live": "Above: what the training renders. Below: what the prior would have there.",
    "turntable": "Once round the object.",
    "3d": "The newest scene that was saved.",
    "regions": "Visits, convergence and timestep offsets of CoGrad's regions.",
}


def _button(title: str, about: str) -> ui.button:
    """A button with a title and a line below it."""
    with ui.button(color=None).props("flat no-caps") as button, ui.element("div"):
        ui.label(title).style("text-align: left; font-weight: 600")
        ui.label(about[:1].upper() + about[1:]).classes("about")
    return button


def _svg(points: list[tuple[int, float]]) -> str:
    """The loss as a line, on a scale of its own; nothing for less than three points. Numbers only."""
    if len(points) < 3:
        return ""
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    width, height = max(steps[-1] - steps[0], 1), max(max(losses) - min(losses), 1e-12)
    places = [(1000 * (x - steps[0]) / width, 42 - 40 * (y - min(losses)) / height) for x, y in points]
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    look = 'viewBox="0 0 1000 44" preserveAspectRatio="none" role="img" aria-label="loss"'
    return f'<svg {look}><path d="{path}"/></svg>'
