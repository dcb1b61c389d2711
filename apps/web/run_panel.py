# SPDX-License-Identifier: Apache-2.0
"""The run on the page: its state, how to stop it, its images and files. Every tab shows the server's state."""

from collections.abc import Callable

from nicegui import ui

from apps.web.clicks import on_press
from apps.web.downloads import Downloads
from apps.web.job import MAX_TITLE, MOVING, Job, State
from apps.web.messages import in_page_words
from apps.web.output_tabs import OutputTabs
from apps.web.progress import clock, curve
from apps.web.server_state import CannotStart, ServerState

REFRESH_SECONDS = 1.0
STOP, AT_ONCE = "Stop", "Stop at once"
"""What the button says: of a run that runs, and of one that is stopping after its step."""


class RunPanel:
    """The run that this tab shows: one that was chosen, or the server's current one."""

    def __init__(self, server: ServerState, chosen: str, use: Callable[[Job, bool], None]) -> None:
        """chosen: name of a run, "" for the current one. use: fills the form, with another seed or the same."""
        self.server, self.chosen, self.use = server, chosen, use
        self.shown: Job | None = None  # at the last refresh: what a pressed button is about
        with ui.element("section").classes("card").props('aria-label="The run"'):
            self._draw_head()
            self._draw_buttons()
            self.outputs = OutputTabs(server.exports)
        self.downloads = Downloads(server.exports)
        self.refresh()
        ui.timer(REFRESH_SECONDS, self.refresh)

    @property
    def job(self) -> Job | None:
        """The run that is shown."""
        return self.server.find(self.chosen) if self.chosen else self.server.current

    @property
    def name(self) -> str:
        """The name of the run that is shown, for the page's address; "" while it may leave nothing."""
        return self.job.name if self.job is not None and self.job.is_listed else ""

    def look_at(self, name: str) -> None:
        """Shows a run by name; "": the current one."""
        self.chosen = name
        self.refresh()

    def refresh(self) -> None:
        """Updates the page; a chosen run that has been deleted gives way to the current one, with a notice."""
        if self.chosen and self.job is None:
            ui.notify(f"The run {self.chosen[:MAX_TITLE]} is not there any more.", type="warning")
            self.chosen = ""
        self.shown = job = self.job
        for element in (self.bar, self.state, self.facts, self.curve):
            element.set_visibility(job is not None)
        self.title.set_text("No run yet" if job is None else job.label)
        is_bad = job is not None and job.state in (State.FAILED, State.UNREADABLE)
        self._show_outcome("" if job is None else in_page_words(job.outcome()), is_bad)
        self._show_buttons(job)
        if job is not None:
            self._show_progress(job)
        self.outputs.show(job)
        self.downloads.show(job)

    def _draw_head(self) -> None:
        with ui.element("div").classes("row"):
            self.title = ui.label().classes("heading").style("flex: 1; min-width: 160px")
            self.state = ui.label().classes("state").props("role=status")
        self.bar = ui.linear_progress(0, show_value=False).props('rounded aria-label="Progress"')
        self.facts = ui.label().classes("facts")
        self.curve = ui.html("", sanitize=False).classes("curve wide")
        self.outcome = ui.label()

    def _draw_buttons(self) -> None:
        with ui.element("div").classes("row") as self.buttons:
            self.stop = on_press(ui.button(STOP, icon="stop"), self._stop).props("outline no-caps")
            self.resume = on_press(ui.button("Resume", icon="play_arrow"), self._resume).props("outline no-caps")
            same = ui.button("Use these settings", icon="replay", on_click=lambda: self._use(False))
            other = ui.button("Same, another seed", icon="casino", on_click=lambda: self._use(True))
            for button in (same, other):
                button.props("flat no-caps")
        with ui.element("div").classes("row") as self.queue:
            self.queue_text = ui.label().classes("quiet").style("flex: 1")
            on_press(ui.button("Cancel"), self._cancel_queued).props("flat dense no-caps")

    def _show_progress(self, job: Job) -> None:
        state, progress = job.state, job.progress()
        self.state.set_text(state.value)
        self.state.classes(replace=f"state {'running' if state in MOVING else state.name.lower()}")
        starting = state is State.STARTING
        self.bar.set_value(progress.step / progress.steps)
        self.bar.props("indeterminate" if starting else "", remove="" if starting else "indeterminate")
        facts = [f"step {progress.step} of {progress.steps}"]
        if state in MOVING and progress.seconds_left is not None:
            facts.append(f"{clock(progress.seconds_left)} left")
        facts += [] if progress.loss is None else [f"loss {progress.loss:.4g}"]
        facts += [] if progress.points is None else [f"{progress.points:,} Gaussians"]
        self.facts.set_text(" · ".join([*facts, job.name]))
        self.curve.set_content(_svg(curve(job.log.losses)))

    def _show_outcome(self, text: str, is_bad: bool) -> None:
        self.outcome.set_text(text)
        self.outcome.set_visibility(bool(text))
        self.outcome.classes(replace="bad" if is_bad else "quiet")

    def _show_buttons(self, job: Job | None) -> None:
        self.stop.set_visibility(job is not None and job.is_alive)
        self.stop.set_text(AT_ONCE if job is not None and job.state is State.STOPPING else STOP)
        self.resume.set_visibility(job is not None and job.can_resume)
        self.buttons.set_visibility(job is not None and not job.unreadable and not job.is_gone)  # as a refused run is
        queued = self.server.queued
        self.queue.set_visibility(queued is not None)
        if queued is not None:
            running = self.server.running
            first = "the run before it" if running is None else running.name
            self.queue_text.set_text(f"Queued: {queued.prompt}. It starts when {first} has ended.")

    def _use(self, with_new_seed: bool) -> None:
        if self.job is not None:
            self.use(self.job, with_new_seed)

    def _stop(self, label: str) -> None:
        """Ends the run at once only where the button said so."""
        if self.shown is not None and AT_ONCE not in label:
            self.shown.stop()
        elif self.shown is not None and self.shown.state is State.STOPPING:
            self.shown.kill()
        self.refresh()

    def _resume(self, label: str) -> None:
        try:
            if self.shown is not None:
                self.server.resume(self.shown)
        except CannotStart as error:
            ui.notify(in_page_words(str(error)), type="warning")
        self.refresh()

    def _cancel_queued(self, label: str) -> None:
        self.server.cancel_queued()
        self.refresh()


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
