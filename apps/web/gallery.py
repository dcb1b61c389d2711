# SPDX-License-Identifier: Apache-2.0
"""All runs with their thumbnails: to show, compare, rename and delete, and to take their settings from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nicegui import ui

from apps.web import outputs
from apps.web.clicks import on_press
from apps.web.compare import compare
from apps.web.job import MAX_TITLE, MOVING, Job
from apps.web.messages import in_page_words
from apps.web.server_state import CannotDelete, ServerState
from apps.web.sizes import size_in_words
from trainer.disk_use import total_bytes

REFRESH_SECONDS = 2.0
PAGE = 12
"""Runs that are shown at first, and more at each request."""


@dataclass(frozen=True)
class Actions:
    """What the rest of the page does for a run: shows it (by name), says which it shows, fills the form from it."""

    show: Callable[[str], None]
    shown: Callable[[], Job | None]
    use: Callable[[Job], None]


class Gallery:
    """Remembers how many runs this tab shows, and their cards."""

    def __init__(self, server: ServerState, actions: Actions) -> None:
        self.server, self.actions, self.most = server, actions, PAGE
        self.cards: dict[str, _Card] = {}
        with ui.element("section").classes("card").props('id=runs aria-label="Runs"') as self.section:
            with ui.element("div").classes("row"):
                ui.label("Runs").classes("heading")
                self.summary = ui.label().classes("quiet")
            self.grid = ui.element("div").classes("runs")
            self.more = ui.button("Show more", on_click=self._show_more).props("flat no-caps")
        self.refresh()
        ui.timer(REFRESH_SECONDS, self.refresh)

    def refresh(self) -> None:
        """Updates the cards, whose menus, dialogs and images stay when others are added or deleted."""
        jobs = self.server.jobs(self.most + 1)
        self.section.set_visibility(bool(jobs))
        self.more.set_visibility(len(jobs) > self.most)
        jobs = jobs[: self.most]
        if [job.name for job in jobs] != list(self.cards):
            self._arrange(jobs)
        shown = self.actions.shown()
        for job in jobs:
            self.cards[job.name].update(job, is_shown=shown is not None and shown.name == job.name)
        self.summary.set_text(_summary(self.server, jobs, self.more.visible))

    def _arrange(self, jobs: list[Job]) -> None:
        for name in self.cards.keys() - {job.name for job in jobs}:
            self.cards.pop(name).card.delete()
        with self.grid:
            self.cards = {job.name: self.cards.get(job.name) or _Card(self, job) for job in jobs}
        for place, card in enumerate(self.cards.values()):
            if self.grid.default_slot.children[place] is not card.card:
                card.card.move(target_index=place)

    def _show_more(self) -> None:
        self.most += PAGE
        self.refresh()

    def rename(self, job: Job) -> None:
        """Asks for a name of the run; the folder keeps its own."""

        def save() -> None:
            dialog.close()
            try:
                job.rename(title.value or "")
            except OSError as error:
                ui.notify(in_page_words(f"The name could not be saved ({error})."), type="warning")
            self.refresh()

        with self.section, _dialog("Rename the run") as dialog, ui.card():
            title = ui.input("Name", value=job.label).props(f"outlined dense maxlength={MAX_TITLE}").classes("wide")
            title.on("keydown.enter", save)
            ui.label(f"On this page only; its folder stays {job.name}. Empty: the prompt again.").classes("quiet")
            with ui.element("div").classes("row"):
                ui.button("Rename", on_click=save).props("no-caps")
                ui.button("Cancel", on_click=dialog.close).props("no-caps flat")
        dialog.open()

    def delete(self, job: Job) -> None:
        """Asks, with the space that it frees, and deletes the run."""

        def confirmed() -> None:
            dialog.close()
            try:
                ui.notify(f"{size_in_words(self.server.delete(job))} freed", type="positive")
            except CannotDelete as error:
                ui.notify(in_page_words(str(error)), type="warning")
            self.refresh()

        with self.section, _dialog("Delete the run") as dialog, ui.card():
            size = size_in_words(total_bytes(job.folder))
            ui.label(f'Delete "{job.label}" with its images, scenes and exports? This frees {size}.')
            ui.label(f"The folder {job.name} is removed from the disk; it cannot be restored.").classes("quiet")
            with ui.element("div").classes("row"):
                on_press(ui.button("Delete", color="negative"), lambda _: confirmed()).props("no-caps")
                ui.button("Keep", on_click=dialog.close).props("no-caps flat")
        dialog.open()

    def compare(self, job: Job) -> None:
        """Shows a run beside the one that the page shows."""
        shown = self.actions.shown()
        if shown is None or shown.name == job.name:
            ui.notify("Show another run first; this one is then compared with it.", type="info")
        elif job.is_gone:
            ui.notify(f"{job.name} has been deleted.", type="warning")
        else:
            with self.section:  # not in the card, which may go
                compare(shown, job)


class _Card:
    """One run: its thumbnail, which shows it, what it is, and a menu."""

    def __init__(self, gallery: Gallery, job: Job) -> None:
        self.gallery, self.job, self.thumbnail = gallery, job, ""
        actions = gallery.actions
        with ui.element("article").classes("run") as self.card:
            self.card.props["data-run"] = job.name
            with ui.element("button").classes("thumb").on("click", lambda: actions.show(job.name)) as self.button:
                self.image = ui.element("img").props('alt="" loading=lazy')
            self.title = ui.label().classes("title")
            self.facts = ui.label().classes("quiet")
            with ui.element("div").classes("row tight"):
                use = ui.button("Use these settings", on_click=lambda: actions.use(self.job))
                use.props("flat dense no-caps size=12px").set_enabled(not job.unreadable)
                with ui.button(icon="more_vert").props('flat dense size=sm aria-label="More"'), ui.menu():
                    ui.menu_item("Compare with the run shown", lambda: gallery.compare(self.job))
                    ui.menu_item("Rename", lambda: gallery.rename(self.job))
                    ui.menu_item("Delete", lambda: gallery.delete(self.job))

    def update(self, job: Job, is_shown: bool) -> None:
        """Shows how the run stands now."""
        self.job = job
        self.title.set_text(job.label)
        size = self.gallery.server.sizes.of(job.folder)
        facts = [job.state.value if job.unreadable else f"{job.state.value}, {job.log.steps} steps"]
        self.facts.set_text(" · ".join([*facts, *([] if size is None else [size_in_words(size)])]))
        self.card.classes(add="shown" if is_shown else "", remove="" if is_shown else "shown")
        if self.button.props.get("aria-label") != f"Show {job.label}":
            self.button.props["aria-label"] = f"Show {job.label}"
        found = outputs.newest_thumbnail(job.folder)
        address = "" if found is None else job.address("thumb.png", found)
        if address != self.thumbnail:
            self.thumbnail = address
            self.image.props(f'src="{address}"')
        self.image.set_visibility(bool(address))
        if job.state in MOVING:
            job.progress()


def _summary(server: ServerState, jobs: Iterable[Job], are_more: bool) -> str:
    sizes = [server.sizes.of(job.folder) for job in jobs]
    known = [size for size in sizes if size is not None]
    more = " and more" if are_more else ""
    return f"{len(sizes)}{more}" + (f", {size_in_words(sum(known))}" if known else "")


def _dialog(title: str) -> ui.dialog:
    """A dialog that is removed from the page when it is closed."""
    dialog = ui.dialog().props(f'aria-label="{title}"')
    dialog.on("hide", dialog.delete)
    return dialog
