# SPDX-License-Identifier: Apache-2.0
"""Two runs side by side: their turntables, and the settings in which they differ."""

from collections.abc import Iterator
from pathlib import Path

from nicegui import ui

from apps.web import outputs
from apps.web.drafts import NOT_TAKEN, config_of
from apps.web.fields import PLAIN, PROMPT, SEED, fields
from apps.web.job import Job
from apps.web.messages import in_page_words
from arguments.load import ConfigError


def compare(first: Job, second: Job) -> None:
    """Opens a dialog with both."""
    with ui.dialog().props('maximized aria-label="Two runs"') as dialog, ui.card().classes("compare"):
        with ui.element("div").classes("row"):
            ui.label("Two runs side by side").classes("heading").style("flex: 1")
            ui.button(icon="close", on_click=dialog.close).props('flat dense aria-label="Close"')
        with ui.element("div").classes("pair"):
            for job in (first, second):
                with ui.element("div").classes("stack"):
                    ui.label(job.label).classes("heading")
                    ui.label(f"{job.state.value} · {job.name}").classes("quiet")
                    with ui.element("div").classes("outputs full"):
                        _draw(job)
        try:
            rows = list(dict.fromkeys(differences(first.folder, second.folder)))  # width and height are one size
        except ConfigError as error:
            ui.label(f"Their settings cannot be compared: {in_page_words(error.problems[0])}").classes("warn")
        else:
            _draw_rows(rows)
    dialog.on("hide", dialog.delete)
    dialog.open()


def differences(first: Path, second: Path) -> Iterator[tuple[str, str, str]]:
    """(name on the page, text of the first run, of the second) of each setting that differs. Raises ConfigError.

    Without those that the page sets, or asks for each time: NOT_TAKEN.
    """
    a, b = config_of(first), config_of(second)
    yield from (row for row in ((PLAIN[PROMPT], a.guidance.text, b.guidance.text),) if row[1] != row[2])
    yield from (row for row in ((PLAIN[SEED], str(a.seed), str(b.seed)),) if row[1] != row[2])
    for label, field in fields().items():
        if label not in NOT_TAKEN and field.text(a) != field.text(b):
            yield PLAIN.get(label, label), field.text(a), field.text(b)


def _draw(job: Job) -> None:
    turntable, panel = (outputs.newest(job.folder, pattern) for pattern in (outputs.TURNTABLE, outputs.PANEL))
    if turntable is not None:
        ui.video(job.address("turntable.mp4", turntable), autoplay=True, muted=True, loop=True)
    elif panel is not None:
        ui.element("img").props(f'src="{job.address("preview.png", panel)}" alt="Live"').classes("crisp")
    else:
        ui.label("No image yet.").classes("empty")


def _draw_rows(rows: list[tuple[str, str, str]]) -> None:
    if not rows:
        ui.label("All their settings are equal.").classes("quiet")
        return
    ui.label("Settings that differ").classes("heading")
    with ui.element("div").classes("rows"):
        for row in rows:
            for text in row:
                ui.label(text)
